"""`bench report`: two clients agree or do not, by runs; and an endpoint that takes a known time."""

import asyncio
import datetime as dt
import sys

import pytest

from bench import told
from bench.clients import judged as report_judged
from bench.clients.agreement import MAX_RUNS, Agreement, over_runs
from bench.clients.guide import UNCOUNTED, Figures, Load, figures
from bench.clients.metronome import FIRST_S, NUM_TOKENS
from bench.servers import Missing
from bench.stage import Broken
from bench.told import Told
from deploy.report.arms import Start
from deploy.report.probe import Probe, Question
from deploy.trust import pki
from wire.secured.tls import client_context


def test_an_interval_is_students():
    """Of 1 to 5: mean 3, and 2.776 standard errors of 0.707 on each side."""
    found = over_runs([1.0, 2.0, 3.0, 4.0, 5.0])

    assert (found.mean, round(found.low, 3), round(found.high, 3)) == (3.0, 1.037, 4.963)


@pytest.mark.parametrize("num", [0, 1, MAX_RUNS + 1])
def test_one_run_has_no_interval(num):
    """However many requests it had."""
    with pytest.raises(ValueError, match="takes 2 to 10 runs"):
        over_runs([1.0] * num)


def _runs(theirs_ms: float, *levels_ms: float) -> list[tuple[tuple[float, ...], tuple[float, ...]]]:
    """Runs whose level drifts, while guidellm is always `theirs_ms` above ours, give or take."""
    shakes = (0.2, -0.2, 0.1, -0.1, 0.0)
    return [
        ((level,) * 5, (level + theirs_ms + shake,) * 5)
        for level, shake in zip(levels_ms, shakes, strict=True)
    ]


def test_a_drift_of_the_machine_is_no_difference_between_clients():
    """Levels from 10 to 90 ms: each client's interval is wide, that of the difference is not, and 1 ms shows."""
    seen = Agreement.of(_runs(1.0, 10, 30, 90, 20, 50))

    assert seen.ours.high - seen.ours.low > 50
    assert seen.apart.holds(1.0)
    assert not seen.apart.holds(0.0)


def _seen(clock: tuple[float, ...], added_ms: float) -> Figures:
    """Requests of a client that adds so much to what the server took."""
    server = tuple(ms - added_ms for ms in clock)
    return Figures(clock, clock, Told(server, server, server))


def _measured(apart_ms: float, added_ms: float, num: int = 5) -> report_judged.Measured:
    """guidellm is `apart_ms` above ours, and adds `added_ms` more than ours does."""
    runs = _runs(apart_ms, 10, 30, 90, 20, 50)[:num]
    both = [
        report_judged.Round(_seen(a, 0.5), _seen(b, 0.5 + added_ms), _seen((a[0] - 1.5,), 0.5))
        for a, b in runs
    ]
    own = [report_judged.Round(*(Figures((ms,), (60.0,)) for ms in (10.5, 11.25, 10.5)))]
    return report_judged.Measured(both, own, Figures((20.0,), (90.0,)), 4.0)


@pytest.mark.parametrize(
    ("apart_ms", "added_ms", "num", "holds"),
    [(0.0, 0.0, 5, True), (1.0, 1.0, 5, True), (1.0, 0.0, 5, False), (30.0, 1.0, 5, False), (0.0, 0.0, 4, False)],
)  # fmt: skip
def test_what_agrees(apart_ms, added_ms, num, holds):
    """A difference is agreed to only where the clients add it; and four rounds are not the five that were asked."""
    rows, notes = report_judged.judged(_measured(apart_ms, added_ms, num), 5, 20)
    first, _, edge, node, adds = rows

    assert [row.holds for row in rows] == [holds, True, True, True, True]
    assert [row.target for row in rows] == [1.0, None, None, None, None]
    assert (first.ours, adds.ours) == (pytest.approx(edge.ours + 0.5), pytest.approx(0.5))
    assert (adds.peer, node.peer) == (pytest.approx(0.5 + added_ms), edge.peer)
    assert f"{num} of 5 rounds" in notes[0]
    assert "a new one takes 1.5 [1.5, 1.5] ms longer" in notes[3]
    assert "ours adds 0.50 ms, guidellm 1.25 ms" in notes[4]


def test_two_halves_of_a_run_are_one():
    whole = _seen((10.0,), 1.0).and_then(_seen((20.0, 30.0), 1.0))

    assert (whole.first_ms, whole.told.node_ms) == ((10.0, 20.0, 30.0), (9.0, 19.0, 29.0))


def _receipt(*hops: tuple[str, dict[str, float]]) -> dict[str, object]:
    return {"total_ms": 60.0, "hops": [{"hop": name, "phases": phases} for name, phases in hops]}


def test_a_receipt_says_what_was_before_the_first_byte():
    """At the edge all but the stream and what ends it, in the node all but what came after the first token."""
    edge = ("edge", {"read": 0.5, "route": 0.25, "first_byte": 9.25, "stream": 49.0, "finish": 1.0})
    node = ("node", {"queue": 1.0, "prefill": 6.0, "decode": 48.0})

    assert told.read([_receipt(edge, node)]) == Told((10.0,), (60.0,), (7.0,))
    with pytest.raises(Broken, match="lacks a hop"):
        told.read([_receipt(edge)])


def test_one_round_is_refused():
    """It has no interval."""
    with pytest.raises(Broken, match="1 rounds"):
        report_judged.judged(_measured(0.0, 0.0, 1), 5, 20)


def _guide(num: int, errored: int = 0) -> dict[str, object]:
    done = [
        {"request_start_time": 100.0 - at, "time_to_first_token_ms": float(at), "request_latency": at / 10}
        for at in range(num)
    ]
    return {"benchmarks": [{"requests": {"successful": done, "errored": [{}] * errored}}]}


def test_guidellms_first_requests_do_not_count():
    """Those that were sent first, in whatever order the file has them."""
    found = figures(_guide(UNCOUNTED + 3), 3)

    assert found.first_ms == (2.0, 1.0, 0.0)
    assert found.whole_ms == (200.0, 100.0, 0.0)
    assert found.pause_s == pytest.approx(0.85)  # 98.2 and 99.1 s are ends, 99 and 100 the next beginnings


@pytest.mark.parametrize("told", [_guide(UNCOUNTED + 2), _guide(UNCOUNTED + 3, errored=1)])
def test_a_request_of_guidellm_that_failed_ends_the_bench(told):
    """Too few, or one that went wrong."""
    with pytest.raises(Missing):
        figures(told, 3)


async def test_the_metronome_is_read_by_the_reports_client(tmp_path):
    """First token no sooner than it is written, and every token counted."""
    authority = pki.ensure(tmp_path / "tls", dt.datetime.now(dt.UTC))
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.clients.metronome", str(authority.cert), str(authority.key)),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        port = int(await child.stdout.readline()) if child.stdout else 0
        load = Load(f"https://localhost:{port}", "key", authority.ca, "m", tmp_path, "hi", NUM_TOKENS, 3)
        tls, question = client_context(load.ca), Question("m", "generate", "hi", NUM_TOKENS)
        async with Probe("iad", load.url, tls, load.key, question) as probe:
            samples = [await probe.ask(Start.WARM) for _ in range(3)]
    finally:
        child.terminate()
        await child.wait()

    assert all(1000 * FIRST_S <= (each.ttft_ms or 0) < 2000 for each in samples)
    assert [each.num_tokens for each in samples] == [NUM_TOKENS] * 3

"""A gateway's estimate of a start, how it is scored, and where both are shown: answers, /metrics, rows, the log."""

import asyncio
import json
import logging

import pytest

from regions.gateway.estimate import NUM_KEPT, Accuracy, Measured, Score, Starts, estimate
from regions.map.region import Tier
from regions.offer import ATTACH_S, HOST_BYTES_PER_S, ORIGIN_BYTES_PER_S, STORE_BYTES_PER_S, start_s
from tests.regions.fake_node import region, until
from wire.timing import parse_receipt, parse_server_timing

GB = 10**9
UNKNOWN = Measured(0.0, 0.0, 0.0, 0.0)
KNOWN = Measured(store_bytes_per_s=2e9, host_bytes_per_s=8e9, origin_bytes_per_s=1e8, attach_s=0.25)


@pytest.mark.parametrize(
    ("tier", "measured", "seconds"),
    [
        (Tier.RESIDENT, KNOWN, 0.0),
        (Tier.HOST, KNOWN, 0.25 + 1 / 8),
        (Tier.REGION, KNOWN, 0.25 + 1 / 2),
        (Tier.ORIGIN, KNOWN, 0.25 + 1 / 2 + 10),
        (Tier.HOST, UNKNOWN, ATTACH_S + GB / HOST_BYTES_PER_S),
        (Tier.REGION, UNKNOWN, ATTACH_S + GB / STORE_BYTES_PER_S),
        (Tier.ORIGIN, UNKNOWN, ATTACH_S + GB / STORE_BYTES_PER_S + GB / ORIGIN_BYTES_PER_S),
    ],
)
def test_an_estimate_is_bytes_over_measured_bandwidth_and_attach(tier, measured, seconds):
    assert start_s(tier, GB, measured) == pytest.approx(seconds)


def test_a_score_is_a_share_of_what_it_took_and_the_mean_follows_the_last():
    accuracy = Accuracy()
    assert accuracy.error is None
    assert [Score(*each).error for each in ((1.0, 2.0), (3.0, 2.0), (2.0, 2.0))] == [0.5, 0.5, 0.0]
    assert Score(0.5, 0.0).error == pytest.approx(499.0)
    for _ in range(30):
        accuracy.observe(Score(1.0, 2.0))
    assert accuracy.error == pytest.approx(0.5)
    accuracy.observe(Score(2.0, 2.0))

    assert 0.3 < accuracy.error < 0.5


async def figures(r):
    answer = await r.ask("/metrics", method="GET")
    assert answer.head.get("content-type").startswith("text/plain")
    lines = (await answer.read()).decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {series: float(value) for series, value in pairs}


def slow(fake, seconds):
    """A load that takes at least so long."""

    async def script(exchange):
        await asyncio.sleep(seconds)
        await fake.usual_load(exchange)

    fake.load_script = script


async def test_an_answer_that_waited_says_what_was_expected_and_what_it_took(caplog):
    """In Server-Timing, in a stream's receipt, in /metrics, in the row and in the log: the same two figures."""
    async with region() as r:
        slow(r.fakes[0], 0.4)
        with caplog.at_level(logging.INFO, "nearfield.regions"):
            head, _ = await r.answer()
        timing = parse_server_timing(head.get("server-timing"))
        told = await figures(r)
        error = r.wakes.figures.accuracy.error
        r.publisher.publish()
        row = r.publisher.row

    assert timing["eta.expected"] == pytest.approx(100.0, abs=0.1)  # 16 bytes, and the node's attach
    assert timing["eta.took"] >= 400.0
    assert timing["gateway.wake"] >= timing["eta.took"] * 0.5
    assert timing["eta.took"] >= told['nearfield_gateway_wake_seconds_sum{start="region"}'] * 1e3 - 1e-2
    assert error == pytest.approx(1 - timing["eta.expected"] / timing["eta.took"], abs=0.001)
    assert told["nearfield_gateway_eta_error_ratio"] == pytest.approx(error)
    assert row.eta_error == pytest.approx(error, abs=0.001)
    assert told['nearfield_gateway_wake_eta_error_ratio_sum{start="region"}'] == pytest.approx(error)
    assert told['nearfield_gateway_wakes_total{reason="request",outcome="resident"}'] == 1
    assert told['nearfield_gateway_wake_phase_seconds_sum{start="region",phase="fetch"}'] == 0.003
    assert told['nearfield_gateway_wake_bytes_total{source="region"}'] == 16
    assert told['nearfield_gateway_first_byte_seconds_count{start="region"}'] == 1
    assert told["nearfield_gateway_nodes"] == 1
    said = [each.getMessage() for each in caplog.records]
    woke = next(each for each in said if each.startswith("woke"))
    scored = next(each for each in said if each.startswith("first token of"))
    assert "request found it at region" in woke
    assert "first token expected after 100.0 ms" in woke
    assert f"after {timing['eta.took']:.1f} ms, expected 100.0 ms, off by" in scored


async def test_a_streams_receipt_has_the_estimate_and_a_warm_one_has_none():
    async with region() as r:
        _, body = await r.answer(stream=True)
        _, again = await r.answer(stream=True)
    receipts = [
        [
            each
            for line in text.split(b"\n")
            if (each := parse_receipt(line)) and each.get("hop") == "gateway"
        ][-1]
        for text in (body, again)
    ]

    assert receipts[0]["eta"]["expected_ms"] == pytest.approx(100.0, abs=0.1)
    assert receipts[0]["eta"]["took_ms"] > 0
    assert "eta" not in receipts[1]


async def test_a_waiting_stream_hears_the_estimate_while_a_step_knows_none():
    """A fork says no time of its own: the comment has what is left of the estimate, which counts down."""
    async with region() as r:
        fake = r.fakes[0]

        async def script(exchange):
            await exchange.start(200, (("content-type", "application/x-ndjson"),))
            await fake.line(exchange, phase="fork", percent=0)
            await fake.go.wait()
            fake.resident.add(r.revision.id)
            await fake.line(exchange, phase="ready", start="region", phases={}, bytes={})
            await exchange.finish()

        fake.load_script = script
        fake.go.clear()
        fake.status = lambda status=fake.status: status() | {"attach_s": 9.0}
        await r.watch.refresh()
        asked = asyncio.create_task(r.answer(stream=True))
        await until(lambda: [each for each in r.wakes.running.values() if each.progress.phase == "fork"])
        await asyncio.sleep(0.7)  # two ticks of comments
        fake.go.set()
        _, body = await asked
    comments = [json.loads(line[12:]) for line in body.split(b"\n") if line.startswith(b": nearfield {")]
    etas = [each["eta_s"] for each in comments if each.get("phase") == "fork"]

    assert etas
    assert all(0 < eta_s < 9.0 for eta_s in etas)


@pytest.mark.parametrize("code", ["engine_failed", "fork_failed"])
async def test_a_wake_that_fails_is_counted_and_not_scored(code):
    """An engine that was killed, or whose shell was, says nothing of the model: the client is to come back."""
    async with region() as r:

        async def script(exchange):
            await exchange.start(200, (("content-type", "application/x-ndjson"),))
            await r.fakes[0].line(exchange, phase="failed", code=code, message="no", next="look")
            await exchange.finish()

        r.fakes[0].load_script = script
        head, body = await r.answer()
        told = await figures(r)

    assert head.status == 503
    assert head.get("retry-after")
    assert b"acme/m could not be started: no. Look." in body
    assert told['nearfield_gateway_wakes_total{reason="request",outcome="failed"}'] == 1
    assert "nearfield_gateway_eta_error_ratio" not in told


async def test_a_prewarm_is_a_wake_of_its_own_reason():
    async with region() as r:
        await (await r.ask("/control/prewarm")).read()
        await until(lambda: not r.wakes.running)
        told = await figures(r)
        head, _ = await r.answer()

    assert r.fakes[0].loads[0]["reason"] == "prewarm"
    assert len(r.fakes[0].loads) == 1
    assert "eta.expected" not in parse_server_timing(head.get("server-timing"))
    assert told['nearfield_gateway_wakes_total{reason="prewarm",outcome="resident"}'] == 1
    assert told['nearfield_gateway_wake_seconds_count{start="region"}'] == 1


async def test_metrics_want_the_hop_token():
    async with region() as r:
        head, _ = await r.answer("/metrics", method="GET", token="no")

    assert head.status == 401


async def test_the_estimate_of_a_deployment_goes_by_its_tier_and_its_nodes():
    async with region() as r:
        at_region = estimate(r.deployments, r.deployment, Starts())
        r.deployment.in_region = False
        r.deployments.origin_bytes_per_s = 16.0
        at_origin = estimate(r.deployments, r.deployment, Starts())
        await r.resident()

        assert at_region.seconds == pytest.approx(0.1, abs=1e-6)
        assert at_origin.seconds == pytest.approx(1.1, abs=1e-6)
        assert estimate(r.deployments, r.deployment, Starts()).seconds == 0.0


async def test_starts_that_were_measured_say_what_the_next_of_this_revision_takes_beside_its_bytes():
    """From this tier, whatever others did; it follows bandwidth, and a start that went on beside its bytes too."""
    starts = Starts()
    async with region() as r:
        revision, found = r.deployment.live.id, estimate(r.deployments, r.deployment, Starts())
        for own_s in (2.0, 0.3, 0.3):
            starts.learn(revision, Tier.REGION, own_s)
        starts.learn(revision, Tier.HOST, 9.0)
        starts.learn("another", Tier.REGION, 9.0)
        known = estimate(r.deployments, r.deployment, starts)
        for _ in range(NUM_KEPT):
            starts.learn(revision, Tier.REGION, -1.0)
        beside = estimate(r.deployments, r.deployment, starts)

    assert known.bytes_s == found.bytes_s > 0
    assert known.seconds == pytest.approx(0.3 + found.bytes_s)
    assert beside.seconds == 0.0


@pytest.mark.parametrize("stream", [True, False])
async def test_the_score_is_of_the_first_token_and_the_next_estimate_has_learnt_from_it(stream):
    """The node is resident at once, but has its first token only when the bytes are there."""
    later_s = 0.5
    async with region() as r:
        usual = r.fakes[0].answer

        async def answers(exchange, question):
            if stream:
                await asyncio.sleep(later_s)
                return await usual(exchange, question)
            said = (
                ("server-timing", f"node;dur=900, node.weights;dur={later_s * 1e3}, node.decode;dur=300"),
            )
            return await exchange.respond(200, said, b"{}")

        r.fakes[0].answer = answers
        await r.answer(stream=stream)
        told = await figures(r)
        r.fakes[0].resident.clear()
        await r.watch.refresh()
        found = estimate(r.deployments, r.deployment, r.wakes.starts)

    resident_s = told['nearfield_gateway_wake_seconds_sum{start="region"}']
    least_s = resident_s + later_s
    assert told['nearfield_gateway_wake_eta_error_ratio_sum{start="region"}'] == pytest.approx(
        1 - 0.1 / found.seconds, abs=0.001
    )
    assert found.seconds >= least_s - 1e-3
    assert stream or found.seconds == pytest.approx(least_s, abs=1e-3)

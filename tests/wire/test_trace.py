"""Traces: W3C's headers, which requests are recorded, and what a collector gets whatever becomes of it."""

import asyncio
import random
from itertools import pairwise

import pytest

from tests.wire.otlp import Collector, children
from wire.figures.metrics import Metrics
from wire.http.heads import RequestHead
from wire.timing import Phases
from wire.trace import export
from wire.trace.context import Context, begun, context_of, passed_on, read
from wire.trace.export import MAX_QUEUED, Exporter, Tracing, add_trace_figures, traced
from wire.trace.span import laid
from wire.trace.tracer import Trace, Tracer

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


def head(*headers):
    return RequestHead(
        "POST", "/v1/completions", "", 1, headers, None, chunked=False, expect_continue=False, keep_alive=True
    )


@pytest.mark.parametrize(
    ("said", "flags"),
    [
        (PARENT, 1),
        (f"00-{TRACE}-{SPAN}-00", 0),
        (f"00-{TRACE}-{SPAN}-03", 3),
        (f"00-{TRACE}-{SPAN}-ff", 3),  # flags that nobody knows are not passed on
        (f"01-{TRACE}-{SPAN}-01", 1),
        (f"cc-{TRACE}-{SPAN}-01-what the future brings", 1),
    ],
)
def test_what_holds_to_the_form_is_believed_and_told_in_our_version(said, flags):
    found = read(said)

    assert found == Context(TRACE, SPAN, flags)
    assert found.headers() == (("traceparent", f"00-{TRACE}-{SPAN}-0{flags}"),)


@pytest.mark.parametrize(
    "said",
    [
        "",
        "00",
        PARENT.upper(),
        PARENT + "-more",
        PARENT + " ",
        f"ff-{TRACE}-{SPAN}-01",
        f"cc-{TRACE}-{SPAN}-01.what",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-0g",
        f"0-{TRACE}-{SPAN}-01",
    ],
)
def test_what_does_not_is_none_and_its_state_goes_with_it(said):
    assert read(said) is None
    assert passed_on(head(("traceparent", said), ("tracestate", "a=1"))) == ()


def test_two_parents_are_none():
    assert context_of(head(("traceparent", PARENT), ("traceparent", PARENT))) is None


def test_a_request_without_one_passes_on_nothing():
    assert passed_on(head(("tracestate", "a=1"))) == ()


@pytest.mark.parametrize(
    ("said", "passed"),
    [
        (("a=1",), "a=1"),
        (("a=1,b@v=2", "c/d=x y"), "a=1,b@v=2,c/d=x y"),
        (("a=1, ,\tb=2 ",), "a=1,b=2"),
        (("A=1",), ""),
        (("a=1,b",), ""),
        (("a=1=2",), ""),
        (("a=" + "x" * 600,), ""),
        ((",".join(f"k{n}=1" for n in range(33)),), ""),
    ],
)
def test_state_is_passed_on_as_it_came_or_not_at_all(said, passed):
    told = passed_on(head(("traceparent", PARENT), *(("tracestate", each) for each in said)))

    assert dict(told).get("tracestate", "") == passed
    assert dict(told)["traceparent"] == PARENT


def test_ids_of_ours_are_random_and_say_so():
    found = [begun(sampled=True) for _ in range(200)]

    assert len({each.trace_id for each in found}) == len({each.span_id for each in found}) == 200
    assert all(read(dict(each.headers())["traceparent"]) == each for each in found)
    assert all(each.flags == 3 for each in found)


# which ---------------------------------------------------------------------------------------------------------


def tracer(share=0.0, per_s=1e9, **options):
    told = []
    return told, Tracer(told.append, share, per_s, **options)


def test_the_sampled_flag_decides_where_there_is_one():
    _, made = tracer(share=1.0)
    sampled = made.begin(head(("traceparent", PARENT), ("tracestate", "a=1")), 0.0)
    not_sampled = made.begin(head(("traceparent", PARENT[:-1] + "0")), 0.0)

    assert not_sampled is None
    assert sampled.context.trace_id == TRACE
    assert sampled.context.span_id != SPAN
    assert sampled.context.is_sampled
    assert sampled.context.state == "a=1"


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 1.0])
def test_of_the_others_a_share_is_drawn(share):
    """In 20,000 requests five standard deviations are left to chance, and the draws are independent."""
    number, chance = 20_000, random.Random(7)
    _, made = tracer(share, draw=chance.random)
    drawn = [made.begin(head(), 0.0) is not None for _ in range(number)]

    spread = 5 * (number * share * (1 - share)) ** 0.5
    assert abs(sum(drawn) - number * share) <= spread
    pairs = sum(a and b for a, b in pairwise(drawn))
    assert abs(pairs - number * share**2) <= 5 * (number * share**2) ** 0.5


def test_a_lane_skips_what_is_not_drawn_and_leaves_the_next_to_the_door():
    _, made = tracer(0.3, draw=iter([0.9, 0.5, 0.9]).__next__)  # 6, 1 and 6 requests between
    skipped = [made.skips() for _ in range(8)]

    assert skipped == [True] * 6 + [False] * 2, "it is due until it is taken"
    assert made.begin(head(), 0.0) is not None
    assert [made.skips(), made.skips()] == [True, False]


def test_what_is_drawn_beyond_the_bound_goes_the_short_way_too():
    now = [0.0]
    _, made = tracer(share=1.0, per_s=5.0, now=lambda: now[0])

    begun = [made.begin(head(), 0.0) for _ in range(12) if not made.skips()]
    assert [each.records for each in begun] == [True] * 10
    assert all(made.skips() for _ in range(100))
    assert made.begin(head(), 0.0) is None
    now[0] = 0.2
    assert not made.skips()
    assert made.begin(head(), 0.0).records
    assert made.skips()


def test_a_flood_of_sampled_requests_is_recorded_within_its_bound_and_tells_on_that_it_is_not():
    now = [0.0]
    told, made = tracer(per_s=5.0, now=lambda: now[0])
    found = [made.begin(head(("traceparent", PARENT)), 0.0) for _ in range(1000)]
    for each in found:
        each.end("x", None)
        each.tell()

    assert len(told) == 10
    assert [each.context.is_sampled for each in found].count(True) == 10
    assert found[-1].headers()[0][1].endswith("-00")
    now[0] = 1.0
    assert [made.below(read(PARENT), 0.0).records for _ in range(6)] == [True] * 5 + [False]


def test_behind_the_first_hop_nothing_begins():
    _, made = tracer(share=1.0)

    assert made.below(None, 0.0) is None
    assert made.below(read(PARENT[:-1] + "0"), 0.0) is None


# spans ---------------------------------------------------------------------------------------------------------


def test_phases_lie_one_behind_the_other_in_the_order_of_what_happened():
    phases = {"read": 1.0, "first_byte": 4.0, "connect": 2.0, "stream": 0.5}
    found = list(laid(phases, 1_000_000))

    assert [name for name, _, _ in found] == ["read", "connect", "first_byte", "stream"]
    assert found[0] == ("read", 1_000_000, 2_000_000)
    assert all(end == begin for (_, _, end), (_, begin, _) in pairwise(found))
    assert found[-1][2] == 8_500_000


def test_a_hop_is_its_span_and_one_for_each_phase():
    told = []
    phases = Phases("edge", now=iter([0.0, 0.25, 0.75, 1.0]).__next__)
    made = Trace(read(PARENT), 0.0, told.append, records=True)
    phases.mark("read")
    phases.mark("stream")
    made.end("POST /x", phases)
    made.tell()
    own, first, second = told[0]

    assert (own.trace_id, own.parent_id) == (TRACE, SPAN)
    assert [each.parent_id for each in (first, second)] == [own.span_id] * 2
    assert [(each.name, each.end_ns - each.begin_ns) for each in (first, second)] == [
        ("edge.read", 250_000_000),
        ("edge.stream", 500_000_000),
    ]
    assert own.begin_ns <= first.begin_ns
    assert own.end_ns >= second.end_ns


# the collector -------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(export, "GATHER_S", 0.01)
    monkeypatch.setattr(export, "PAUSES_S", (0.01, 0.01))


def one_trace(number=1):
    told = []
    made = Trace(read(PARENT), 0.0, told.append, records=True)
    made.values["n"] = number
    made.values |= {"on": True, "share": 0.5, "text": 'a "b" ü'}
    made.error = "broken"
    made.end("POST /x", None)
    made.tell()
    return told[0]


def outcomes(metrics):
    lines = [
        line
        for line in metrics.page().decode().splitlines()
        if line.startswith("nearfield_trace_spans_total{")
    ]
    return {line.split('"')[1]: int(line.rsplit(" ", 1)[1]) for line in lines}


async def counted(metrics, **wanted):
    async with asyncio.timeout(30):
        while outcomes(metrics) != wanted:  # noqa: ASYNC110 - the exporter says nothing to anybody
            await asyncio.sleep(0.01)


async def test_a_collector_gets_what_was_told():
    metrics = Metrics()
    with Collector() as collector:
        where = Tracing("127.0.0.1", collector.port, headers=(("authorization", "Basic abc"),), share=1.0)
        async with traced(where, "edge", "pop1", metrics) as made:
            found = made.begin(head(), 0.0)
            found.values |= one_trace()[0].values
            found.error = "broken"
            found.end("POST /x", None)
            found.tell()
            await counted(metrics, sent=1)
        (span,) = collector.of(found.context.trace_id)

    assert (span.service, span.instance, span.name, span.kind) == (
        "nearfield-edge",
        "pop1",
        "POST /x",
        "server",
    )
    assert span.parent == ""
    assert span.values == {"n": 1, "on": True, "share": 0.5, "text": 'a "b" ü', "error.type": "broken"}
    assert span.is_error
    assert collector.headers[0]["authorization"] == "Basic abc"
    assert collector.headers[0]["content-type"] == "application/json"


async def test_nothing_is_told_where_nobody_listens_for_it():
    async with traced(None, "edge", "pop1", Metrics()) as made:
        assert made is None


async def test_a_busy_collector_is_asked_again_and_gets_each_span_once():
    metrics = Metrics()
    with Collector(lambda number: (503, b"") if number < 3 else None) as collector:
        async with traced(Tracing("127.0.0.1", collector.port), "node", "n", metrics) as made:
            made._tell(one_trace())
            await counted(metrics, sent=1)
        assert len(collector.of(TRACE)) == 1
        assert collector.num_asked == 3


@pytest.mark.parametrize(("status", "times"), [(400, 1), (401, 1), (503, 3)])
async def test_one_that_refuses_costs_the_spans_and_is_not_asked_for_ever(status, times, caplog):
    metrics = Metrics()
    with Collector(lambda _number: (status, b"no")) as collector:
        async with traced(Tracing("127.0.0.1", collector.port), "node", "n", metrics) as made:
            for number in (1, 2):
                made._tell(one_trace())
                await counted(metrics, failed=number)
        assert collector.num_asked == times * 2
    assert len([each for each in caplog.records if each.name == "nearfield.trace"]) == 1, "said once"


async def test_one_that_takes_a_part_is_believed():
    metrics = Metrics()
    said = b'{"partialSuccess": {"rejectedSpans": "2", "errorMessage": "too many"}}'
    with Collector(lambda _number: (200, said)) as collector:
        async with traced(Tracing("127.0.0.1", collector.port), "node", "n", metrics) as made:
            made._tell([*one_trace(), *one_trace(), *one_trace()])
            await counted(metrics, sent=1, rejected=2)


async def test_one_that_is_not_there_costs_spans_and_time_of_nobody():
    """More than the queue holds is dropped at once and counted; the end of the role does not wait for long."""
    metrics = Metrics()
    with Collector() as collector:
        port = collector.port
    exporter = Exporter(Tracing("127.0.0.1", port), {}, add_trace_figures(metrics))
    for _ in range(MAX_QUEUED + 50):
        exporter.tell(one_trace())
    assert (exporter.num_queued, outcomes(metrics)) == (MAX_QUEUED, {"dropped": 50})
    await exporter.close(asyncio.create_task(exporter.run()))

    assert sum(outcomes(metrics).values()) == MAX_QUEUED + 50
    assert "sent" not in outcomes(metrics)


async def test_what_is_left_at_the_end_is_sent():
    metrics = Metrics()
    with Collector() as collector:
        async with traced(Tracing("127.0.0.1", collector.port), "node", "n", metrics) as made:
            for _ in range(600):
                made._tell(one_trace())
        assert len(collector.of(TRACE)) == 600
        assert len(collector.bodies) == 3, "batch by batch"
        assert len(children(collector.seen)[SPAN]) == 600
    assert outcomes(metrics) == {"sent": 600}

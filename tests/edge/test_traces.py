"""Traces at the edge: passed on whoever records them, begun for a share, and lanes for all that is not recorded."""

import pytest

from edge.relay import lane, passing
from tests.edge.test_replay import two
from tests.edge.world import BODY, answers, cuts
from tests.wire.otlp import Collector
from wire.trace import export
from wire.trace.export import Tracing

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAID = (("traceparent", f"00-{TRACE}-{SPAN}-01"), ("tracestate", "a=1"))
UNSAMPLED = (("traceparent", f"00-{TRACE}-{SPAN}-00"),)


@pytest.fixture
def collector(monkeypatch):
    monkeypatch.setattr(export, "GATHER_S", 0.01)
    with Collector() as made:
        yield made


@pytest.fixture
def taken(monkeypatch):
    """Every request that a lane sent."""
    found = []

    class Watched(passing.Passing):
        def go(self, *arguments):
            found.append(self)
            super().go(*arguments)

    monkeypatch.setattr(lane, "Passing", Watched)
    return found


def to(collector, share=0.0, **more):
    return Tracing("127.0.0.1", collector.port, share=share, **more)


def told(region):
    """What the region heard of traces, request by request."""
    return [{name: head.get(name) for name, _ in SAID} for head, _ in region.requests]


async def spans(world, collector, number):
    """All that the collector has of `number` requests, once the edge's end has sent the rest."""
    await world.stop_edge()
    assert not collector.faults
    assert [span.kind for span in collector.seen].count("server") == number
    return collector.seen


async def test_an_edge_that_records_nothing_passes_a_trace_on_as_it_came(world, taken):
    edge, near, _ = await two(world, answers)
    for _ in range(2):
        await edge.ask(headers=SAID)
    await edge.ask(headers=(("traceparent", "00-nonsense"), ("tracestate", "a=1")))
    await edge.ask()

    assert told(near) == [dict(SAID), dict(SAID), *[dict.fromkeys(dict(SAID))] * 2]
    assert len(taken) == 1, "the same head again, trace and all, went the short way"


async def test_what_is_sampled_is_recorded_and_the_region_told_of_the_try(world, collector, taken):
    edge, near, _ = await two(world, answers, tracing=to(collector))
    for _ in range(2):
        await edge.ask(headers=SAID)
    heard = told(near)
    found = await spans(edge, collector, 2)
    tries = [span for span in found if span.kind == "client"]

    assert taken == []
    assert [each["traceparent"] for each in heard] == [f"00-{TRACE}-{span.id}-01" for span in tries]
    assert [each["tracestate"] for each in heard] == ["a=1"] * 2
    assert {span.trace for span in found} == {TRACE}
    assert [span.parent for span in found if span.kind == "server"] == [SPAN] * 2
    assert {span.name for span in found} == {
        *("POST /v1/chat/completions", f"ask {near.name}"),
        *(f"edge.{phase}" for phase in ("read", "route", "send", "first_byte", "stream")),
    }


async def test_what_is_not_sampled_goes_the_short_way_and_its_trace_with_it(world, collector, taken):
    edge, near, _ = await two(world, answers, tracing=to(collector, 1.0))
    for _ in range(3):
        await edge.ask(headers=UNSAMPLED)
    heard = told(near)
    await spans(edge, collector, 1)  # the one request that came before, to know which region is near

    assert len(taken) == 2
    assert [each["traceparent"] for each in heard] == [UNSAMPLED[0][1]] * 3


async def test_one_in_so_many_begins_a_trace_and_the_others_keep_the_short_way(
    world, collector, taken, monkeypatch
):
    """Two before the first, then three between: of nine with the one of `two`, the third and the seventh."""
    draws = iter([2, 3, 99])
    monkeypatch.setattr("wire.trace.tracer.Tracer._drawn", lambda _self: next(draws))
    edge, near, _ = await two(world, answers, tracing=to(collector, 0.3))
    for _ in range(8):
        await edge.ask()
    heard = [each["traceparent"] for each in told(near)]
    found = await spans(edge, collector, 2)
    roots = [span for span in found if span.kind == "server"]

    assert [at for at, each in enumerate(heard, start=1) if each] == [2, 6]
    assert [each.split("-")[1] for each in heard if each] == [span.trace for span in roots]
    assert [span.parent for span in roots] == ["", ""]
    assert len(taken) == 6, "all but those that are recorded"


async def test_each_region_that_was_asked_is_a_span_with_what_became_of_it(world, collector):
    edge, near, far = await two(world, cuts, answers, tracing=to(collector))
    status, _, _ = await edge.ask(headers=SAID)
    found = await spans(edge, collector, 1)
    first, second = [span for span in found if span.kind == "client"]

    assert status == 200
    assert (first.values["nearfield.region"], second.values["nearfield.region"]) == (near.name, far.name)
    assert (first.is_error, first.values["error.type"], second.is_error) == (True, "head", False)
    assert first.end <= second.begin
    assert far.requests[-1][0].get("traceparent") == f"00-{TRACE}-{second.id}-01"


async def test_beyond_its_bound_nothing_is_recorded_and_the_regions_are_told_so(world, collector):
    edge, near, _ = await two(world, answers, tracing=to(collector, per_s=0.5))
    for _ in range(3):
        await edge.ask(body=BODY, headers=SAID)
    heard = [each["traceparent"][-2:] for each in told(near)]
    await spans(edge, collector, 1)

    assert heard == ["01", "00", "00"]


async def test_a_collector_that_is_gone_hurts_no_request(world, taken):
    with Collector() as gone:
        where = to(gone, 1.0)
    edge, near, _ = await two(world, answers, tracing=where)
    for _ in range(20):
        status, _, _ = await edge.ask(headers=SAID)
        assert status == 200

    assert len(near.requests) == 20

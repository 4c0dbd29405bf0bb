"""Phases: exclusive, in order, and never a lie about what is missing."""

import random
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.report.arms import Start
from deploy.report.page.waterfall import spans_of
from deploy.report.phases import (
    KNOWN,
    UNATTRIBUTED,
    Family,
    Hop,
    first_token,
    hop_of,
    hops_of_timing,
    in_order,
    shown,
    whole,
)
from tests.deploy.report_samples import receipts
from wire.timing import Phases, parse_server_timing

EDGE = Hop("edge", 100.0, {"read": 1.0, "route": 2.0, "connect": 1.0, "first_byte": 50.0, "stream": 45.0})
GATEWAY = Hop("gateway", 90.0, {"pick": 1.0, "wake": 40.0, "first_byte": 9.0, "stream": 39.0})
NODE = Hop("node", 45.0, {"template": 1.0, "prefill": 4.0, "decode": 38.0}, {"fork": 10.0, "fetch": 20.0})


def test_a_worked_example():
    """Each network share is upstream wall minus the next hop's total; the wake is told by its parts."""
    made = whole([EDGE, GATEWAY, NODE], 104.0)

    assert made.phases_ms == {
        "net.client": 4.0,
        "edge.read": 1.0,
        "edge.route": 2.0,
        "edge.connect": 1.0,  # measured by who connects, so no part of the way
        "net.region": 5.0,  # 50 + 45 - 90
        "gateway.pick": 1.0,
        "gateway.wake": 10.0,  # what fork and fetch leave of 40
        "start.fork": 10.0,
        "start.fetch": 20.0,
        "net.node": 3.0,  # 9 + 39 - 45
        "node.template": 1.0,
        "node.prefill": 4.0,
        "node.decode": 38.0,
        UNATTRIBUTED: 4.0,  # 1 of the edge, 1 of the gateway, 2 of the node
    }
    assert sum(made.phases_ms.values()) == 104.0
    assert list(made.phases_ms) == in_order(made.phases_ms)
    assert made.unattributed_share == pytest.approx(4 / 104)
    assert not made.holds  # 2 % is the most
    assert whole([EDGE, GATEWAY, NODE], 104.0).after(150.0).holds


def test_before_the_first_token_there_is_no_decode():
    """The first token's phases are the same without decode, against the client's own clock."""
    made = first_token([EDGE, GATEWAY, replace(NODE, first_ms=6.0)], 58.0)

    assert made.phases_ms == {
        "net.client": 4.0,  # 58 - (1 + 2 + 1 + 50)
        "edge.read": 1.0,
        "edge.route": 2.0,
        "edge.connect": 1.0,
        "gateway.pick": 1.0,
        "gateway.wake": 10.0,
        "start.fork": 10.0,
        "start.fetch": 20.0,
        "net.node": 3.0,  # 9 - 6
        "node.template": 1.0,
        "node.prefill": 4.0,
        UNATTRIBUTED: 1.0,  # of the node's 6
    }


def test_without_receipts_all_is_unattributed():
    """A platform that says nothing is not believed."""
    made = whole([], 50.0)

    assert made.phases_ms == {UNATTRIBUTED: 50.0}
    assert not made.holds


def test_hops_that_claim_too_much_are_shown():
    """A hop that claims more than the client saw makes the rest negative; no phase is made up to fit."""
    made = whole([Hop("edge", 120.0, {"read": 110.0})], 100.0)

    assert made.phases_ms == {"edge.read": 110.0, UNATTRIBUTED: -10.0}
    assert not made.holds


def test_overlapping_parts_of_a_wake_are_scaled_and_said():
    """Parts that ran at once cannot sum to more than the wake that they are parts of."""
    made = whole([Hop("gateway", 40.0, {"wake": 40.0}, {"fetch": 40.0, "attach": 40.0})], 40.0)

    assert made.phases_ms == {"start.fetch": 20.0, "start.attach": 20.0, UNATTRIBUTED: 0.0}
    assert made.scaled


def test_what_the_gateway_pulled_is_part_of_the_wake():
    """The gateway's account of a wake goes before the node's, which began later."""
    gateway = Hop("gateway", 50.0, {"wake": 50.0}, {"pull": 30.0, "fork": 10.0})
    made = whole([Hop("node", 0.0, {}, {"fork": 10.0}), gateway], 50.0)

    assert made.phases_ms == {"start.pull": 30.0, "start.fork": 10.0, "gateway.wake": 10.0, UNATTRIBUTED: 0.0}


def test_a_wait_for_bytes_inside_the_node_counts_once():
    """Layers that had not landed yet are part of the node's own total."""
    made = whole([Hop("node", 10.0, {"prefill": 6.0, "start.fetch": 4.0})], 10.0)

    assert made.phases_ms == {"start.fetch": 4.0, "node.prefill": 6.0, UNATTRIBUTED: 0.0}


@pytest.mark.parametrize(
    "receipt",
    [
        {},
        {"hop": "moon", "total_ms": 1.0, "phases": {}},
        {"hop": "edge"},
        {"hop": "edge", "total_ms": "1"},
        {"hop": "edge", "total_ms": -1.0},
        {"hop": "edge", "total_ms": float("nan")},
        {"hop": "edge", "total_ms": True},
        {"hop": ["edge"], "total_ms": 1.0},
    ],
)
def test_what_is_not_a_receipt(receipt):
    """Receipts come over the wire: anything else is none."""
    assert hop_of(receipt) is None


def test_odd_figures_in_a_receipt_are_left_out():
    """One bad figure does not spoil the rest."""
    hop = hop_of(
        {"hop": "node", "total_ms": 5, "phases": {"prefill": 4, "x": "y", "z": -1}, "start_phases": [1]}
    )

    assert hop == Hop("node", 5.0, {"prefill": 4.0})


def test_server_timing_gives_the_same_hops():
    """What `wire.timing` writes, this reads; parts of a wake are in no total."""
    phases = Phases("node")
    phases.add("prefill", 4.0)
    header = f"{phases.header()}, node.start.fork;dur=10.000, gateway;dur=20.000, gateway.pick;dur=1.000, other;dur=1.0"
    hops = hops_of_timing(parse_server_timing(header))

    assert [hop.name for hop in hops] == ["gateway", "node"]
    assert hops[1].phases_ms == {"prefill": 4.0}
    assert hops[1].start_ms == {"fork": 10.0}


@given(
    st.lists(st.floats(0, 1e4), min_size=3, max_size=3),
    st.floats(0.1, 1e4),
    st.dictionaries(st.sampled_from(["pick", "wake", "first_byte", "stream", "odd"]), st.floats(0, 1e3)),
)
def test_phases_always_sum_to_the_wall(totals, wall_ms, phases):
    """Whatever the hops claim, the parts sum to the wall time and only the rest can be negative."""
    hops = [Hop(name, total, phases) for name, total in zip(("edge", "gateway", "node"), totals, strict=True)]
    made = whole(hops, wall_ms)

    assert sum(made.phases_ms.values()) == pytest.approx(wall_ms, abs=1e-6)
    assert all(ms > 0 for name, ms in made.phases_ms.items() if name != UNATTRIBUTED)
    assert list(made.phases_ms)[-1] == UNATTRIBUTED


@pytest.mark.parametrize("start", list(Start))
def test_true_receipts_leave_little(start):
    """Receipts that overlap nothing and hide nothing account for the wall time within the tolerance."""
    made, wall_ms, first_ms = receipts(start, random.Random(3), 1.0)
    hops = [hop for receipt in made if (hop := hop_of(receipt))]

    assert whole(hops, wall_ms).holds
    assert first_token(hops, first_ms).holds


def test_every_family_is_shown_and_unknown_phases_keep_their_name():
    """A phase that a later version adds still has a place and a colour."""
    assert {name.family for name in KNOWN.values()} == set(Family)
    assert shown("start.new").label == "start.new"
    assert shown("start.new").family is Family.WAKE
    assert in_order(["unattributed", "start.new", "node.decode", "start.fork"]) == [
        "start.fork",
        "start.new",
        "node.decode",
        "unattributed",
    ]


def test_spans_cover_the_request_once():
    """The time line has no gap and no overlap, and ends at the wall time."""
    made = whole([EDGE, GATEWAY, NODE], 104.0)
    spans = sorted((span for some in spans_of(made).values() for span in some), key=lambda span: span.begin)

    assert spans[0].begin == 0.0
    assert all(a.end == pytest.approx(b.begin) for a, b in pairwise(spans))
    assert spans[-1].end == pytest.approx(104.0)


def test_a_request_that_was_sent_late():
    """Its clock began when it was due: the client's own lateness is a phase, first of all, and the sum still holds."""
    made = whole([EDGE, GATEWAY, NODE], 104.0)
    late = made.after(6.0)

    assert next(iter(late.phases_ms.items())) == ("client.late", 6.0)
    assert sum(late.phases_ms.values()) == late.wall_ms == 110.0
    assert made.after(0.0) is made

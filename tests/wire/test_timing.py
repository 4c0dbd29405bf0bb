"""How a hop writes the phases of a request that took its short way, and reads them again."""

import pytest

from wire.timing import RECEIPT_BYTES, Form, Phases, parse_receipt, parse_server_timing

FORM = Form("edge", ("read", "route", "first_byte", "stream"))


@pytest.mark.parametrize(
    "spans", [(0.0, 0.0, 0.0, 0.0, 0.0), (12.3456, 0.0101, 0.0009, 12.0, 0.3346), (5e9, 1.0, 2.0, 3.0, 4e9)]
)
def test_what_is_said_of_a_request_can_be_kept_in_place_of_its_times(spans):
    said = FORM.timing % spans
    total_ms, phases = FORM.read(said)

    assert [total_ms, *phases.values()] == pytest.approx(spans, abs=0.0005)
    assert tuple(phases) == FORM.names
    assert parse_server_timing(said.decode())["edge"] == total_ms


def test_other_hops_that_are_said_beside_it_are_not_its_own():
    assert FORM.read(b"node;dur=7.000, " + FORM.timing % (4.0, 1.0, 1.0, 1.0, 1.0))[0] == 4.0


def test_a_connection_that_was_made_for_a_request_is_no_part_of_sending_it():
    clock = iter([0.0, 0.010, 0.020])
    phases = Phases("edge", lambda: next(clock))
    phases.mark("read")
    phases.mark_sent(0.017, connect_s=0.004)
    phases.mark("first_byte")

    assert phases.items == pytest.approx({"read": 10.0, "connect": 4.0, "send": 3.0, "first_byte": 3.0})
    assert list(phases.items) == ["read", "connect", "send", "first_byte"]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"data: {}",
        b": nearfield",
        b": nearfield [1]",
        b": nearfield {",
        b": nearfield \xff",
        b': nearfield {"hop": "x"}'.ljust(RECEIPT_BYTES + 1),
        b": nearfield " + b"[" * 10_000,
    ],
)
def test_a_line_that_is_no_receipt_is_none(line):
    assert parse_receipt(line) is None


def test_a_receipt_says_where_the_time_went_and_the_hop_s_own_words():
    clock = iter([1.0, 1.25, 2.0])
    phases = Phases("node", lambda: next(clock))
    phases.mark("read")
    line = phases.comment({"start": "warm"})

    assert line.endswith(b"}\n\n")
    assert parse_receipt(line[:-2]) == {
        "hop": "node",
        "total_ms": 1000.0,
        "phases": {"read": 250.0},
        "start": "warm",
    }

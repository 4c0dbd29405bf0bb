"""The edge benchmark's own pieces: what counts as a lost event, and one short run where nginx and wrk are."""

import argparse
import json
import shutil

import pytest

from bench import edge, edge_load, edge_stage


def event(number, at=1.0):
    return b'data: {"n": %d, "at": %f}\n\n' % (number, at)


def tallied(*pieces, events=3):
    found = edge_load.Streams()
    edge_load.tally([(1.5, piece) for piece in pieces], events, found)
    return found


def test_every_event_once_and_in_order_is_none_lost():
    """Wherever the stream was cut on its way, comments between events included."""
    whole = event(0) + b": nearfield {}\n\n" + event(1) + event(2)
    for cut in range(len(whole)):
        found = tallied(whole[:cut], whole[cut:])
        assert (found.events, found.lost, found.late_s) == (3, 0, [0.5, 0.5, 0.5])


@pytest.mark.parametrize("numbers", [[0, 1], [0, 2, 1], [0, 0, 1], [0, 1, 1, 2]])
def test_missing_twice_or_out_of_order_is_lost(numbers):
    """A duplicate does not make up for one that is missing."""
    assert tallied(b"".join(map(event, numbers))).lost > 0


def test_the_small_body_is_a_completion_of_its_size():
    """Gateways that read answers must be able to."""
    assert len(edge_stage.small_body()) == edge_stage.SMALL_BYTES
    assert json.loads(edge_stage.small_body())["choices"][0]["message"]["content"]


@pytest.mark.skipif(not (shutil.which("nginx") and shutil.which("wrk")), reason="nginx and wrk are not here")
def test_a_short_run_has_its_rows():
    """Whole servers, a tenth of a second: the rows are there and say who is compared."""
    parser = argparse.ArgumentParser()
    edge.add_options(parser)
    rows, notes = edge.measure(parser.parse_args(["--seconds", "0.1", "--only", "sse"]), lambda _line: None)
    assert [row.unit for row in rows] == ["us", "us"], notes
    assert all(row.ours > 0 for row in rows)

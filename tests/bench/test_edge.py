"""The edge benchmark's own pieces: what counts as a lost event, and one short run where nginx and wrk are."""

import argparse
import json
import os
import shutil
import socket
import threading
from contextlib import contextmanager
from dataclasses import replace

import pytest

from bench import edge
from bench.proxy import cpu as edge_cpu
from bench.proxy import half as edge_half
from bench.proxy import load as edge_load
from bench.proxy import paced as edge_paced
from bench.proxy import stage as edge_stage


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


def test_a_spell_of_a_slow_host_in_one_round_is_not_told_of_a_proxy():
    """Whoever meets it; the round that is told is one round, so that both figures are of the same seconds."""
    rounds = [
        (edge_load.Blast(100, 1.0, ours), edge_load.Blast(200, 1.0, theirs))
        for ours, theirs in ((30.0, 15.0), (45.0, 15.0), (31.0, 15.5), (30.0, 24.0), (33.0, 16.5))
    ]
    row = edge_cpu.cost("a request", rounds, 0.5)

    assert (row.ratio, row.holds) == (0.5, True)
    assert (row.ours, row.peer) in {(30.0, 15.0), (31.0, 15.5), (33.0, 16.5)}
    assert "(0.33 to 0.80)" in row.what
    assert edge_cpu.rate("requests a second", rounds).ratio == 0.5


def ms(*values):
    """100 answers each, evenly of `values`, in seconds."""
    return [value / 1000 for value in values for _ in range(100 // len(values))]


def p99(*rounds, target=1.0):
    return edge_half.added(rounds, "nearfield", "half busy", target)[1]


def test_added_is_what_straight_answers_of_the_same_round_did_not_take():
    """Its middle over rounds: one in which the machine stood still is none of it."""
    rounds = [
        edge_half.Round(ms(most), ms(least), 0.5, 0.01)
        for most, least in ((1.5, 0.5), (44.0, 0.5), (2.5, 1.4))
    ]
    row = p99(*rounds)

    assert (round(row.ours, 6), row.peer, row.holds) == (1.1, 2.0, True)
    assert (
        "0.50 busy and 0.01 in line for its core; straight answers took 0.5 ms; middle of 3 rounds (1 to 44 ms)"
        in row.what
    )
    assert not p99(*rounds[:2]).holds


def test_where_straight_answers_are_late_themselves_nothing_is_held():
    """However little is added to them, and the row says what the machine is."""
    late = edge_half.Round(ms(5.1), ms(5.0), 0.5, 0.3)
    assert not p99(late).holds
    assert "straight answers took 5 ms, so the machine is the limit" in p99(late).what
    assert p99(late, target=None).holds


def test_the_rate_of_a_half_busy_process_is_found_by_its_own_processor_time(monkeypatch):
    """One whose requests cost less where more of them come, from 100 us down to 40."""

    def used_s(rate):
        return rate * (40e-6 + 60e-6 / (1 + rate / 5000))

    def tried(turns, rate, seconds):
        return edge_paced.Paced({}, used_s=seconds * used_s(rate), lasted_s=seconds)

    monkeypatch.setattr(edge_half, "_slice", tried)
    for guess in (2000.0, 15000.0):
        assert 0.49 < used_s(edge_half.half_busy(None, guess)) < 0.51


def test_processor_time_of_a_proxy_is_that_of_its_requests():
    """Of its processes, all threads: here what answers is in the client's own; one that has none has used nothing."""
    with answering(ANSWER) as fake:
        here = replace(fake, pids=(os.getpid(),))
        mine, none = (edge_paced.paced([each], 200.0, 0.2, 3) for each in (here, fake))
    assert mine.used_s > mine.busy_s / 2 > 0
    assert (none.used_s, none.queued_s) == (0.0, 0.0)


def test_client_and_origin_are_as_before_once_it_is_measured():
    """And no proxy is touched, so both have what they had."""
    before = os.sched_getscheduler(0)
    with edge_half.ahead([os.getpid()]):
        assert os.sched_getscheduler(0) in {before, os.SCHED_RR}
    assert os.sched_getscheduler(0) == before


BODY = edge_stage.small_body().encode()
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(BODY), BODY)


@contextmanager
def answering(*parts):
    """A server that answers each request with `parts`, one write each, on every connection."""

    def serve(connection):
        with connection:
            while connection.recv(1 << 16):
                for part in parts:
                    connection.sendall(part)

    def accept():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield edge_stage.Proxy("fake", listener.getsockname()[1], ())
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("cut", [3, 30, len(ANSWER) - 1, len(ANSWER)])
def test_a_paced_request_is_timed_from_when_it_was_due_to_its_whole_answer(cut):
    with answering(ANSWER[:cut], ANSWER[cut:]) as proxy:
        found = edge_paced.paced([proxy], 200.0, 0.2, 3)
    assert 0 < len(found.took_s[proxy]) == len(found.late_s)
    assert min(found.late_s) >= 0
    assert min(found.took_s[proxy]) > 0


def test_requests_that_find_no_connection_free_are_timed_too():
    with answering(ANSWER) as proxy:
        [most, few] = (edge_paced.paced([proxy], 2000.0, 0.1, num) for num in (20, 1))
    assert len(few.took_s[proxy]) == len(most.took_s[proxy])


@pytest.mark.parametrize(
    "answer", [ANSWER.replace(b"200 OK", b"503 No"), b"HTTP/1.0 200 OK\r\n", ANSWER + b"x" * 9]
)
def test_another_answer_ends_the_run(answer):
    with answering(answer) as proxy, pytest.raises(edge_load.Wrong):
        edge_paced.paced([proxy], 200.0, 0.2, 1)


@pytest.mark.skipif(not (shutil.which("nginx") and shutil.which("wrk")), reason="nginx and wrk are not here")
def test_a_short_run_has_its_rows():
    """Whole servers, a tenth of a second: the rows are there and say who is compared."""
    parser = argparse.ArgumentParser()
    edge.add_options(parser)
    rows, notes = edge.measure(parser.parse_args(["--seconds", "0.1", "--only", "sse"]), lambda _line: None)
    assert [row.unit for row in rows] == 3 * ["us"], notes
    assert [word in row.what for row, word in zip(rows, ("budget", "nginx", "floor"), strict=True)] == 3 * [
        True
    ]
    assert all(row.ours > 0 for row in rows)

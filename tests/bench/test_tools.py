"""The benchmarks' own instruments: the bare reader, the timing caller, the made model."""

import http.server
import json
import os
import threading
import time
from dataclasses import replace

import pytest

from bench import cold, llama, overhead
from bench.caller import Answer, Caller, CallFailed
from bench.starts import receipts
from bench.starts.limit import bare_bytes_per_s
from bench.stopwatch import goes_first
from storage.client.sdk import Endpoint
from tests.weights_cache.store_script import ScriptedStore
from weights_cache.model.header import read_header

DATA = bytes(range(256)) * (9 << 10)


def test_bare_reader_reads_it_all():
    """The limit is of a reader that really moved every byte, in ranges, over its connections."""
    store = ScriptedStore({"/b/k": DATA})
    memory = bytearray(len(DATA))
    rate = bare_bytes_per_s(Endpoint(store.url, "AKBENCH", "s"), "b", "k", memoryview(memory), (4, 100_000))
    store.close()

    assert bytes(memory) == DATA
    assert rate > 0
    assert len(store.requests) == -(-len(DATA) // 100_000)


def test_bare_reader_says_what_failed():
    """A missing object is an error, not a fast read."""
    store = ScriptedStore({})
    with pytest.raises(ConnectionAbortedError, match="404"):
        bare_bytes_per_s(Endpoint(store.url, "AKBENCH", "s"), "b", "k", memoryview(bytearray(10)))
    store.close()


class Api(http.server.BaseHTTPRequestHandler):
    """Streams what the class says, a pause before the first text."""

    protocol_version = "HTTP/1.1"
    lines = ()
    status = 200

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assert asked["stream"] is True
        self.send_response(self.status)
        self.send_header("transfer-encoding", "chunked")
        self.send_header("X-Thing", "yes")
        self.end_headers()
        for line in self.lines:
            if line is None:
                time.sleep(0.1)
                continue
            data = line.encode() + b"\n\n"
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_):
        pass


@pytest.fixture
def api():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    Api.status = 200
    yield server.server_address
    server.shutdown()
    thread.join()
    server.server_close()


def chat(content):
    return "data: " + json.dumps({"choices": [{"delta": {"content": content}}]})


def test_caller_times_the_first_text(api):
    """Comments, role chunks and empty pieces are not the first token; receipts are read; the connection is kept."""
    Api.lines = (
        ': nearfield {"phase":"fetch","percent":3}',
        chat(""),
        None,
        chat("Pa"),
        chat("ris"),
        "data: [DONE]",
        ': nearfield {"hop":"node","start":"warm"}',
    )
    caller = Caller(api, {"authorization": "Bearer x"})
    for _ in range(2):
        answer = caller.stream("/v1/chat/completions", {"model": "m"})
        assert answer.text == "Paris"
        assert 0.1 <= answer.first_text_s <= answer.total_s
        assert answer.headers["x-thing"] == "yes"
        assert answer.receipts[-1]["start"] == "warm"
    caller.close()


@pytest.mark.parametrize(
    ("status", "lines", "match"),
    [
        (503, ("busy",), "503"),
        (200, ("data: [DONE]",), "no text"),
        (200, ('data: {"error": {"message": "broken"}}',), "broken"),
    ],
)
def test_caller_never_times_a_failure(api, status, lines, match):
    """A refusal, an empty stream and an error event are failures, not fast answers."""
    Api.status, Api.lines = status, lines
    caller = Caller(api, {})
    with pytest.raises(CallFailed, match=match):
        caller.stream("/v1/completions", {"model": "m"})
    caller.close()


def test_made_model_is_whole(tmp_path):
    """The made folder passes our own header check, has the words it says, and is made once."""
    folder = llama.model_folder(tmp_path, num_layers=1)
    weights = folder / "model.safetensors"
    header = read_header(weights.read_bytes()[: 1 << 20], weights.stat().st_size)

    assert len(header.tensors) == 12
    assert len(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]) == llama.WORDS
    assert len(llama.prompt(16).split()) == 16
    made_at = weights.stat().st_mtime_ns
    assert llama.model_folder(tmp_path, num_layers=1) == folder
    assert weights.stat().st_mtime_ns == made_at


def pair(ours_s, peer_s, limit_s):
    edge_ms = 1e3 * ours_s - 10.0
    eta = {"expected_ms": 900.0, "took_ms": 600.0}
    told = (
        {"hop": "node", "start": "region", "phases": {"prefill": 3.0}, "start_phases": {"fork": 8.0}},
        {"hop": "edge", "total_ms": edge_ms, "phases": {"read": edge_ms}, "eta": eta},
    )
    return cold.Pair(Answer(ours_s, ours_s, "w5", {}, told), peer_s, {"import": 5.0}, limit_s)


def test_cold_rows():
    """The target row is medians against medians; the limit is printed beside it."""
    pairs = [pair(1.0, 13.0, 0.4), pair(2.0, 9.0, 0.5), pair(1.5, 14.0, 0.6)]
    rows = cold._rows(pairs, 977_000_000)

    assert (rows[0].ours, rows[0].peer, rows[0].target) == (1.5, 13.0, 8.0)
    assert rows[0].holds
    assert (rows[1].ours, rows[1].peer) == (2.0, 9.0)
    assert rows[2].peer == 0.5
    assert rows[2].ratio < 1
    assert (rows[3].ours, rows[3].holds) == (pytest.approx(0.01), True)  # 10 ms of the shortest, 1 s
    assert (rows[4].ours, rows[4].peer, rows[4].target) == (0.9, 0.6, None)
    notes = cold._notes(pairs, 977_000_000)
    assert any("fork 8" in note for note in notes)
    assert any("[0.5, 0.5, 0.5]" in note for note in notes)


def test_a_receipt_that_leaves_too_much_out_does_not_hold():
    """And the making of a connection is the client's own, not the receipt's to tell."""
    (row,) = receipts.rows([pair(0.1, 1.0, 0.1).ours], "a start")[:1]
    assert (row.ours, row.holds) == (pytest.approx(0.1), False)
    connected = replace(pair(0.1, 1.0, 0.1).ours, connect_s=0.01)

    assert receipts.rows([connected], "a start")[0].holds


def test_overhead_rows():
    """What is added is the difference of the same quantile; nothing added is no division by zero."""
    rows = overhead._rows([5.0, 5.0, 9.0], [4.0, 4.0, 4.0])
    assert (rows[0].ours, rows[0].peer, rows[0].holds) == (1.0, 1.5, True)
    assert rows[2].target is None

    assert overhead._rows([4.0], [4.5])[0].holds
    assert not overhead._rows([6.0], [4.0])[0].holds


@pytest.mark.skipif(os.geteuid() != 0, reason="real-time threads are root's here")
def test_a_stopwatch_goes_first_and_only_while_it_runs():
    """The thread itself and none that it starts; afterwards all is as it was."""
    usual, seen = os.sched_getscheduler(0), []
    with goes_first():
        inside = os.sched_getscheduler(0)
        other = threading.Thread(target=lambda: seen.append(os.sched_getscheduler(0)))
        other.start()
        other.join()

    assert inside & ~os.SCHED_RESET_ON_FORK == os.SCHED_RR
    assert seen == [os.SCHED_OTHER]
    assert os.sched_getscheduler(0) == usual


def test_a_stopwatch_without_the_right_runs_as_everybody(monkeypatch):
    def refused(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refused)
    with goes_first():
        assert os.sched_getscheduler(0) == os.SCHED_OTHER

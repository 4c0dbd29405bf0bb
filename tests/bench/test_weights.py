"""The weights benchmark's own pieces: the made model, the loaders, the slow link, the memory's sum, the rows."""

import asyncio
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
import torch

from bench import packages, stage, weights
from bench.blast import Line
from bench.caller import Answer
from bench.link import Link, Pace, link
from bench.servers import Missing
from bench.starts import blob, crowd, fromstore, loaders, overlink, pss, receipts
from bench.starts import host as hoststarts
from bench.starts import parts as starts
from bench.starts import peers as loader_peers
from bench.starts.contestants import Broken, contestant
from bench.starts.fromstore import Timed
from bench.starts.loaders import Order
from storage.client.endpoint import SOCKET_NAME
from storage.client.sdk import Endpoint
from tests.storage.stores import ADMIN, ROOT_KEY, StoreThread
from weights_cache.model.plan import extents
from weights_cache.reading.fetch import BLOB_BUCKET

MIB = 1 << 20


@pytest.fixture
def order(tmp_path, monkeypatch):
    """A made model of two small tensors in a store of ours."""
    monkeypatch.setattr(blob, "TENSOR_BYTES", MIB)
    running = StoreThread(tmp_path / "store", min_part_bytes=1)
    store = Endpoint(f"http://127.0.0.1:{running.port}", ADMIN.id, ADMIN.secret(ROOT_KEY))
    path = tmp_path / "model.safetensors"
    revision = blob.made(path, 2, "test")
    asyncio.run(blob.put(store, revision, path))
    (tmp_path / "revision").write_bytes(revision.to_json())
    entry = revision.files[0]
    yield Order(
        store.url,
        store.access_key,
        store.secret,
        BLOB_BUCKET,
        entry.blake3,
        entry.size,
        str(tmp_path / "revision"),
        str(tmp_path),
        str(tmp_path / "store" / SOCKET_NAME),
    )
    running.stop()


def test_made_model_is_one_that_any_loader_reads(order, tmp_path):
    """The file is good safetensors, the blob is the file, and its revision covers it."""
    from safetensors.torch import load_file

    tensors = load_file(tmp_path / "model.safetensors")
    with Line(order.store) as line:
        answer = line.call("GET", f"/{order.bucket}/{order.key}").demand(200)

    assert {tuple(tensor.shape) for tensor in tensors.values()} == {(MIB // 4,)}
    assert answer.data == (tmp_path / "model.safetensors").read_bytes()
    revision = blob.described(tmp_path / "model.safetensors", "bench/test")
    assert len(revision.extents) == len(extents(revision.tensors)) == 2


@pytest.mark.parametrize("way", fromstore.OURS)
def test_ours_loads_the_very_tensors(order, tmp_path, way, monkeypatch):
    """What is timed is whole: every tensor, every bit."""
    from safetensors.torch import load_file

    monkeypatch.setattr("weights_cache.memory.buffers.SMALL_BYTES", 0)
    monkeypatch.setattr("weights_cache.memory.buffers.QUIET_S", 0.0)
    loader = loaders.LOADERS[way]()
    loader.prepare(order)
    found = loader.load(order)
    expected = load_file(tmp_path / "model.safetensors")

    assert found.keys() == expected.keys()
    assert all(
        torch.equal(found[name].view(torch.int32), expected[name].view(torch.int32)) for name in expected
    )
    found.clear()
    loader.let_go()


def test_loaders_agree_and_one_that_fails_is_no_fast_loader(order, tmp_path):
    """Ours and boto3's manager have the same bytes, their times are of loads alone, and last words are in the error."""
    with contestant("fresh") as ours, contestant("boto3") as theirs:
        answers = [each.load(order) for each in (ours, theirs, ours)]
        (tmp_path / "revision").write_bytes(b"{}")
        with pytest.raises(Broken, match="RevisionError"):
            ours.load(order)

    assert len({digest for _, digest in answers}) == 1
    assert all(seconds > 0 for seconds, _ in answers)


def test_loaders_with_other_bytes_are_no_comparison(order, monkeypatch):
    """Rounds end when two loaders disagree."""

    class Fake:
        def __init__(self, name, digest):
            self.name, self._answer = name, (1.0, digest)

        def load(self, _order):
            return self._answer

    with pytest.raises(Broken, match="different bytes"):
        fromstore._alternate(order, [Fake("pooled", "a"), Fake("boto3", "b")], 1, lambda _: None)
    timed = fromstore._alternate(order, [Fake("pooled", "a"), Fake("boto3", "a")], 2, lambda _: None)
    assert timed.loaders == {"pooled": [1.0, 1.0], "boto3": [1.0, 1.0]}
    assert {len(runs) for runs in timed.bare.values()} == {2}
    assert set(timed.bare) == set(fromstore.SHAPES)


def test_rows_of_a_read():
    """The limit is the fastest bare reader's, and beside it that of 16 MiB ranges; the targets are the issue's."""
    timed = Timed(
        1_000_000_000,
        {"handed": [0.4], "pooled": [0.5, 0.6, 0.4], "fresh": [1.0], "boto3": [1.5], "runai": [0.4]},
        {
            (2, 16 * MIB): [0.9, 0.4, 0.5],
            (8, 16 * MIB): [0.45, 0.44, 0.46],
            (8, 64 * MIB): [0.4, 0.3, 0.9],
        },
    )
    rows = fromstore._rows(timed, 3)

    assert timed.limit() == (0.4, (8, 64 * MIB))
    assert "handed over" in rows[0].what
    assert "8 connections and ranges of 64 MiB" in rows[1].what
    assert "8 connections and ranges of 16 MiB" in rows[2].what
    assert [round(row.ratio, 2) for row in rows] == [1.0, 0.8, 0.9, 0.4, 3.0, 0.8]
    assert [row.target for row in rows] == [*[pytest.approx(1 / 1.15)] * 3, None, 2.0, 1.0]
    assert [row.holds for row in rows] == [True, False, True, True, True, False]
    assert "limit 2.50 GB/s" in fromstore._note(timed)


def test_over_a_link_the_limit_is_that_of_the_link(order):
    """Each rate is set and measured with the same loader; afterwards the link has none."""
    rates = []
    far = type("Far", (), {"set": lambda _, rate: rates.append(rate)})()
    slow = type("Slow", (), {"load": lambda _, order: (3600.0, "digest")})()
    rows = overlink.measure(far, order, slow, 2, lambda _: None)

    assert rates == [*overlink.RATES, 0]
    assert [row.target for row in rows] == [pytest.approx(1 / 1.15)] * 2
    assert not any(row.holds for row in rows)
    assert ["0.5 GB/s" in rows[0].what, "1 GB/s" in rows[1].what] == [True, True]


def test_handed_over_is_never_quietly_read(order):
    """A host that hands over nothing makes no figure of a hand-off."""
    loader = loaders.Ours(handed=True)
    loader.prepare(replace(order, socket="nobody"))
    with pytest.raises(RuntimeError, match="did not hand over"):
        loader.load(order)
    loader.let_go()


def test_a_streamer_that_cannot_be_had_is_said(monkeypatch, tmp_path):
    """No package index is a note, not a crash; it is tried again next time."""
    monkeypatch.setattr(packages.sys, "executable", "/bin/false")
    notes = []

    assert fromstore._streamer(None, tmp_path, notes) == []
    assert "pip could not install peers.txt" in notes[0]
    with pytest.raises(Missing):
        loader_peers.install(tmp_path)


def test_pace_shares_one_rate():
    """Whoever asks, bytes are due one after another; a late ask loses no more than the slack."""
    pace = Pace()
    assert pace.due(100, 5.0) == 5.0
    pace.set(100.0)
    assert [pace.due(100, 10.0) for _ in range(3)] == pytest.approx([10.995, 11.995, 12.995])
    assert pace.due(100, 20.0) == pytest.approx(20.995)
    assert pace.set(0) == 400
    assert pace.due(1, 30.0) == 30.0
    assert pace.set(0) == 1


class Echo(threading.Thread):
    """Sends back what it gets, in a thread of its own."""

    def __init__(self):
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.start()

    def run(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                while data := connection.recv(65_536):
                    connection.sendall(data)


def test_link_passes_bytes_both_ways_and_counts_them():
    """What arrives is what was sent; a rate is kept; the other side's end is passed on."""
    echo = Echo()
    data = os.urandom(400_000)
    with link(echo.port) as found:
        assert isinstance(found, Link)
        for rate in (0, 1_000_000):
            found.set(rate)
            with socket.create_connection(("127.0.0.1", found.port)) as near:
                started = time.monotonic()
                threading.Thread(target=near.sendall, args=(data,), daemon=True).start()
                got = bytearray()
                while len(got) < len(data):
                    got += near.recv(65_536)
                elapsed_s = time.monotonic() - started
                assert bytes(got) == data
                assert not rate or elapsed_s > 0.9 * len(data) / rate
                near.shutdown(socket.SHUT_WR)
                assert near.recv(10) == b""
            assert found.set(0) == len(data)
    echo.listener.close()


def test_link_to_nobody_ends_the_connection():
    """A store that is not up yet is a closed connection, and the relay lives on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with link(port) as found:
        for _ in range(2):
            with socket.create_connection(("127.0.0.1", found.port)) as near:
                assert near.recv(10) == b""
        assert found.set(0) == 0


def test_fleet_at_the_far_end_of_a_link():
    """Region and node reach the store by the relay, the store itself listens where it did; nothing is handed over."""
    toml = (
        '[regions.iad]\nstore = "http://127.0.0.1:9000"\n'
        '[stores.iad]\nlisten = "127.0.0.1:9000"\n[nodes.iad-0]\nregion = "iad"\n'
    )
    changed = stage.at_far_end(toml, "127.0.0.1:9000", 7)

    assert 'store = "http://127.0.0.1:7"' in changed
    assert 'listen = "127.0.0.1:9000"' in changed
    assert "[nodes.iad-0]\nhandoff = false\n" in changed
    with pytest.raises(stage.Broken):
        stage.at_far_end("", "127.0.0.1:9000", 7)


def answer(first_text_s, **receipt):
    return Answer(first_text_s, first_text_s, "w", {}, (receipt,) if receipt else ())


def test_start_state_is_checked():
    """A figure of another start, or with bytes of another region, is not taken."""
    stage.check_start(answer(1.0, start="host", remote_bytes=0), "host")
    for wrong in (answer(1.0), answer(1.0, start="warm"), answer(1.0, start="host", remote_bytes=5)):
        with pytest.raises(stage.Broken):
            stage.check_start(wrong, "host")


def test_rows_of_host_starts():
    """One second for the 1 GB model alone; the difference of the sizes against that of the prefills."""
    host = {"0.5 GB": [0.5, 0.6, 9.0], "1 GB": [0.8] * 3, "2 GB": [0.9, 1.0, 9.1]}
    rows = hoststarts.host_rows(host, {"0.5 GB": [0.1] * 3, "1 GB": [0.2] * 3, "2 GB": [0.4] * 3})

    assert [row.target for row in rows] == [None, 1.0, None, 1.0]
    assert [row.holds for row in rows] == [True, True, True, False]
    assert (rows[3].ours, rows[3].peer) == (pytest.approx(0.4), pytest.approx(0.3))
    flat = hoststarts.host_rows(
        {size: [0.5] for size in starts.LAYERS}, {size: [0.2] for size in starts.LAYERS}
    )
    assert flat[3].holds


def test_phases_that_grow_are_told_by_their_medians_most_first():
    def took(prefill_ms, queue_ms, read_ms):
        phases = {"read": read_ms, "queue": queue_ms, "prefill": prefill_ms}
        return answer(1.0, hop="node", total_ms=sum(phases.values()), phases=phases)

    small = [took(10.0, 30.0, 1.0), took(20.0, 30.0, 1.0), took(900.0, 30.0, 1.0)]
    large = [took(60.0, 2.0, 3.0)]

    told = receipts.grown(small, large, "longer")
    assert told == "longer: node.prefill 20.0 and 60.0, node.read 1.0 and 3.0"
    assert receipts.grown(large, large, "longer") == "longer: no phase"


def test_rows_of_a_crowd():
    """Its p99 against a single one's by medians of the same turns; and what is its own work, by what it takes warm."""
    turns = crowd.Turns([1.0, 1.1, 5.0], [1.4, 1.3, 6.0], [0.1] * 3, [0.4, 0.5, 0.3], [1.0, 1.01, 1.0])
    read, last, floor = crowd._rows(0.0, turns)

    assert (read.ours, read.holds) == (1.01, True)
    assert (last.ours, last.peer, last.holds) == (1.4, 1.1, True)
    assert (floor.peer, floor.target) == (pytest.approx(1.4), None)
    assert not crowd._rows(0.25e9, crowd.Turns([1.0], [1.4], [0.1], [0.1], [1.0]))[1].holds


def test_tree_of_processes_is_summed():
    """A child of a child counts, one that has ended does not, and memory that is touched is seen."""
    code = "import subprocess, sys, time; b = bytearray(64 << 20); print(1, flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1) as child:
        child.stdout.readline()
        assert {os.getpid(), child.pid} <= set(pss.descendants(os.getpid()))
        assert pss.pss_bytes(child.pid) > 60 << 20
        with pss.Peak(child.pid) as peak:
            pass
        assert peak.num_bytes > 60 << 20
        assert sum(peak.parts.values()) == peak.num_bytes
        child.stdin.close()
    assert pss.pss_bytes(child.pid) == 0
    assert pss.command_of(child.pid) == []
    with pytest.raises(LookupError):
        pss.node_pid()


def test_parts_are_named_and_run_in_turn(monkeypatch):
    """Rows and notes of all parts, in the order asked for."""
    parts = {name: lambda _options, _say, name=name: ([name], [name]) for name in ("read", "host", "link")}
    monkeypatch.setattr(weights, "PARTS", parts)
    options = type("Options", (), {"only": "link,read"})

    assert weights.measure(options, lambda _: None) == (["link", "read"], ["link", "read"])

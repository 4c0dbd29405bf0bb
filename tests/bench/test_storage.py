"""The storage benchmark's own pieces: the raw client, the bare loop, the limits alone, the rows."""

import os
import socket
import threading

import pytest

from bench import blast, packages, servers, storage
from bench.blast import Failed, Line
from bench.stores import alone, bare, ownlimits
from storage.client.sdk import Endpoint
from tests.storage.stores import ADMIN, ROOT_KEY, StoreThread

DATA = os.urandom(3 << 20)


@pytest.fixture
def store(tmp_path):
    running = StoreThread(tmp_path / "store", min_part_bytes=1)
    endpoint = Endpoint(f"http://127.0.0.1:{running.port}", ADMIN.id, ADMIN.secret(ROOT_KEY))
    with Line(endpoint) as line:
        line.call("PUT", f"/{ownlimits.BUCKET}").demand(200)
    yield endpoint
    running.stop()


@pytest.fixture
def bare_store(tmp_path):
    """The bare loop in threads of this process."""
    path = tmp_path / "file"
    path.write_bytes(DATA)
    fd = os.open(path, os.O_RDONLY)
    listener = socket.create_server(("127.0.0.1", 0))
    threads = []

    def accept():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=bare.serve, args=(connection, fd, len(DATA))))
            threads[-1].start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    yield Endpoint(f"http://127.0.0.1:{listener.getsockname()[1]}", "AKBARE", "none")
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    for thread in (accepting, *threads):
        thread.join(60)
    os.close(fd)


def test_reader_reads_every_byte_of_both_servers(store, bare_store):
    """The same client, the same bytes: eight ranges that together are the object."""
    head = blast.head_of(store, "PUT", "/bench/large", size=len(DATA))
    assert blast.write_rate(store, [(head, memoryview(DATA))]) > 0
    for each in (store, bare_store):
        memory = bytearray(len(DATA))
        assert blast.read_rate(each, "bench", "large", memoryview(memory)) > 0
        assert bytes(memory) == DATA


def test_reader_says_what_failed(store):
    """A refusal is an error, not a fast read; so is one in a stream of small requests."""
    with pytest.raises(Failed, match="404"):
        blast.read_rate(store, "bench", "none", memoryview(bytearray(10)))
    with pytest.raises(Failed, match="NoSuchKey"):
        blast.request_rate(store, [blast.head_of(store, "GET", "/bench/none")], 0.2)


def test_small_requests_are_counted_when_answered(store):
    """What is counted was done: as many objects are there as writes were counted, but for those under way."""
    heads = [
        blast.head_of(store, "PUT", f"/bench/small/{number:05}", size=100) + bytes(100)
        for number in range(5000)
    ]
    rate = blast.request_rate(store, heads, 0.3)
    with Line(store) as line:
        answer = line.call("GET", "/bench", "list-type=2&max-keys=1000&prefix=small/")

    num_there = answer.data.count(b"<Key>")
    assert 0 < int(rate * 0.3) <= num_there or num_there == 1000
    # the store goes on with what was sent, for as long as this process may have stood still
    assert num_there <= rate * 3 + 2 * blast.NUM_CONNECTIONS or num_there == 1000


def test_limits_alone(tmp_path):
    """Both give a rate, the disk's file is gone, and the checksum is the one that the store wants."""
    data = memoryview(DATA)
    assert alone.hashing_rate(data) > 0
    assert alone.disk_rate(data, tmp_path) > 0
    assert list(tmp_path.iterdir()) == []
    assert alone.crc64_header(memoryview(b"123456789")) == "rosUhgp5mIg="


def test_checksum_header_is_checked_by_the_store(store):
    """The PUT that is measured carries a checksum that counts."""
    good = alone.crc64_header(memoryview(DATA))
    for value, status in ((good, 200), (alone.crc64_header(memoryview(b"x")), 400)):
        head = blast.head_of(store, "PUT", "/bench/k", size=len(DATA), x_amz_checksum_crc64nvme=value)
        with Line(store) as line:
            assert line.ask(head, DATA).status == status


def test_fill_and_walk(tmp_path):
    """A filled bucket lists every key once; a walk that misses one says so."""
    running = StoreThread(tmp_path / "store")
    running.stop()
    ownlimits.fill(tmp_path / "store", 2500, lambda _: None)
    running = StoreThread(tmp_path / "store")
    endpoint = Endpoint(f"http://127.0.0.1:{running.port}", ADMIN.id, ADMIN.secret(ROOT_KEY))
    with Line(endpoint) as line:
        assert len(ownlimits.walk(line, 2500)) == 3
        with pytest.raises(AssertionError, match="2500 of 2501"):
            ownlimits.walk(line, 2501)
    running.stop()


def test_upload_completes_with_every_part(store):
    """What the watched upload completes has all its parts, in order."""
    served = servers.Served("test", store, os.getpid(), 0.0)
    part = memoryview(DATA[: 64 * 1024])
    with ownlimits.Peak(served) as peak:
        one = ownlimits.Upload(served, "parts")
        one.send(20, part)
        assert one.complete() > 0
        ownlimits.time.sleep(3 * ownlimits.SAMPLE_S)
    with Line(store) as line:
        assert line.call("GET", "/bench/parts").data == bytes(part) * 20
    assert peak.bytes > 1 << 20


def test_put_is_judged_by_the_slower_of_two():
    """The target row's peer is the smaller rate; each peer has its own row."""
    mib = storage.MIB
    figures = {"nearfield": 70, "hashing": 200, "disk": 100, "x": 20, storage.PLAIN: 30, storage.BY_MD5: 40}
    rows = storage._put_rows({name: [rate * mib] for name, rate in figures.items()})

    assert (rows[0].ours, rows[0].peer, rows[0].holds) == (70, 100, True)
    assert "disk" in rows[0].what
    assert (rows[2].ours, rows[2].peer, rows[2].target) == (30, 40, None)
    assert (rows[3].peer, rows[3].target, rows[3].holds) == (20, 3.0, True)
    assert len(rows) == 4


def test_get_targets_are_the_issues():
    """0.8 of the bare loop, 2x and 5x the peers."""
    figures = {
        "bare sendfile loop": [10.0],
        "nearfield": [7.0],
        "rclone serve s3": [3.0],
        "OpenStack Swift with s3api": [2.0],
    }
    rows = storage._get_rows(figures, "bare sendfile loop")

    assert [row.target for row in rows] == [0.8, 2.0, 5.0]
    assert [row.holds for row in rows] == [False, True, False]


def test_peers_that_cannot_be_had(monkeypatch, tmp_path):
    """No package index is a reason in the notes, not a crash; the environment is tried again next time."""
    monkeypatch.setattr(packages.sys, "executable", "/bin/false")
    notes = []
    assert storage._peers(None, tmp_path, tmp_path, notes, lambda _: None) == []
    assert "no peers: pip could not install peers.txt" in notes[0]
    assert not (tmp_path / "storage-peers" / packages.DONE).exists()


def test_process_is_ended(tmp_path):
    """Nothing outlives its block, and a server that dies at once is missing with its last words."""
    with servers.process(["sleep", "60"], tmp_path / "log") as child:
        assert child.poll() is None
    assert child.returncode is not None
    store = Endpoint("http://127.0.0.1:9", "AKNONE", "none")
    with servers.process(["sh", "-c", "echo no disk; exit 3"], tmp_path / "log") as child:
        child.wait(60)
        with pytest.raises(servers.Missing, match="no disk"):
            servers.until_answered(child, lambda: store, tmp_path / "log", ownlimits.time.perf_counter())

"""Open files instead of bytes: the same object as over HTTP, checked, never writable, held while in use."""

import fcntl
import hashlib
import http.client
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.client.endpoint import SOCKET_NAME, sign
from storage.disk.leases import Leases
from storage.fault import S3Error
from storage.http.handover import ASK, MAX_FILES
from tests.evidence import count
from tests.storage.stores import ADMIN, READER, Raw, StoreThread, memory_folder
from tests.storage.test_crash import StoreProcess
from tests.storage.test_scrub import LARGE, file_of, flip
from weights_cache.reading.fetch import ReadError
from weights_cache.reading.store_socket import StoreSocket
from wire.listener.descriptors import close_all, connect_unix, listen_unix, receive_descriptors

WAIT_S = 20.0
HOLDER = """
import sys
from pathlib import Path
from storage.client.sdk import Endpoint
from weights_cache.reading.store_socket import StoreSocket
path, url, key, secret = sys.argv[1:]
held = StoreSocket(Path(path), Endpoint(url, key, secret))
print(len(held.open_object("/models/held").fds), flush=True)
sys.stdin.read()
"""
STRANGER = """
import os, socket, sys
os.setresuid(65534, 65534, 65534)
connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
try:
    connection.connect(sys.argv[1])
    connection.sendall(b"GET / HTTP/1.1\\r\\nhost: h\\r\\n\\r\\n")
    print(len(connection.recv(100)))
except OSError as error:
    print(type(error).__name__)
"""


@pytest.fixture
def own():
    """A store of the test's own, with parts of any size and a bucket."""
    store = StoreThread(memory_folder(), min_part_bytes=1)
    with Raw(store.endpoint()) as raw:
        assert raw.send("PUT", "/models").status == 200
        store.raw = raw
        yield store
    store.stop()
    shutil.rmtree(store.settings.root)


class Asked:
    """One ask over the socket: what a client that trusts nothing sees."""

    def __init__(self, store, path, key=ADMIN, **headers):
        self.socket = connect_unix(store.settings.root / SOCKET_NAME, WAIT_S)
        self.fds = []
        wanted = {ASK: "1"} | {name.replace("_", "-"): value for name, value in headers.items()}
        signed = sign(store.endpoint(key), "GET", path, "", tuple(wanted.items()))
        lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in signed), "", ""]
        self.socket.sendall("\r\n".join(lines).encode())
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._more()
        head, _, self.body = data.partition(b"\r\n\r\n")
        first, *rest = head.decode().split("\r\n")
        self.status = int(first.split()[1])
        self.headers = dict(line.split(": ", 1) for line in rest)
        while len(self.body) < int(self.headers.get("content-length", 0)):
            self.body += self._more()

    def _more(self):
        data, fds = receive_descriptors(self.socket, 4096)
        self.fds += fds
        assert data
        return data

    @property
    def extents(self):
        return json.loads(self.body)["extents"]

    def bytes(self):
        return b"".join(os.pread(self.fds[file], length, at) for _, length, file, at in self.extents)

    def close(self):
        self.socket.close()
        close_all(self.fds)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def put_parts(raw, key, parts):
    upload = raw.create_upload("models", key)
    tags = [
        (n, raw.put_part("models", key, upload, n, part).headers["etag"]) for n, part in enumerate(parts, 1)
    ]
    assert raw.complete("models", key, upload, tags).status == 200


def until(fact):
    deadline = time.monotonic() + WAIT_S
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.01)


SIZES = st.integers(1, 5000) | st.integers(16_000, 70_000) | st.sampled_from([4096, 8192, 16_384, 16_385])


@settings(max_examples=count(25, 60), deadline=None)
@given(
    sizes=st.lists(SIZES, min_size=1, max_size=6),
    span=st.tuples(st.integers(0, 100_000), st.integers(1, 100_000)),
)
def test_the_files_hold_the_bytes_and_the_answer_the_headers_of_the_s3_path(small_store, sizes, span):
    """Any layout of parts, equal or odd; whole and by range; ETag, checksum and type are the object's own."""
    whole = b"".join(bytes([n + 1]) * size for n, size in enumerate(sizes))
    start = min(span[0], len(whole) - 1)
    ranged = {"range": f"bytes={start}-{start + span[1] - 1}"}
    with Raw(small_store.endpoint()) as raw:
        at, parts = 0, []
        for size in sizes:
            parts.append(whole[at : at + size])
            at += size
        put_parts(raw, "odd", parts)
        for asked in ({}, ranged):
            byway = raw.get("models", "odd", x_amz_checksum_mode="ENABLED", **asked)
            with Asked(small_store, "/models/odd", x_amz_checksum_mode="ENABLED", **asked) as found:
                assert found.status == byway.status
                assert found.bytes() == byway.body
                assert found.extents[0][0] == (start if asked else 0)
                same = set(byway.headers) - {"content-length", "content-type", "date", "x-amz-request-id"}
                assert {n: found.headers[n] for n in same} == {n: byway.headers[n] for n in same}
                assert found.headers[ASK] == str(len(found.fds))


def test_equal_parts_are_one_run_of_one_file(own):
    """The object of a usual upload can be mapped whole: ten parts, the last one short, one descriptor."""
    parts = [bytes([n]) * 1_048_576 for n in range(9)] + [b"end"]
    put_parts(own.raw, "slab", parts)

    with Asked(own, "/models/slab") as found:
        assert found.extents == [[0, sum(map(len, parts)), 0, 0]]
        assert (len(found.fds), found.bytes()) == (1, b"".join(parts))


def test_a_small_object_is_answered_with_its_bytes(own):
    """It lies in the index: there is no file to hand over, and nothing says that there were one."""
    own.raw.put("models", "small", b"config")

    with Asked(own, "/models/small") as found:
        assert (found.body, found.fds, ASK in found.headers) == (b"config", [], False)
    with_client = StoreSocket(own.settings.root / SOCKET_NAME, own.endpoint())
    assert with_client.open_object("/models/small") is None
    with_client.close()


def test_a_descriptor_cannot_write(own):
    """The holder has the right to read, and no other."""
    own.raw.put("models", "a", LARGE)

    with Asked(own, "/models/a") as found:
        assert fcntl.fcntl(found.fds[0], fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        for change in (lambda fd: os.pwrite(fd, b"x", 0), lambda fd: os.ftruncate(fd, 0)):
            with pytest.raises(OSError, match=r"Bad file descriptor|Invalid argument"):
                change(found.fds[0])
        assert found.bytes() == LARGE


@pytest.mark.parametrize("end", ["delete", "overwrite"])
def test_a_held_file_outlives_its_object_and_goes_with_the_holder(own, end):
    """Garbage collection waits for the lease; the connection's end is the lease's."""
    own.raw.put("models", "a", LARGE)
    path = file_of(own.settings.root, "a")
    found = Asked(own, "/models/a")
    if end == "delete":
        own.raw.delete("models", "a")
        assert own.raw.get("models", "a").status == 404
    else:
        own.raw.put("models", "a", LARGE[::-1])
        assert own.raw.get("models", "a").body == LARGE[::-1]
    own.raw.put("models", "later", LARGE)  # commits after it: the deletion was acted upon by then
    own.raw.delete("models", "later")

    assert path.exists()
    assert found.bytes() == LARGE
    found.close()
    until(lambda: not path.exists())


def test_two_holders_hold_once_each(own):
    """The first to go does not take the file from the other."""
    own.raw.put("models", "a", LARGE)
    path = file_of(own.settings.root, "a")
    one, two = Asked(own, "/models/a"), Asked(own, "/models/a")
    own.raw.delete("models", "a")
    one.close()
    with Asked(own, "/models/a") as gone:
        assert gone.status == 404

    assert path.exists()
    assert two.bytes() == LARGE
    two.close()
    until(lambda: not path.exists())


def test_an_aborted_upload_cannot_change_a_held_slab(own):
    """Parts that lost their place, or come late, are written elsewhere: held bytes never change."""
    parts = [bytes([n]) * 70_000 for n in range(3)]
    upload = own.raw.create_upload("models", "a")
    tags = [
        (n, own.raw.put_part("models", "a", upload, n, part).headers["etag"])
        for n, part in enumerate(parts, 1)
    ]
    own.raw.put_part("models", "a", upload, 2, b"x" * 70_000)
    again = own.raw.put_part("models", "a", upload, 2, parts[1])
    assert again.headers["etag"] == tags[1][1]
    assert own.raw.complete("models", "a", upload, tags).status == 200
    with Asked(own, "/models/a") as found:
        own.raw.put_part("models", "a", upload, 2, b"y" * 70_000)
        own.raw.put("models", "a", b"new" * 30_000)
        assert found.bytes() == b"".join(parts)


def test_a_killed_holder_leaves_nothing_held(own):
    """kill -9: the kernel ends the connection, and that ends the lease."""
    own.raw.put("models", "held", LARGE)
    path = file_of(own.settings.root, "held")
    store = own.endpoint()
    command = [sys.executable, "-c", HOLDER, str(own.settings.root / SOCKET_NAME)]
    holder = subprocess.Popen(
        [*command, store.url, store.access_key, store.secret],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert holder.stdout.readline() == b"1\n"
    own.raw.delete("models", "held")
    own.raw.put("models", "later", LARGE)
    assert path.exists()

    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    holder.stdin.close()
    until(lambda: not path.exists())


def test_a_killed_store_takes_nothing_from_its_holders(tmp_path):
    """kill -9 of the store, its restart, and the sweep of what no row names: the holder reads the same bytes on."""
    store = StoreProcess(tmp_path)
    path = tmp_path / "store" / SOCKET_NAME
    with Raw(store.endpoint) as raw:
        raw.send("PUT", "/models")
        raw.put("models", "a", LARGE)
        held = StoreSocket(path, store.endpoint)
        found = held.open_object("/models/a")
        raw.delete("models", "a")
    assert file_holding(tmp_path / "store")
    store.kill()
    again = StoreProcess(tmp_path)
    until(lambda: not file_holding(tmp_path / "store"))

    data = bytearray(len(LARGE))
    found.read_into(0, memoryview(data))
    assert bytes(data) == LARGE
    with pytest.raises(ReadError):
        held.open_object("/models/a")
    with Raw(again.endpoint) as raw:
        raw.put("models", "b", LARGE)
    fresh = StoreSocket(path, again.endpoint)
    once_more = fresh.open_object("/models/b")
    assert once_more.size == len(LARGE)
    for each in (found, once_more, held, fresh):
        each.close()
    assert again.stop() == 0
    with pytest.raises(ConnectionRefusedError):
        StoreSocket(path, again.endpoint)


def file_holding(root):
    return [each for each in (root / "blobs").rglob("*") if each.is_file()]


def test_a_silent_holder_is_let_go_in_time_and_keeps_its_bytes():
    """The store's books close after `lease_s`; the holder's descriptor does not care."""
    store = StoreThread(memory_folder(), min_part_bytes=1, lease_s=0.2)
    with Raw(store.endpoint()) as raw:
        raw.send("PUT", "/models")
        raw.put("models", "a", LARGE)
        path = file_of(store.settings.root, "a")
        found = Asked(store, "/models/a")
        raw.delete("models", "a")
    until(lambda: not path.exists())

    assert found.socket.recv(1) == b""
    assert found.bytes() == LARGE
    found.close()
    store.stop()
    shutil.rmtree(store.settings.root)


def test_damaged_bytes_are_not_handed_over():
    """A bit that flipped while the store was down: the S3 error, no descriptor, and the file set aside."""
    root = memory_folder()
    store = StoreThread(root, min_part_bytes=1)
    with Raw(store.endpoint()) as raw:
        raw.send("PUT", "/models")
        raw.put("models", "a", LARGE)
        raw.put("models", "good", LARGE[::-1])
    store.stop()
    flip(file_of(root, "a"))
    store = StoreThread(root, min_part_bytes=1)
    for _ in range(2):  # found, and then known
        with Asked(store, "/models/a") as found:
            assert (found.status, found.fds) == (500, [])
            assert b"<Code>InternalError</Code>" in found.body
    with Asked(store, "/models/good") as found:
        assert found.bytes() == LARGE[::-1]

    assert len(list((root / "aside").iterdir())) == 1
    store.stop()
    shutil.rmtree(root)


def test_conditions_hold_as_on_the_s3_path(own):
    """If-Match decides; nothing is handed over for another version."""
    own.raw.put("models", "a", LARGE)
    tag = hashlib.md5(LARGE).hexdigest()

    with Asked(own, "/models/a", if_match=f'"{tag}"') as right:
        assert (right.status, right.headers["etag"]) == (200, f'"{tag}"')
    with Asked(own, "/models/a", if_match='"other"') as wrong:
        assert (wrong.status, wrong.fds) == (412, [])
    with Asked(own, "/models/a", if_none_match=f'"{tag}"') as same:
        assert (same.status, same.fds) == (304, [])


def test_only_who_may_read_gets_a_file(own):
    """Unsigned, wrongly signed, and without a grant: refused as any GET. Over TCP there is nothing to pass it by."""
    own.raw.put("models", "a", LARGE)
    own.raw.put("models", "acme/a", LARGE)
    with Asked(own, "/models/a", key=READER) as foreign, Asked(own, "/models/acme/a", key=READER) as granted:
        assert (foreign.status, foreign.fds) == (403, [])
        assert granted.bytes() == LARGE
    plain = http.client.HTTPConnection("localhost")
    plain.sock = connect_unix(own.settings.root / SOCKET_NAME, WAIT_S)
    plain.request("GET", "/models/a", headers={ASK: "1"})
    answer = plain.getresponse()
    assert (answer.status, b"<Code>AccessDenied</Code>" in answer.read()) == (403, True)
    plain.close()
    over_tcp = own.raw.send("GET", "/models/a", "", {ASK: "1"})
    assert (over_tcp.status, over_tcp.code) == (400, "InvalidRequest")


def test_the_socket_is_the_owners_alone(own):
    """Mode 0600 in a folder of mode 0700."""
    path = own.settings.root / SOCKET_NAME
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_user_is_cut_off_by_the_kernels_word(own, tmp_path):
    """By the mode already; and if the modes were opened, by who the kernel says that connected."""
    path = own.settings.root / SOCKET_NAME

    def stranger(where):
        run = [sys.executable, "-S", "-c", STRANGER, str(where)]
        return subprocess.run(run, capture_output=True, text=True, check=True, cwd="/").stdout.strip()

    assert stranger(path) == "PermissionError"
    own.settings.root.chmod(0o755)
    path.chmod(0o666)
    assert stranger(path) in {"0", "ConnectionResetError", "BrokenPipeError"}
    own.raw.put("models", "a", LARGE)
    with Asked(own, "/models/a") as found:
        assert found.bytes() == LARGE


def test_descriptors_come_in_batches_up_to_a_bound(own):
    """An object of as many files as are handed over at once comes whole, in order; of one more it is refused."""
    parts = [bytes([n % 251]) * (n + 1) for n in range(MAX_FILES)]  # each larger than the first: its own file
    put_parts(own.raw, "many", parts)
    put_parts(own.raw, "more", [*parts, b"z" * (MAX_FILES + 1)])

    with Asked(own, "/models/many") as found:
        assert len(found.fds) == MAX_FILES
        assert found.bytes() == b"".join(parts)
    with Asked(own, "/models/more") as refused:
        assert (refused.status, refused.fds) == (400, [])
        assert b"<Code>InvalidRequest</Code>" in refused.body
    assert own.raw.get("models", "more").body == b"".join([*parts, b"z" * (MAX_FILES + 1)])


def test_leases_are_bounded_in_number(own):
    """Beyond it the answer is SlowDown, and what is let go makes room."""

    class Held:
        def __init__(self):
            self.names = []

        def pin(self, blobs):
            self.names += blobs

        def unpin(self, blobs):
            self.names = [name for name in self.names if name not in blobs]

    class Now:
        def submit(self, act, *arguments):
            act(*arguments)

    blobs = Held()
    leases = Leases(blobs, Now(), max_leased=3)
    two, one = leases.take(["a", "b"]), leases.take(["c"])
    with pytest.raises(S3Error) as full:
        leases.take(["d"])
    assert (full.value.code, full.value.status, sorted(blobs.names)) == ("SlowDown", 503, ["a", "b", "c"])
    two.end()
    two.end()
    assert (leases.num_leased, blobs.names) == (1, ["c"])
    leases.take(["d", "e"])
    one.end()
    assert leases.num_leased == 2


def test_neither_side_leaks_descriptors(own):
    """Hundreds of hand-overs, refusals and connections that end in the middle: as many open files as before."""
    put_parts(own.raw, "a", [b"a" * 10, b"b" * 20, b"c" * 30])
    path = own.settings.root / SOCKET_NAME

    def num_open():
        return sum(1 for _ in Path("/proc/self/fd").iterdir())  # the store's thread is in this process

    with Asked(own, "/models/a"):
        pass
    until(lambda: num_open() > 0)
    before = num_open()
    for turn in range(100):
        with Asked(own, "/models/a") as found:
            assert len(found.fds) == 3
        with Asked(own, "/models/nothing") as missing:
            assert missing.status == 404
        with socket.socket(socket.AF_UNIX) as rude:
            rude.connect(str(path))
            if turn % 2:
                rude.sendall(b"GET /models/a HTTP/1.1\r\n")
    until(lambda: num_open() <= before)
    with StoreLine(own) as line:
        held = [line.open_object("/models/a") for _ in range(20)]
        for each in held:
            each.close()
    until(lambda: num_open() <= before)


class StoreLine:
    """A StoreSocket for a with statement."""

    def __init__(self, store):
        self.line = StoreSocket(store.settings.root / SOCKET_NAME, store.endpoint())

    def __enter__(self):
        return self.line

    def __exit__(self, *_):
        self.line.close()


def test_a_socket_left_by_a_crash_is_replaced_and_a_file_is_not(tmp_path):
    """A path longer than an address may be works too; something else of that name is not touched."""
    root = tmp_path / ("deep-" + "x" * 120)
    root.mkdir(parents=True)
    (root / SOCKET_NAME).write_text("mine")
    store = StoreThread(root, min_part_bytes=1)
    with Raw(store.endpoint()) as raw:
        assert raw.send("PUT", "/models").status == 200  # without a socket, as before
    store.stop()
    assert (root / SOCKET_NAME).read_text() == "mine"
    (root / SOCKET_NAME).unlink()
    left = listen_unix(root / SOCKET_NAME)
    left.close()  # as a crash leaves it: the name is there, nobody listens
    store = StoreThread(root, min_part_bytes=1)
    with Raw(store.endpoint()) as raw:
        raw.put("models", "a", LARGE)
    with Asked(store, "/models/a") as found:
        assert found.bytes() == LARGE
    store.stop()


def test_the_index_knows_nothing_of_leases(own):
    """They are soft state: nothing durable is written for a reader."""
    own.raw.put("models", "a", LARGE)
    db = sqlite3.connect(own.settings.root / "meta.db")
    (before,) = db.execute("SELECT total_changes()").fetchone()
    version = db.execute("PRAGMA data_version").fetchone()
    with Asked(own, "/models/a"):
        assert db.execute("PRAGMA data_version").fetchone() == version
    assert db.execute("SELECT total_changes()").fetchone() == (before,)
    db.close()

"""A reader fills memory with exactly the bytes asked for, or says what went wrong and whether it may pass."""

import datetime as dt
import socket
import ssl
import time
from itertools import pairwise

import pytest

from deploy.trust import pki
from storage.client.sdk import Endpoint
from weights_cache.reading.fetch import TICK_S, WAKE_BYTES, HttpReader, ReadError

from .store_script import Cut, Fault, Hang, Raw, Reset, ScriptedStore, Short, Status

DATA = bytes(range(256)) * 400
PATH = "/nearfield-blobs/abc"


@pytest.fixture
def store():
    found = ScriptedStore({PATH: DATA})
    yield found
    found.close()


@pytest.fixture
def reader(store):
    found = HttpReader(Endpoint(store.url, "AK", "secret"), stall_s=0.4)
    yield found
    found.close()


def read(reader, offset, length):
    data = bytearray(length)
    reader.read_into(PATH, offset, memoryview(data))
    return bytes(data)


@pytest.mark.parametrize(("offset", "length"), [(0, 1), (0, len(DATA)), (7, 10_000), (len(DATA) - 1, 1)])
def test_reads_a_range(reader, offset, length):
    """Any range, whole object included."""
    assert read(reader, offset, length) == DATA[offset : offset + length]


def test_keeps_its_connection_and_says_if_match(store, reader):
    """One connection serves all; the first answer's entity tag guards the rest."""
    for offset in range(0, 50, 10):
        read(reader, offset, 10)

    assert store.num_connections == 1
    assert [request[3] for request in store.requests] == [None, *['"tag-1"'] * 4]


def test_the_readers_of_a_load_share_its_tags(store):
    """An object that changes between the first reads of two of them is noticed."""
    etags = {}
    readers = [HttpReader(Endpoint(store.url, "AK", "secret"), etags, stall_s=0.4) for _ in range(2)]
    read(readers[0], 0, 10)
    store.etag = "tag-2"
    with pytest.raises(ReadError) as caught:
        read(readers[1], 10, 10)
    for each in readers:
        each.close()

    assert (caught.value.code, etags) == ("changed", {})


def test_a_whole_object_may_come_without_its_range(store, reader):
    """A store may say 200 to a range that is everything."""
    store.faults.append(Raw(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(DATA) + DATA))

    assert read(reader, 0, len(DATA)) == DATA


def test_requests_are_signed(store):
    """What the signer says goes out; the signer sees method, path and range."""
    seen = []

    def signer(endpoint, method, path, query, headers):
        seen.append((endpoint.access_key, method, path, query, dict(headers)))
        return (*headers, ("host", "store"), ("authorization", "AWS4 x"))

    reader = HttpReader(Endpoint(store.url, "AK", "secret"), signer=signer)
    read(reader, 5, 10)
    reader.close()

    assert seen == [("AK", "GET", PATH, "", {"range": "bytes=5-14"})]


def test_closed_idle_connection_is_replaced_at_once(store, reader):
    """A store that dropped the idle connection costs no error."""
    read(reader, 0, 10)
    store.drop_connections()

    assert read(reader, 10, 10) == DATA[10:20]
    assert store.num_connections == 2


BROKEN = [
    (Cut(), "closed", True),
    (Reset(), "closed", True),
    (Short(), "wrong_length", True),
    (Status(503), "status_503", True),
    (Status(500), "status_500", True),
    (Status(429), "status_429", True),
    (Status(404), "status_404", False),
    (Status(403), "status_403", False),
    (Status(416), "status_416", False),
    (Status(412), "changed", True),
    (Status(200), "wrong_range", True),
    (Raw(b"HTTP/1.1 206 P\r\ncontent-length: 10\r\n\r\n0123456789"), "wrong_range", True),
    (
        Raw(b"HTTP/1.1 206 P\r\ncontent-length: 10\r\ncontent-range: bytes 0-9/99\r\n\r\n"),
        "wrong_range",
        True,
    ),
    (
        Raw(b"HTTP/1.1 206 P\r\ncontent-length: 9\r\ncontent-range: bytes 3-12/99\r\n\r\n"),
        "wrong_length",
        True,
    ),
    (
        Raw(b"HTTP/1.1 206 P\r\ntransfer-encoding: chunked\r\ncontent-range: bytes 3-12/99\r\n\r\n"),
        "wrong_length",
        True,
    ),
    (
        Raw(b"HTTP/1.1 206 P\r\ncontent-length: 10\r\ncontent-range: bytes 3-12/99\r\n\r\n0123456789more"),
        "wrong_length",
        True,
    ),
    (Raw(b"HTTP/1.1 206 P\r\ncontent-length: 10\r\ncontent-length: 11\r\n\r\n"), "not_http", False),
    (Raw(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), "not_http", False),
    (Raw(b"x" * 40_000), "not_http", False),
    (Raw(b""), "closed", True),
    (Hang(), "timeout", True),
]


@pytest.mark.parametrize("case", range(len(BROKEN)))
def test_broken_answers(store, reader, case):
    """Each way to answer wrongly has its code, and the next read on the same reader is good again."""
    fault, code, retryable = BROKEN[case]
    store.faults.append(fault)
    with pytest.raises(ReadError) as caught:
        read(reader, 3, 10 if isinstance(fault, Raw) else 1_000)

    assert (caught.value.code, caught.value.retryable) == (code, retryable)
    assert read(reader, 3, 1_000) == DATA[3:1_003]


LARGE = bytes(range(251)) * (4 * WAKE_BYTES // 251)


class Trickle(Fault):
    """A large body in pieces that are each too small to wake a dozing reader, with pauses between some of them."""

    def answer(self, store, connection, request):
        body = store.body(request)
        connection.sendall(store.head(request, len(body)))
        for start in range(0, len(body), PIECE):
            connection.sendall(body[start : start + PIECE])
            if start // PIECE % 4 == 0:
                time.sleep(0.01)
        return True


PIECE = WAKE_BYTES // 7


def test_a_reader_that_dozes_gets_all_bytes_and_wakes_for_the_last(store, reader):
    """However the pieces fall; on the same connection the next small answer is not slept through."""
    store.objects["/large"] = LARGE
    store.faults.append(Trickle())
    data, ends = bytearray(len(LARGE) - 3), [5, WAKE_BYTES, 2 * WAKE_BYTES + 1, len(LARGE) - 3]
    views = [memoryview(data)[start:end] for start, end in pairwise([0, *ends])]
    reader.read_run("/large", 3, len(data), iter(views))

    assert data == LARGE[3:]
    assert reader._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1
    assert read(reader, 5, 10) == DATA[5:15]
    assert store.num_connections == 1


class Halt(Hang):
    """The head and fewer bytes than wake a dozing reader; then nothing."""

    def answer(self, store, connection, request):
        body = store.body(request)
        connection.sendall(store.head(request, len(body)) + body[:PIECE])
        return super().answer(store, connection, request)


def test_a_large_body_that_stalls_is_a_timeout(store, reader):
    """A reader that dozes looks at the clock all the same."""
    store.objects["/large"] = LARGE
    store.faults.append(Halt())
    with pytest.raises(ReadError) as caught:
        reader.read_run("/large", 0, len(LARGE), iter([memoryview(bytearray(len(LARGE)))]))

    assert (caught.value.code, caught.value.retryable) == ("timeout", True)


def test_changed_object_is_noticed(store, reader):
    """Another entity tag is an error once; the tag is read anew then."""
    read(reader, 0, 10)
    store.etag = "tag-2"
    with pytest.raises(ReadError, match="changed"):
        read(reader, 0, 10)

    assert read(reader, 0, 10) == DATA[:10]
    assert [request[3] for request in store.requests] == [None, '"tag-1"', None]


def test_nobody_listens(store):
    """A refused connection is retryable."""
    store.close()
    reader = HttpReader(Endpoint(store.url, "AK", "secret"))
    with pytest.raises(ReadError) as caught:
        read(reader, 0, 1)

    assert caught.value.retryable


@pytest.fixture
def authority(tmp_path):
    return pki.ensure(tmp_path, dt.datetime.now(dt.UTC))


@pytest.fixture
def tls_store(authority):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority.cert, authority.key)
    found = ScriptedStore({PATH: DATA}, context)
    yield found
    found.close()


def test_reads_over_tls(tls_store, authority):
    """The same bytes through TLS, on one connection, checked against the given authority."""
    reader = HttpReader(Endpoint(tls_store.url, "AK", "secret", ca=str(authority.ca)), stall_s=0.4)
    assert read(reader, 0, len(DATA)) == DATA
    assert read(reader, 9, 10) == DATA[9:19]
    tls_store.faults.append(Hang())
    with pytest.raises(ReadError) as caught:
        read(reader, 0, 10)
    reader.close()

    assert caught.value.code == "timeout"
    assert tls_store.num_connections == 1


def test_a_handshake_may_take_longer_than_a_look_at_a_stall(tls_store, authority):
    """A store beyond a sea, or beside busy processors: several ways there and back before the first byte."""
    tls_store.greeting_s = 2 * TICK_S
    reader = HttpReader(Endpoint(tls_store.url, "AK", "secret", ca=str(authority.ca)))
    assert read(reader, 0, len(DATA)) == DATA
    reader.close()

    assert tls_store.num_connections == 1


def test_stranger_with_tls_is_not_trusted(tls_store):
    """Without its authority the store is not believed, and no request is sent."""
    reader = HttpReader(Endpoint(tls_store.url, "AK", "secret"))
    with pytest.raises(ReadError):
        read(reader, 0, 10)

    assert tls_store.requests == []

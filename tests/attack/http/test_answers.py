"""Hostile upstreams: an answer is read as h11 reads it or is an error; a cut one never reaches a client as whole."""

import asyncio
import random
import time

import h11
import pytest

from tests.attack.http import mutate
from tests.evidence import count
from tests.wire.test_dial import sends, upstream
from wire.dial import DialError
from wire.http.http1 import Body, End, ResponseError, ResponseHead, ResponseReader, Unframed

NUM_MUTATED = count(1_000, 200_000)
HANG_S = 1.0  # of processor time
BODY = b"0123456789" * 20
LENGTH = b'HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nContent-Length: 200\r\nETag: "x"\r\n\r\n' + BODY
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nServer: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"64\r\n%b\r\n5;a=b\r\n%b\r\n5f\r\n%b\r\n0\r\nX-Sum: 1\r\n\r\n" % (BODY[:100], BODY[100:105], BODY[105:])
)
GOOD = {
    "length": ("GET", LENGTH),
    "chunked": ("GET", CHUNKED),
    "to the close": ("GET", b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\n" + BODY),
    "interim": ("POST", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + LENGTH),
    "no content": ("DELETE", b"HTTP/1.1 204 No Content\r\nDate: now\r\n\r\n"),
    "head": ("HEAD", LENGTH[: -len(BODY)]),
    "not modified": ("GET", b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\nContent-Length: 200\r\n\r\n'),
    "error": (
        "PUT",
        b"HTTP/1.1 503 Slow Down\r\nRetry-After: 1\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno",
    ),
}


def by_us(method, stream):
    """(status, headers, body) and whether another may follow; None for an error or a cut answer."""
    reader, status, headers, body, ended = ResponseReader(), 0, (), b"", False
    reader.start(method)
    try:
        events = reader.receive(stream) if stream else []
        reusable = reader.reusable
        if not any(isinstance(event, End) for event in events):
            events += reader.receive_eof()
    except (ResponseError, Unframed):
        return None
    for event in events:
        if isinstance(event, ResponseHead):
            status, headers, keep = event.status, event.headers, event.keep_alive
        elif isinstance(event, Body):
            body += event.data
        ended = isinstance(event, End)
    assert ended
    return status, headers, body, reusable and keep


def by_h11(method, stream):
    """The same by h11."""
    client = h11.Connection(h11.CLIENT, max_incomplete_event_size=2**20)
    client.send(h11.Request(method=method, target="/", headers=[("host", "h")]))
    client.send(h11.EndOfMessage())
    client.receive_data(stream)
    client.receive_data(b"")
    status, headers, body = 0, (), b""
    while not isinstance(event := client.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Response):
            status, headers = event.status_code, tuple(event.headers)
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
    headers = tuple((name.decode(), value.decode("latin-1")) for name, value in headers)
    return status, headers, body, client.their_state is h11.DONE and not client.trailing_data[0]


def check(method, stream) -> bool:
    """True if it was read as a whole answer, alike by both."""
    ours = by_us(method, stream)
    if ours is None:
        return False
    theirs = by_h11(method, stream)
    lowered = tuple((n, v.lower() if n == "transfer-encoding" else v) for n, v in ours[1])
    assert (ours[0], lowered, ours[2]) == theirs[:3]
    assert theirs[3] or not ours[3], "we would use a connection again that h11 would not"
    return True


@pytest.mark.parametrize("name", GOOD)
def test_good_answers_are_read_wherever_they_are_cut(name):
    method, stream = GOOD[name]
    assert check(method, stream)
    for cut in range(1, len(stream)):
        reader, body = ResponseReader(), b""
        reader.start(method)
        for part in (stream[:cut], stream[cut:]):
            body += b"".join(event.data for event in reader.receive(part) if isinstance(event, Body))
        assert body == by_us(method, stream)[2]


def test_h11_agrees_on_every_mutated_answer():
    num_whole = 0
    for seed in range(NUM_MUTATED):
        rng = random.Random(seed)
        method, stream = rng.choice(tuple(GOOD.values()))
        data = mutate.mutated(rng, stream, mutate.ANSWERS)
        began = time.thread_time()
        try:
            num_whole += check(method, data)
        except Exception as error:
            raise AssertionError(f"case {seed}: {method} {data!r}") from error
        assert time.thread_time() - began < HANG_S, (seed, data)
    assert NUM_MUTATED / 10 < num_whole < NUM_MUTATED * 0.9


def _answer(*lines: bytes, body: bytes = b"ok") -> bytes:
    return b"\r\n".join([b"HTTP/1.1 200 OK", *lines, b"", b""]) + body


HOSTILE = {
    "both lengths": _answer(b"Content-Length: 2", b"Transfer-Encoding: chunked"),
    "two lengths": _answer(b"Content-Length: 2", b"Content-Length: 3"),
    "two equal lengths": _answer(b"Content-Length: 2", b"Content-Length: 2"),
    "a list of lengths": _answer(b"Content-Length: 2, 2"),
    "an odd length": _answer(b"Content-Length: 0x2"),
    "an unknown coding": _answer(b"Transfer-Encoding: gzip, chunked"),
    "a coding on 1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "a bad size": _answer(b"Transfer-Encoding: chunked", body=b"0x2\r\nok\r\n0\r\n\r\n"),
    "a bad end of a chunk": _answer(b"Transfer-Encoding: chunked", body=b"2\r\nokXX0\r\n\r\n"),
    "a short chunk": _answer(b"Transfer-Encoding: chunked", body=b"3\r\nok"),
    "no last chunk": _answer(b"Transfer-Encoding: chunked", body=b"2\r\nok\r\n"),
    "a cut last chunk": _answer(b"Transfer-Encoding: chunked", body=b"2\r\nok\r\n0\r\n"),
    "a trailer that frames": _answer(
        b"Transfer-Encoding: chunked", body=b"2\r\nok\r\n0\r\nContent-Length: 1\r\n\r\n"
    ),
    "a cut body": _answer(b"Content-Length: 3"),
    "a cut large body": _answer(b"Content-Length: 3000000", body=b"x" * 2_000_000),
    "a cut head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "no end at all": _answer(),
    "no end on 1.0": b"HTTP/1.0 200 OK\r\n\r\nok",
    "interim answers without end": b"HTTP/1.1 102 Processing\r\n\r\n" * 100_000,
    "an upgrade": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "many headers": _answer(*[b"A: b"] * 5_000, b"Content-Length: 2"),
    "a long header": _answer(b"A: " + b"b" * 100_000, b"Content-Length: 2"),
    "headers without end": b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 50_000,
    "a folded header": _answer(b"A: b", b" c", b"Content-Length: 2"),
    "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    "a bare CR": _answer(b"A: b\rContent-Length: 2"),
    "a NUL": _answer(b"A: \0", b"Content-Length: 2"),
    "a space before the colon": _answer(b"Content-Length : 2"),
    "another version": b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "no status": b"HTTP/1.1\r\nContent-Length: 2\r\n\r\nok",
    "a long status": b"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok",
    "a blank line first": b"\r\n" + _answer(b"Content-Length: 2"),
    "something else": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "nothing": b"",
}


async def whole(pool):
    answer = await pool.request("GET", "/x", framed=True)
    return answer.head.status, await answer.read()


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_answer_is_an_error_and_the_last_of_its_connection(name):
    async with upstream(sends(HOSTILE[name])) as pool:
        with pytest.raises(DialError) as error:
            await whole(pool)

        assert error.value.phase in {"head", "body"}
        assert (pool.num_idle, pool.num_busy) == (0, 0)


@pytest.mark.parametrize(
    "extra", [b"x", b"\r\n", LENGTH, b"HTTP/1.1 408 Too Late\r\nConnection: close\r\n\r\n"]
)
@pytest.mark.parametrize("late_s", [0.0, 0.02])
async def test_an_answer_with_more_behind_it_is_the_last_of_its_connection(extra, late_s):
    """What follows unasked would be read as the answer to somebody else's request."""

    async def script(reader, writer):
        while True:
            await reader.readuntil(b"\r\n\r\n")
            if late_s:
                writer.write(LENGTH)
                await asyncio.sleep(late_s)
                writer.write(extra)
            else:
                writer.write(LENGTH + extra)

    async with upstream(script) as pool:
        for num in (1, 2):
            answer = await pool.request("GET", "/x", framed=True)
            assert await answer.read() == BODY
            async with asyncio.timeout(60):
                while pool.num_idle:  # noqa: ASYNC110 - it is kept until what follows has come
                    await asyncio.sleep(late_s)
            assert (pool.num_idle, len(pool.connections)) == (0, num)


async def test_no_hostile_answer_looks_whole_to_a_client(world):
    """Through the S3 door: a clean error while nothing was sent, else an answer that is plainly broken."""
    said: list[bytes] = []
    num_connections = 0

    async def store(reader, writer):
        nonlocal num_connections
        num_connections += 1
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(said[-1])
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        writer.close()

    server = await asyncio.start_server(store, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    edge = await world(names=("iad",), s3_upstream=f"127.0.0.1:{port}", served_hosts=frozenset({"*"}))
    for data in HOSTILE.values():
        said.append(data)
        answer = await edge.pools["s3"].request("GET", "/b/k")
        if answer.head.status == 503:
            await answer.read()
            continue
        with pytest.raises(DialError, match="body"):
            await answer.read()
    assert num_connections == len(HOSTILE), "none was used again"
    server.close()

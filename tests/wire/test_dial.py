"""The dialler: what an upstream may do to us, and what we then say."""

import asyncio
import contextlib
import gc
import socket
import time
from functools import partial

import pytest

from edge import listeners as edge
from edge import s3
from storage import run as storage
from tests.wire.certs import make_certificate
from tests.wire.test_serve import serving, until
from wire import dial, scrape
from wire.address import split_address
from wire.dial import IDLE_S, MARGIN_S, DialError, Pool
from wire.http.limits import DEFAULT_LIMITS
from wire.listener.writing import RESET_ON_CLOSE
from wire.secured import ticket
from wire.secured.tls import client_context, server_context

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@contextlib.asynccontextmanager
async def upstream(*scripts):
    """A server whose n-th connection is handled by `scripts[n]` (the last one again and again)."""
    connections = []
    tasks = set()

    async def accept(reader, writer):
        script = scripts[min(len(connections), len(scripts) - 1)]
        connections.append(writer)
        tasks.add(asyncio.current_task())
        try:
            await script(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    pool = Pool(*server.sockets[0].getsockname()[:2])
    pool.connections = connections
    try:
        yield pool
    finally:
        await pool.close()
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def sends(data, *, requests=1, then="close"):
    """A script: read `requests` heads, answer each with `data`; then close, reset or hang."""

    async def script(reader, writer):
        for _ in range(requests):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(data)
            await writer.drain()
        if then == "reset":
            await asyncio.sleep(0.01)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            writer.transport.abort()
        elif then == "hang":
            await asyncio.sleep(100)

    return script


async def fetch(pool, **options):
    answer = await pool.request("GET", "/x", **options)
    return answer.head.status, await answer.read()


async def test_connections_are_reused():
    async with upstream(sends(OK, requests=5)) as pool:
        for _ in range(5):
            assert await fetch(pool) == (200, b"ok")

        assert len(pool.connections) == 1
        assert (pool.num_idle, pool.num_busy) == (1, 0)


async def test_a_request_is_out_before_what_is_done_meanwhile():
    """Nor is what leaves with it any wait of its upstream's: the moment is known."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        pool, loop, seen = Pool(*listener.getsockname()), asyncio.get_running_loop(), []
        pool.prepare(1)
        peer, _ = await loop.sock_accept(listener)
        await until(lambda: pool.num_idle)
        before = time.perf_counter()

        def meanwhile():
            seen.append(peer.recv(1 << 16))
            peer.send(OK)

        with peer:
            answer = await pool.request("GET", "/x", meanwhile=meanwhile)
            assert seen[0].startswith(b"GET /x HTTP/1.1\r\n")
            assert before < answer.sent_at < answer.heard_at
            assert await answer.read() == b"ok"
        await pool.close()


async def test_who_wants_to_know_hears_of_the_next_use_once():
    """Of a connection that is begun, made, or kept."""
    told = []
    async with upstream(sends(OK, requests=5)) as pool:
        for _ in range(2):
            pool.on_use = lambda: told.append(len(pool.in_use()))
            await fetch(pool)
            await fetch(pool)
            assert pool.on_use is None

    assert told == [1, 1]


class Waits:
    """A lane's request that waits for a connection."""

    def go(self, upstream):
        self.upstream = upstream


async def test_they_hear_of_a_connection_that_goes_from_one_request_to_the_next():
    told, waits = [], Waits()
    async with upstream(sends(OK, requests=5)) as pool:
        await fetch(pool)
        kept = pool.kept(asyncio.get_running_loop().time())
        pool.brief.join(waits)
        pool.on_use = lambda: told.append(pool.in_use())
        pool.keep(kept, kept.now())
        pool.forget(kept)

        assert told == [(waits.upstream,)] == [(kept,)]
        assert not pool.in_use()
        assert not pool.num_idle
        kept.abort()


async def test_connections_are_prepared_once():
    async with upstream(sends(OK, requests=5)) as pool:
        for _ in range(2):
            pool.prepare(3)
        await until(lambda: pool.num_idle == 3)
        assert len(pool.connections) == 3
        pool.prepare(2)
        assert await fetch(pool) == (200, b"ok")
        assert len(pool.connections) == 3


async def test_what_was_prepared_long_ago_is_prepared_anew():
    """A pool that nobody uses lets nothing go by itself: what is there may be closed before it is used."""
    async with upstream(sends(OK, requests=5)) as pool:
        pool.prepare(2)
        await until(lambda: pool.num_idle == 2)
        old = pool.idle()
        for each in old:
            each.idle_since -= IDLE_S + 1.0
        pool.prepare(2)
        await until(lambda: pool.num_idle == 2)
        assert all(each.closed for each in old)
        assert len(pool.connections) == 4


async def test_who_opens_gives_up_sooner_than_who_serves():
    """A server closes a connection that never had a request after the time of a head, not after that of idleness."""
    async with upstream(sends(OK, requests=5)) as pool:
        pool.prepare(1)
        await until(lambda: pool.num_idle == 1)
        (spare,) = pool.idle()
        told_at = spare.opened_at  # no later than its server heard of it
        assert pool.kept(told_at + DEFAULT_LIMITS.head_s - MARGIN_S - 0.1) is spare
        pool.keep(spare, told_at + 9.0)  # unused again: its server's clock runs on
        assert pool.kept(told_at + DEFAULT_LIMITS.head_s - MARGIN_S + 0.1) is None
        assert spare.closed

        assert await fetch(pool) == (200, b"ok")
        (used,) = pool.idle()
        answered_at = used.idle_since
        assert pool.kept(answered_at + DEFAULT_LIMITS.idle_s - MARGIN_S - 0.1) is used
        pool.keep(used, answered_at)
        assert pool.kept(answered_at + DEFAULT_LIMITS.idle_s - MARGIN_S + 0.1) is None


@pytest.mark.parametrize("limits", [DEFAULT_LIMITS, edge.LIMITS, s3.LIMITS, storage.LIMITS, scrape.LIMITS])
def test_every_server_of_ours_has_the_patience_that_our_pools_count_on(limits):
    assert limits.head_s >= dial.UNUSED_S + MARGIN_S
    assert limits.idle_s >= IDLE_S + MARGIN_S


async def test_a_spare_one_among_used_ones_is_let_go_in_its_own_time(monkeypatch):
    monkeypatch.setattr(dial, "TIDY_S", 0.0)
    async with upstream(sends(OK, requests=5)) as pool:
        assert await fetch(pool) == (200, b"ok")
        pool.prepare(2)
        await until(lambda: pool.num_idle == 2)
        used, spare = pool.idle()
        spare.idle_since -= dial.UNUSED_S + 1.0
        now = asyncio.get_running_loop().time()
        pool.keep(used := pool._idle.popleft(), now)
        assert (pool.idle(), spare.closed) == ((used,), True)


async def test_an_attempt_that_ends_without_a_word_is_an_error_not_a_cancel(monkeypatch):
    """A cancel in the one who waits would look as if its client had gone, who then would hear nothing."""
    async with upstream(sends(OK)) as pool:
        held_back(pool, monkeypatch)
        asking = asyncio.ensure_future(pool.request("GET", "/"))
        await until(lambda: pool._making._tasks)
        for making in tuple(pool._making._tasks):
            making.cancel()
        with pytest.raises(DialError, match="connect: the attempt was given up"):
            await asking


async def test_nobody_hears_of_a_preparation_that_fails():
    pool = Pool("127.0.0.1", 9)
    pool.prepare(2)
    await asyncio.gather(*pool._making._tasks)
    assert (pool.num_idle, pool.in_use()) == (0, ())
    await pool.close()


async def answering_together(there, reader, writer):
    """Nobody has an answer before everybody has asked."""
    while True:
        await reader.readuntil(b"\r\n\r\n")
        await there.wait()
        writer.write(OK)


async def test_as_many_connections_are_kept_as_were_busy_at_once():
    num = 100
    async with upstream(partial(answering_together, asyncio.Barrier(num))) as pool:
        for _ in range(3):
            found = await asyncio.wait_for(asyncio.gather(*(fetch(pool) for _ in range(num))), 60)
            assert found == [(200, b"ok")] * num

        assert len(pool.connections) == num
        assert (pool.num_idle, pool.num_busy) == (num, 0)


async def test_connections_that_nobody_needed_for_a_while_are_let_go(monkeypatch):
    monkeypatch.setattr(dial, "TIDY_S", 0.0)
    num = 20
    async with upstream(partial(answering_together, asyncio.Barrier(num))) as pool:
        for _ in range(2):
            await asyncio.wait_for(asyncio.gather(*(fetch(pool) for _ in range(num))), 60)
        oldest = pool.idle()[: num // 2]
        for kept in oldest:
            kept.idle_since -= IDLE_S + 1
        now = asyncio.get_running_loop().time()
        pool.keep(pool.kept(now), now)

        assert pool.num_idle == num - len(oldest)
        assert all(each.closed for each in oldest)


def held_back(pool, monkeypatch):
    """Every connection from here on is made once this is set."""
    name, gate = pool._making._target.name, asyncio.Event()
    known = name.addresses

    async def addresses(_):
        await gate.wait()
        return await known()

    monkeypatch.setattr(type(name), "addresses", addresses)
    return gate


async def taking(seconds, reader, writer):
    while True:
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(seconds)
        writer.write(OK)


async def test_a_connection_that_becomes_free_is_taken_before_the_own_one_is_made(monkeypatch):
    """The own one is kept then, for the next."""
    async with upstream(partial(taking, 0.05)) as pool:
        first = asyncio.ensure_future(fetch(pool))
        await until(lambda: pool.num_busy)
        gate = held_back(pool, monkeypatch)
        found = await asyncio.wait_for(asyncio.gather(first, fetch(pool), fetch(pool)), 30)
        assert found == [(200, b"ok")] * 3
        assert (len(pool.connections), pool.num_busy) == (1, 0)
        gate.set()
        await until(lambda: pool.num_idle == 3)


async def test_who_no_longer_waits_for_a_connection_takes_none(monkeypatch):
    async with upstream(partial(taking, 0.05)) as pool:
        first = asyncio.ensure_future(fetch(pool))
        await until(lambda: pool.num_busy)
        gate = held_back(pool, monkeypatch)
        second, third = (asyncio.ensure_future(fetch(pool)) for _ in range(2))
        await asyncio.sleep(0)
        second.cancel()
        assert await asyncio.wait_for(asyncio.gather(first, third), 30) == [(200, b"ok")] * 2
        gate.set()
        await until(lambda: (pool.num_idle, pool.num_busy) == (2, 0))
        with pytest.raises(asyncio.CancelledError):
            await second


async def test_a_freed_connection_that_turns_out_closed_is_no_failure(monkeypatch):
    async with upstream(sends(OK), partial(taking, 0.0)) as pool:
        first = await pool.request("GET", "/x")
        gate = held_back(pool, monkeypatch)
        second = asyncio.ensure_future(fetch(pool))
        await asyncio.sleep(0.02)
        await first.read()  # its connection is given on, and is closed by the other side
        gate.set()
        assert await second == (200, b"ok")


async def test_a_connection_that_is_over_is_given_to_nobody(monkeypatch):
    """One that was given to a request may end before that one, which has gone meanwhile, gives it back."""
    async with upstream(partial(taking, 0.0)) as pool:
        assert await fetch(pool) == (200, b"ok")
        over = pool.kept(asyncio.get_running_loop().time())
        gate = held_back(pool, monkeypatch)
        waits = asyncio.ensure_future(fetch(pool))
        await asyncio.sleep(0)
        in_brief = InBrief()
        pool.brief.join(in_brief)
        over.abort()
        pool.keep(over, over.now())
        await in_brief.told.wait()
        gate.set()

        assert in_brief.got is None
        assert await asyncio.wait_for(waits, 20) == (200, b"ok")


async def test_a_connection_that_ends_before_it_is_used_is_an_error_at_once():
    async with upstream(partial(taking, 0.0)) as pool:
        assert await fetch(pool) == (200, b"ok")
        over = pool.kept(asyncio.get_running_loop().time())
        over.abort()
        with pytest.raises(DialError, match="over"):
            over.begin("GET", b"GET / HTTP/1.1\r\n\r\n", whole=True)


class InBrief:
    """A request that waits a moment for a connection."""

    def __init__(self):
        self.got, self.told = None, asyncio.Event()

    def go(self, upstream):
        self.got = upstream
        self.told.set()

    def give_up(self):
        self.told.set()


async def test_a_pool_that_closes_makes_no_connection_more(monkeypatch):
    async with upstream(partial(taking, 0.0)) as pool:
        held_back(pool, monkeypatch)
        waiting = asyncio.ensure_future(fetch(pool))
        await asyncio.sleep(0.01)
        await pool.close()
        with pytest.raises(DialError) as error:
            await waiting
        assert error.value.phase == "connect"
        assert pool.in_use() == ()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n", b"ok"),
        (b"HTTP/1.1 200 OK\r\n\r\nok", b"ok"),
        (b"HTTP/1.0 200 OK\r\n\r\nok", b"ok"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK, b"ok"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
    ],
)
async def test_every_framing_is_read(data, expected):
    async with upstream(sends(data)) as pool:
        assert (await fetch(pool))[1] == expected


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 4097 + OK,
        b"ICY 200 OK\r\n\r\n",
        b"garbage\r\n\r\n",
    ],
)
async def test_odd_answers_are_errors(data):
    async with upstream(sends(data, then="hang")) as pool:
        with pytest.raises(DialError) as error:
            await fetch(pool)

        assert error.value.phase == "head"
        assert error.value.received > 0
        assert (pool.num_idle, pool.num_busy) == (0, 0)


async def test_an_answer_knows_when_its_bytes_came_and_not_when_they_were_read():
    async with upstream(sends(OK, then="hang")) as pool:
        asked = time.perf_counter()
        answer = await pool.request("GET", "/")
        here = time.perf_counter()
        assert await answer.next() == b"ok"

    assert asked < answer.heard_at <= here


async def test_bytes_after_an_answer_end_the_connection():
    async with upstream(sends(OK + b"HTTP/1.1 200 OK\r\n\r\n", then="hang")) as pool:
        assert await fetch(pool) == (200, b"ok")
        assert pool.num_idle == 0


async def test_refused_connections():
    server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    with pytest.raises(DialError) as error:
        await fetch(Pool("127.0.0.1", port))

    assert (error.value.phase, error.value.received, error.value.timed_out) == ("connect", 0, False)


@pytest.mark.parametrize("then", ["close", "reset"])
async def test_an_end_before_the_head(then):
    async with upstream(sends(b"", then=then)) as pool:
        with pytest.raises(DialError) as error:
            await fetch(pool)

        assert (error.value.phase, error.value.received) == ("head", 0)
        assert len(pool.connections) == 1  # a fresh connection is never tried twice


async def test_an_end_inside_the_head():
    async with upstream(sends(b"HTTP/1.1 200 OK\r\nCont", then="reset")) as pool:
        with pytest.raises(DialError) as error:
            await fetch(pool)

        assert error.value.phase == "head"
        assert error.value.received == 21


@pytest.mark.parametrize("then", ["close", "reset"])
@pytest.mark.parametrize("framing", [b"Content-Length: 5", b"Transfer-Encoding: chunked"])
async def test_an_end_inside_the_body(then, framing):
    head = b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n"
    async with upstream(sends(head + (b"ok" if b"5" in framing else b"2\r\nok\r\n"), then=then)) as pool:
        answer = await pool.request("GET", "/x")
        got = []

        async def consume():
            got.extend([data async for data in answer.chunks()])

        assert await answer.next() == b"ok"
        with pytest.raises(DialError) as error:
            await consume()

        assert got == []
        assert error.value.phase == "body"
        assert (pool.num_idle, pool.num_busy) == (0, 0)


async def test_a_reset_is_not_the_end_of_an_answer():
    """Only a close can be, and only where nothing else was said; a relay takes no such answer at all."""
    head = b"HTTP/1.1 200 OK\r\n\r\nok"
    async with upstream(sends(head, then="reset")) as pool:
        answer = await pool.request("GET", "/x")
        assert await answer.next() == b"ok"
        with pytest.raises(DialError) as error:
            await answer.next()
        assert error.value.phase == "body"
    async with upstream(sends(head)) as pool:
        assert await fetch(pool) == (200, b"ok")
        with pytest.raises(DialError, match="where it ends"):
            await fetch(pool, framed=True)
        assert (pool.num_idle, pool.num_busy) == (0, 0)


async def test_silence_has_a_deadline_in_each_phase():
    async with upstream(sends(b"", then="hang")) as pool:
        with pytest.raises(DialError) as error:
            await fetch(pool, head_s=0.05)
        assert (error.value.phase, error.value.timed_out) == ("head", True)
    async with upstream(sends(OK[:-1], then="hang")) as pool:
        answer = await pool.request("GET", "/x")
        assert await answer.next(0.05) == b"o"
        with pytest.raises(DialError) as error:
            await answer.next(0.05)
        assert (error.value.phase, error.value.timed_out) == ("body", True)


@pytest.mark.parametrize("body", [None, b"again"])
async def test_a_stale_connection_is_tried_once_more(body):
    async with upstream(sends(OK, then="close"), sends(OK, then="hang")) as pool:
        assert await fetch(pool) == (200, b"ok")
        # the close has not been seen yet: the loop did not run in between
        answer = await pool.request("POST", "/x", body=body)
        assert await answer.read() == b"ok"
        assert len(pool.connections) == 2


async def test_a_stale_connection_twice_is_an_error():
    async with upstream(sends(OK, then="close"), sends(b"", then="reset")) as pool:
        await fetch(pool)
        with pytest.raises(DialError):
            await fetch(pool)

        assert len(pool.connections) == 2


async def test_a_kept_connection_with_an_answer_begun_is_not_retried():
    async def script(reader, writer):
        await sends(OK)(reader, writer)
        await sends(b"HTTP/1.1 200 OK\r\n", then="reset")(reader, writer)

    async with upstream(script) as pool:
        await fetch(pool)
        with pytest.raises(DialError) as error:
            await fetch(pool)

        assert error.value.received > 0
        assert len(pool.connections) == 1


@pytest.mark.parametrize("when", ["head", "body", "dropped"])
async def test_giving_up_closes_the_upstream_at_once(when):
    asked, closed = asyncio.Event(), asyncio.Event()

    async def script(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        if when != "head":
            writer.write(OK[:-1])
        asked.set()
        with contextlib.suppress(ConnectionError):
            await reader.read()
        closed.set()

    async def client(pool):
        answer = await pool.request("GET", "/x")
        await answer.read()

    async with upstream(script) as pool:
        if when == "dropped":
            answer = await pool.request("GET", "/x")
            del answer
            gc.collect()
        else:
            task = asyncio.ensure_future(client(pool))
            await asked.wait()
            await asyncio.sleep(0.05)  # for what was written to come
            task.cancel()
        await asyncio.wait_for(closed.wait(), 30)
        assert (pool.num_idle, pool.num_busy) == (0, 0)


async def test_leaving_an_answer_early_closes_it():
    async with upstream(sends(OK[:-1], then="hang")) as pool:
        async with await pool.request("GET", "/x") as answer:
            assert answer.head.content_length == 2
        assert (pool.num_idle, pool.num_busy) == (0, 0)
        assert await answer.next() == b""


async def test_read_has_a_bound():
    async with upstream(sends(OK, then="hang")) as pool:
        answer = await pool.request("GET", "/x")
        with pytest.raises(DialError, match="exceeds 1 bytes"):
            await answer.read(max_bytes=1)


async def pieces(*data, fail=False):
    for piece in data:
        yield piece
    if fail:
        raise RuntimeError("the client is gone")


async def test_bodies_are_framed_and_streamed():
    seen = []

    async def handler(exchange):
        seen.append((exchange.head.content_length, exchange.head.chunked, await exchange.read_body(10**7)))
        await exchange.respond(200, ())

    async with serving(handler) as server:
        pool = Pool("127.0.0.1", server.port)
        big = b"x" * 2**20
        for body, length in (
            (b"abc", None),
            (pieces(b"ab", b"c"), 3),
            (pieces(big, big), None),
            (None, None),
        ):
            answer = await pool.request("PUT", "/", body=body, length=length)
            await answer.read()
        await pool.close()

    assert seen == [(3, False, b"abc"), (3, False, b"abc"), (None, True, big + big), (0, False, b"")]


async def test_a_body_that_fails_closes_the_upstream():
    async with upstream(sends(b"", then="hang")) as pool:
        with pytest.raises(RuntimeError, match="gone"):
            await pool.request("PUT", "/", body=pieces(b"ab", fail=True), length=3)

        assert pool.num_busy == 0


async def test_expect_continue_waits_for_the_upstream():
    asked = []

    async def body():
        asked.append("pulled")
        yield b"abc"

    async def handler(exchange):
        if exchange.head.path == "/no":
            await exchange.respond(403, (), b"no")
            return
        assert exchange.head.expect_continue
        await asyncio.sleep(0.05)
        assert not asked
        await exchange.respond(200, (), await exchange.read_body(10))

    async with serving(handler) as server:
        pool = Pool("127.0.0.1", server.port)
        answer = await pool.request("PUT", "/", body=body(), length=3, expect_continue=True)
        assert await answer.read() == b"abc"
        asked.clear()
        answer = await pool.request("PUT", "/no", body=body(), length=3, expect_continue=True)
        assert (answer.head.status, await answer.read(), asked) == (403, b"no", [])
        await pool.close()


async def test_an_early_answer_stops_the_upload():
    sent = 0

    async def body():
        nonlocal sent
        for _ in range(1000):
            sent += 2**16
            yield b"x" * 2**16
            await asyncio.sleep(0.001)

    async def script(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await reader.read(2**20)
        await asyncio.sleep(0.2)

    async with upstream(script) as pool:
        answer = await pool.request("PUT", "/", body=body(), length=1000 * 2**16)
        assert answer.head.status == 413
        assert sent < 100 * 2**16


@pytest.mark.parametrize("framed", [{"length": 3}, {}])
async def test_a_request_cut_short_by_its_answer_is_the_last_of_its_connection(framed):
    """Else the upstream would read the next request as the rest of this one's body."""
    seen = []

    async def refuse(exchange):
        seen.append((exchange.head.method, exchange.head.target))
        await exchange.respond(412, (), b"no")

    async def late():
        yield b"1"
        await asyncio.sleep(0.05)  # the answer is here by now
        yield b"23"

    async with serving(refuse) as server:
        pool = Pool("127.0.0.1", server.port)
        for _ in range(3):
            answer = await pool.request("PUT", "/a", body=late(), **framed)
            assert (answer.head.status, await answer.read()) == (412, b"no")
            assert await fetch(pool) == (412, b"no")
        await pool.close()

    assert seen == [("PUT", "/a"), ("GET", "/x")] * 3


async def test_a_slow_reader_stops_the_upstream():
    written = 0

    async def handler(exchange):
        nonlocal written
        await exchange.start(200, (), length=64 * 2**20)
        for _ in range(1024):
            await exchange.write(b"x" * 65536)
            written += 65536
        await exchange.finish()

    async with serving(handler) as server:
        pool = Pool("127.0.0.1", server.port)
        answer = await pool.request("GET", "/")
        await asyncio.sleep(0.2)
        assert written < 32 * 2**20
        assert len(await answer.read(2**30)) == 64 * 2**20
        await pool.close()


async def test_tls_checks_the_certificate(tls):
    async def handler(exchange):
        await exchange.respond(200, (), b"ok")

    async with serving(handler, tls=tls[0]) as server:
        good = Pool("127.0.0.1", server.port, tls=tls[1])
        assert await fetch(good) == (200, b"ok")
        wrong = Pool("127.0.0.1", server.port, tls=tls[1], server_name="other.example")
        with pytest.raises(DialError) as error:
            await fetch(wrong)
        assert (error.value.phase, error.value.received) == ("connect", 0)
        await good.close()


async def ok(exchange):
    await exchange.respond(200, (), b"ok")


async def is_resumed(pool):
    """Whether the connection of one more request goes on with a session that was there."""
    assert await fetch(pool) == (200, b"ok")
    (upstream,) = pool.idle()
    return upstream._transport.get_extra_info("ssl_object").session_reused


async def test_a_session_is_resumed_by_the_next_connection(tmp_path):
    """As often as one likes; a server that knows nothing of it shakes hands in full."""
    *pair, authority = make_certificate(tmp_path)
    async with serving(ok, tls=server_context(*pair)) as server:
        pool = Pool("127.0.0.1", server.port, tls=client_context(authority))
        for expected in (False, True, True):
            assert await is_resumed(pool) is expected
            pool.abort()
    sock = socket.create_server(("127.0.0.1", server.port))
    async with serving(ok, tls=server_context(*pair), sock=sock):
        for expected in (False, True):
            assert await is_resumed(pool) is expected
            pool.abort()
        await pool.close()


async def test_a_session_is_not_resumed_for_ever(tmp_path, monkeypatch):
    """A chain of resumptions is no longer than its first session may last."""
    *pair, authority = make_certificate(tmp_path)
    monkeypatch.setattr(ticket, "LASTS_S", 0.5)
    async with serving(ok, tls=server_context(*pair)) as server:
        pool = Pool("127.0.0.1", server.port, tls=client_context(authority))
        began, seen = time.monotonic(), []
        while not (True in seen and seen.count(False) > 1):
            assert time.monotonic() < began + 30
            seen.append(await is_resumed(pool))
            pool.abort()
        await pool.close()


@pytest.mark.parametrize("headers", [(("a", "b\r\nc: d"),), (("a\n", "b"),), (("a", "b\0"),)])
async def test_nothing_that_breaks_framing_is_sent(headers):
    with pytest.raises(ValueError, match="line end"):
        await Pool("127.0.0.1", 9).request("GET", "/", headers)


@pytest.mark.parametrize(
    ("method", "target"), [("GET", "/a b"), ("GET", "x"), ("CONNECT", "/"), ("GET", "/\r\n")]
)
async def test_odd_requests_are_not_sent(method, target):
    with pytest.raises(ValueError, match="not one we send"):
        await Pool("127.0.0.1", 9).request(method, target)


@pytest.mark.parametrize(
    ("address", "expected"),
    [("127.0.0.1:80", ("127.0.0.1", 80)), ("[::1]:9", ("::1", 9)), ("a.b:65535", ("a.b", 65535))],
)
def test_split_address(address, expected):
    assert split_address(address) == expected


@pytest.mark.parametrize("address", ["", "a", "a:", ":1", "a:x", "a:65536", "a:-1"])
def test_split_address_refuses(address):
    with pytest.raises(ValueError, match="host:port"):
        split_address(address)

"""The server: one clean answer per request, whatever the client does."""

import asyncio
import contextlib
import json
import logging
import socket
import time

import pytest

from wire.listener.exchange import PIECE_BYTES
from wire.refused.refusal import Refusal
from wire.serve import Disconnected, Limits, Server

GET = b"GET /%b HTTP/1.1\r\nHost: h\r\n\r\n"


@contextlib.asynccontextmanager
async def serving(handler, **options):
    server = await Server.start(handler, "127.0.0.1", 0, **options)
    try:
        yield server
    finally:
        await server.close()


class Client:
    """A bare connection: bytes in and out, nothing understood that the test does not say."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, server, **options):
        return cls(*await asyncio.open_connection("127.0.0.1", server.port, **options))

    def send(self, data):
        self.writer.write(data)

    async def head(self):
        text = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 30)).decode()
        status, *lines = text.split("\r\n")[:-2]
        return int(status.split()[1]), dict(line.split(": ", 1) for line in lines)

    async def answer(self):
        status, headers = await self.head()
        return status, headers, await self.reader.readexactly(int(headers["content-length"]))

    async def rest(self):
        return await asyncio.wait_for(self.reader.read(), 30)

    async def close(self):
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


@contextlib.asynccontextmanager
async def talking(handler, tls=None, **options):
    async with serving(handler, tls=tls, **options) as server:
        client = await Client.open(server)
        try:
            yield client
        finally:
            await client.close()


async def hello(exchange):
    await exchange.respond(200, (("content-type", "text/plain"),), exchange.head.path.encode())


async def test_keep_alive_and_nothing_announced():
    async with talking(hello) as client:
        for name in (b"a", b"b"):
            client.send(GET % name)
            status, headers, body = await client.answer()

            assert (status, body) == (200, b"/" + name)
            assert set(headers) == {"content-type", "content-length", "date"}


async def test_what_is_said_in_one_turn_leaves_in_one_write_before_the_handler_goes_on():
    seen = []

    async def handler(exchange):
        await exchange.start(200, ())
        for piece in (b"a", b"b"):
            await exchange.write(piece)
        await exchange.finish(b"c")
        seen.append(sock.recv(1 << 16))

    async with serving(handler) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            sock.send(GET % b"")
            await until(lambda: seen)

    assert seen[0].endswith(b"\r\n\r\n1\r\na\r\n1\r\nb\r\n1\r\nc\r\n0\r\n\r\n")


async def test_pipelined_requests_are_answered_in_order():
    running = 0

    async def handler(exchange):
        nonlocal running
        running += 1
        assert running == 1
        await asyncio.sleep(0.001)
        running -= 1
        await hello(exchange)

    async with talking(handler) as client:
        client.send(b"".join(GET % str(i).encode() for i in range(20)))
        for i in range(20):
            assert (await client.answer())[2] == b"/%d" % i


async def test_a_refusal_is_the_answer_and_the_connection_lives():
    async def handler(exchange):
        raise Refusal(429, "overloaded", "Slow down.", "rate_limit_error", param="model", retry_after_s=1.2)

    async with talking(handler) as client:
        client.send(GET % b"" + GET % b"")
        for _ in range(2):
            status, headers, body = await client.answer()

            assert (status, headers["retry-after"], headers["content-type"]) == (429, "2", "application/json")
            assert json.loads(body)["error"] == {
                "message": "Slow down.",
                "type": "rate_limit_error",
                "param": "model",
                "code": "overloaded",
            }


async def test_a_fault_of_ours_is_a_plain_500(caplog):
    async def handler(exchange):
        raise KeyError("secret detail")

    with caplog.at_level(logging.ERROR):
        async with talking(handler) as client:
            client.send(GET % b"x")
            status, _, body = await client.answer()

    assert status == 500
    assert b"secret" not in body
    assert json.loads(body)["error"]["code"] == "internal_error"
    assert "secret detail" in caplog.text


async def test_a_handler_that_forgets_to_answer_is_a_500(caplog):
    async def handler(exchange):
        return

    async with talking(handler) as client:
        client.send(GET % b"x")

        assert (await client.answer())[0] == 500
    assert "without finishing" in caplog.text


@pytest.mark.parametrize("error", [Refusal(400, "bad_request", "late"), KeyError("x")])
async def test_after_start_a_failure_cuts_the_stream(error, caplog):
    async def handler(exchange):
        await exchange.start(200, ())
        await exchange.write(b"data: 1\n\n")
        await asyncio.sleep(0.01)
        raise error

    async with talking(handler) as client:
        client.send(GET % b"x")
        status, headers = await client.head()

        assert (status, headers["transfer-encoding"]) == (200, "chunked")
        assert await client.reader.readexactly(14) == b"9\r\ndata: 1\n\n\r\n"
        with contextlib.suppress(ConnectionResetError):
            assert await client.rest() == b""


async def test_chunks_lengths_and_their_lies(caplog):
    async def handler(exchange):
        if exchange.head.path == "/chunked":
            await exchange.start(200, (("content-length", "999"), ("connection", "x")))
            await exchange.write(b"ab")
            await exchange.write(b"")
            await exchange.write(b"c" * 40_000)
        elif exchange.head.path == "/long":
            await exchange.start(200, (), length=1)
            await exchange.write(b"ab")
        else:
            await exchange.start(200, (), length=3)
            await exchange.write(b"ab")
        await exchange.finish()

    async with serving(handler) as server:
        for path in (b"chunked", b"long", b"short"):
            client = await Client.open(server)
            client.send(GET % path)
            if path == b"chunked":
                _, headers = await client.head()
                expected = b"2\r\nab\r\n9c40\r\n" + b"c" * 40_000 + b"\r\n0\r\n\r\n"

                assert "content-length" not in headers
                assert await client.reader.readexactly(len(expected)) == expected
            else:
                with contextlib.suppress(ConnectionResetError, asyncio.IncompleteReadError):
                    assert len((await client.rest()).partition(b"\r\n\r\n")[2]) < 3
            await client.close()


async def test_head_and_empty_statuses_have_no_body():
    async def handler(exchange):
        if exchange.head.method == "HEAD":
            await exchange.start(200, (), length=1234)
            await exchange.finish()
        else:
            await exchange.respond(204, ())

    async with talking(handler) as client:
        client.send(b"HEAD /x HTTP/1.1\r\nHost: h\r\n\r\n" + GET % b"")

        assert (await client.head())[1]["content-length"] == "1234"
        status, headers = await client.head()
        assert status == 204
        assert "content-length" not in headers


async def test_http_10_gets_no_chunks():
    async def handler(exchange):
        await exchange.start(200, ())
        await exchange.write(b"abc")
        await exchange.finish()

    async with talking(handler) as client:
        client.send(b"GET / HTTP/1.0\r\nHost: h\r\n\r\n")
        _, headers = await client.head()

        assert headers["connection"] == "close"
        assert "transfer-encoding" not in headers
        assert await client.rest() == b"abc"


async def test_a_cut_answer_never_looks_whole_to_http_10():
    """Its only end is the connection's: a plain close would be one."""

    async def handler(exchange):
        await exchange.start(200, ())
        await exchange.write(b"abc")
        await asyncio.sleep(0.05)
        exchange.abort()

    async with talking(handler) as client:
        client.send(b"GET / HTTP/1.0\r\nHost: h\r\n\r\n")
        await client.head()
        with pytest.raises(ConnectionResetError):
            await client.rest()


async def test_bodies_by_every_framing():
    async def handler(exchange):
        body = await exchange.read_body(10)
        await exchange.respond(200, (), body[::-1])

    async with talking(handler) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc")
        assert (await client.answer())[2] == b"cba"
        client.send(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        await asyncio.sleep(0.01)
        client.send(b"2\r\nbc\r\n0\r\n\r\n")
        assert (await client.answer())[2] == b"cba"
        client.send(GET % b"")
        assert (await client.answer())[2] == b""
        client.send(
            b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n12345678901\r\n0\r\n\r\n"
        )
        status, _, body = await client.answer()
        assert (status, json.loads(body)["error"]["code"]) == (413, "body_too_large")
        client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 11\r\n\r\n")
        assert (await client.answer())[0] == 413
        client.send(b"12345678901" + GET % b"")  # the refused body is skipped, the next request served
        assert (await client.answer())[0] == 200


async def test_a_broken_chunk_is_refused_in_the_handler():
    async def handler(exchange):
        await exchange.read_body(100)

    async with talking(handler) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
        await asyncio.sleep(0.01)
        client.send(b"zz\r\n")
        status, headers, _ = await client.answer()

        assert (status, headers["connection"]) == (400, "close")
        assert await client.rest() == b""


async def test_a_refused_request_closes_after_its_answer():
    async with talking(hello) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n" + b"x" * 100_000)
        status, headers, _ = await client.answer()

        assert (status, headers["connection"]) == (400, "close")
        assert await client.rest() == b""


@pytest.mark.parametrize("secure", [False, True])
async def test_a_client_that_sends_before_it_reads_still_gets_its_refusal(tls, secure):
    async def handler(exchange):
        raise Refusal(403, "forbidden", "No.")

    options = {"ssl": tls[1], "server_hostname": "localhost"} if secure else {}
    async with serving(handler, tls=tls[0] if secure else None) as server:
        client = await Client.open(server, **options)
        total = 16 * 2**20
        client.send(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % total)
        await send_slowly(client, total)
        status, headers, _ = await client.answer()

        assert (status, headers["connection"]) == (403, "close")
        await client.close()


async def test_expect_continue_is_sent_when_the_body_is_wanted():
    async def handler(exchange):
        if exchange.head.path == "/no":
            raise Refusal(403, "forbidden", "No.")
        await asyncio.sleep(0.05)
        await exchange.respond(200, (), await exchange.read_body(10))

    async with serving(handler) as server:
        client = await Client.open(server)
        client.send(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.reader.readexactly(1), 0.02)
        assert await client.head() == (100, {})
        client.send(b"ab")
        assert (await client.answer())[2] == b"ab"
        client.send(b"PUT /no HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        status, headers, _ = await client.answer()
        assert (status, headers["connection"]) == (403, "close")
        await client.close()


async def test_a_body_that_came_unasked_needs_no_continue():
    async def handler(exchange):
        await asyncio.sleep(0.01)
        await exchange.respond(200, (), await exchange.read_body(10))

    async with talking(handler) as client:
        client.send(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\nab")

        assert (await client.answer())[2] == b"ab"


@pytest.mark.parametrize("status", [200, 403])
async def test_an_empty_body_that_was_announced_with_expect_gets_its_continue(status):
    """botocore takes an answer without one for the next request's too, on the connection that stays open."""

    async def handler(exchange):
        if status == 200:
            assert await exchange.read_body(10) == b""
        await exchange.respond(status, (), b"done")

    async with talking(handler) as client:
        for _ in range(2):
            client.send(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nExpect: 100-continue\r\n\r\n")
            assert await client.head() == (100, {})
            found, headers, body = await client.answer()
            assert (found, body, headers.get("connection")) == (status, b"done", None)


async def test_slow_heads_idle_connections_and_slow_bodies_are_dropped():
    limits = Limits(head_s=0.15, idle_s=0.15, body_grace_s=0.15)

    async def handler(exchange):
        await exchange.respond(200, (), await exchange.read_body(10**6))

    async with serving(handler, limits=limits) as server:
        silent, slow_head, idle, slow_body = [await Client.open(server) for _ in range(4)]
        slow_head.send(b"GET / HTTP/1.1\r\n")
        idle.send(GET % b"")
        slow_body.send(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n")
        assert (await idle.answer())[0] == 200
        began = time.perf_counter()
        with contextlib.suppress(OSError):
            while time.perf_counter() - began < 0.12:
                slow_head.send(b"A: b\r\n")
                slow_body.send(b"x")
                await asyncio.sleep(0.02)

        assert await silent.rest() == b""
        assert await idle.rest() == b""
        assert (await slow_head.answer())[0] == 408
        assert (await slow_body.answer())[0] == 408
        assert time.perf_counter() - began < 30
        for client in (silent, slow_head, idle, slow_body):
            await client.close()


async def test_nothing_outlives_the_total_deadline():
    """The wall behind every other: a handler that never ends, and a body that comes just fast enough."""
    ended = []

    async def handler(exchange):
        try:
            if exchange.head.method == "PUT":
                await exchange.read_body(10**9)
            await exchange.start(200, ())
            while True:
                await exchange.write(b"x")
                await asyncio.sleep(0.02)
        finally:
            ended.append(exchange.head.method)

    async with serving(handler, limits=Limits(total_s=0.2)) as server:
        endless, fed = await Client.open(server), await Client.open(server)
        endless.send(GET % b"")
        fed.send(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000000\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while len(ended) < 2:
                fed.send(b"x" * 65536)
                await fed.writer.drain()
                await asyncio.sleep(0.01)
        await until(lambda: sorted(ended) == ["GET", "PUT"])
        await until(lambda: server.num_connections == 0)
        for client in (endless, fed):
            await client.close()


async def test_a_slow_handler_is_not_the_clients_fault():
    async def handler(exchange):
        async for _ in exchange.body():
            await asyncio.sleep(0.15)
        await exchange.respond(200, ())

    async with talking(handler, limits=Limits(body_grace_s=0.1, read_buffer_bytes=1000)) as client:
        client.send(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 3000\r\n\r\n")
        for _ in range(3):
            client.send(b"x" * 1000)

        assert (await client.answer())[0] == 200


async def test_caps_answer_503_before_parsing():
    async with serving(hello, limits=Limits(max_per_address=2)) as server:
        clients = [await Client.open(server) for _ in range(3)]
        status, headers, _ = await clients[2].answer()
        assert (status, headers["retry-after"]) == (503, "1")
        await clients[0].close()
        await clients[2].close()
        await until(lambda: server.num_connections == 1)
        again = await Client.open(server)
        again.send(GET % b"x")
        assert (await again.answer())[0] == 200
        await again.close()
        await clients[1].close()


@pytest.mark.parametrize("secure", [False, True])
async def test_one_too_many_is_told_so_whatever_it_sent(tls, secure):
    """With its bytes unread a plain close would be a reset, and the answer lost."""
    options = {"ssl": tls[1], "server_hostname": "localhost"} if secure else {}
    async with serving(hello, limits=Limits(max_connections=1), tls=tls[0] if secure else None) as server:
        first, second = await Client.open(server, **options), await Client.open(server, **options)
        second.send(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000)
        await second.writer.drain()
        await asyncio.sleep(0.05)
        status, headers, body = await second.answer()

        assert (status, headers["retry-after"], headers["connection"]) == (503, "1", "close")
        assert json.loads(body)["error"]["code"] == "overloaded"
        assert await second.rest() == b"", "and is let go"
        first.send(GET % b"x")
        assert (await first.answer())[0] == 200
        await first.close()
        await second.close()


@pytest.mark.parametrize("secure", [False, True])
async def test_of_a_flood_nothing_is_kept(tls, secure):
    """Handshakes that never go on count as connections do."""
    limits = Limits(max_per_address=16)
    async with serving(hello, limits=limits, tls=tls[0] if secure else None) as server:
        crowd = [await Client.open(server) for _ in range(60)]
        num_kept = 16 * 9 / 8 + 8
        gone = [asyncio.ensure_future(client.reader.read()) for client in crowd]
        await until(lambda: sum(each.done() for each in gone) >= 60 - num_kept - 1)
        assert server.num_connections <= num_kept + 1
        for task in gone:
            task.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        for client in crowd:
            await client.close()
        await until(lambda: server.num_connections == 0)
        options = {"ssl": tls[1], "server_hostname": "localhost"} if secure else {}
        again = await Client.open(server, **options)
        again.send(GET % b"x")
        assert (await again.answer())[0] == 200
        await again.close()


async def test_a_silent_handshake_has_a_deadline(tls):
    async with serving(hello, limits=Limits(handshake_s=0.1), tls=tls[0]) as server:
        silent, odd = await Client.open(server), await Client.open(server)
        odd.send(GET % b"no TLS")

        assert await silent.rest() == b""
        with contextlib.suppress(ConnectionResetError):
            await odd.rest()
        await silent.close()
        await odd.close()


@pytest.mark.parametrize("is_secure", [False, True])
async def test_a_large_answer_waits_where_it_is(tls, is_secure):
    """Of what a slow reader has not taken no more is queued than the buffer holds, and one piece."""
    body, buffer = bytes(range(256)) * (32 << 12), 64 * 1024
    limits = Limits(write_buffer_bytes=buffer)

    async def handler(exchange):
        await exchange.respond(200, (), body)

    async with serving(handler, tls=tls[0] if is_secure else None, limits=limits) as server:
        options = {"ssl": tls[1], "server_hostname": "localhost"} if is_secure else {}
        client = await Client.open(server, limit=1024, **options)
        client.send(GET % b"x")
        await until(lambda: server._roster.members)
        (connection,) = server._roster.members
        await until(lambda: connection.is_behind)
        assert connection._transport.get_write_buffer_size() <= buffer + PIECE_BYTES + 2048
        assert (await client.answer())[2] == body
        client.send(GET % b"y")
        assert (await client.answer())[2] == body
        await client.close()


async def test_a_slow_reader_stops_the_handler_not_the_memory():
    written = 0

    async def handler(exchange):
        nonlocal written
        await exchange.start(200, (), length=64 * 2**20)
        for _ in range(1024):
            await exchange.write(b"x" * 65536)
            written += 65536
        await exchange.finish()

    async with serving(handler) as server:
        client = await Client.open(server, limit=1000)
        client.send(GET % b"")
        await asyncio.sleep(0.2)
        held = written
        assert held < 32 * 2**20  # the kernel's socket buffers hold some MB, we hold no more than the limit
        await client.head()
        assert len(await client.reader.readexactly(64 * 2**20)) == 64 * 2**20
        assert written == 64 * 2**20
        await client.close()


async def test_a_stalled_reader_is_cut():
    ended = asyncio.Event()

    async def handler(exchange):
        try:
            await exchange.start(200, ())
            while True:
                await exchange.write(b"x" * 65536)
        finally:
            ended.set()

    async with serving(handler, limits=Limits(write_stall_s=0.1)) as server:
        client = await Client.open(server, limit=1000)
        client.send(GET % b"")
        await asyncio.wait_for(ended.wait(), 30)
        await client.close()


async def test_a_reader_that_only_sips_is_cut_too():
    """Each sip is a sign of life, but no client is that slow."""
    ended = asyncio.Event()

    async def handler(exchange):
        try:
            await exchange.start(200, (), length=2**30)
            while True:
                await exchange.write(b"x" * 65536)
        finally:
            ended.set()

    limits = Limits(write_stall_s=0.2, write_bytes_per_s=2**30)
    async with serving(handler, limits=limits) as server:
        client = await Client.open(server, limit=1000)
        client.send(GET % b"")
        with contextlib.suppress(ConnectionError):
            while not ended.is_set():
                await client.reader.read(65536)
                await asyncio.sleep(0.01)
        await asyncio.wait_for(ended.wait(), 30)
        await client.close()


async def test_a_slow_handler_stops_the_sender():
    release = asyncio.Event()

    async def handler(exchange):
        await release.wait()
        size = 0
        async for piece in exchange.body():
            size += len(piece)
        await exchange.respond(200, (), str(size).encode())

    async with talking(handler) as client:
        total = 64 * 2**20
        client.send(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % total)
        sender = asyncio.ensure_future(send_slowly(client, total))
        await asyncio.sleep(0.2)
        assert not sender.done()
        release.set()
        await sender
        assert (await client.answer())[2] == str(total).encode()


async def until(fact):
    async with asyncio.timeout(60):
        while not fact():  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.005)


async def send_slowly(client, total):
    for _ in range(total // 2**20):
        client.send(b"x" * 2**20)
        await client.writer.drain()


@pytest.mark.parametrize("how", ["close", "abort", "half"])
async def test_a_client_that_goes_away_cancels_the_handler(how):
    seen = asyncio.get_running_loop().create_future()
    gone_at = 0.0

    async def handler(exchange):
        await exchange.start(200, ())
        await exchange.write(b"data: 1\n\n")
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            with pytest.raises(Disconnected):
                await exchange.write(b"more")
            with pytest.raises(Disconnected):
                await exchange.finish()
            seen.set_result((exchange.disconnected, time.perf_counter() - gone_at))
            raise

    async with serving(handler) as server:
        client = await Client.open(server)
        client.send(GET % b"")
        await client.head()
        gone_at = time.perf_counter()
        if how == "half":
            client.writer.write_eof()
        elif how == "abort":
            client.writer.transport.abort()
        else:
            client.writer.close()
        told, late_s = await asyncio.wait_for(seen, 30)

        assert told
        assert late_s < 30, "at once, as far as a busy machine can"
        await client.close()
        await until(lambda: server.num_connections == 0)


async def test_a_handler_that_waits_for_a_body_hears_of_the_end():
    seen = asyncio.get_running_loop().create_future()

    async def handler(exchange):
        try:
            await exchange.read_body(100)
        except (asyncio.CancelledError, Disconnected) as error:
            seen.set_result(type(error))
            raise

    async with serving(handler) as server:
        client = await Client.open(server)
        client.send(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nabc")
        await asyncio.sleep(0.02)
        await client.close()

        assert await asyncio.wait_for(seen, 30) in {asyncio.CancelledError, Disconnected}


async def test_work_after_the_answer_is_not_cancelled():
    done = asyncio.Event()

    async def handler(exchange):
        await hello(exchange)
        await asyncio.sleep(0.05)
        done.set()

    async with serving(handler) as server:
        client = await Client.open(server)
        client.send(GET % b"")
        await client.answer()
        await client.close()
        await asyncio.wait_for(done.wait(), 30)


async def test_drain_lets_running_answers_finish():
    begun = asyncio.Event()

    async def handler(exchange):
        begun.set()
        await asyncio.sleep(0.1)
        await hello(exchange)

    async with serving(handler) as server:
        busy, idle = await Client.open(server), await Client.open(server)
        busy.send(GET % b"x")
        await begun.wait()
        draining = asyncio.ensure_future(server.drain(60))
        assert await idle.rest() == b""
        status, headers, _ = await busy.answer()
        assert (status, headers["connection"]) == (200, "close")
        await asyncio.wait_for(draining, 30)
        with pytest.raises(OSError):
            await Client.open(server)
        await busy.close()
        await idle.close()


def bare(server, tls=None):
    """A connection of which the server's loop, which runs in this thread, has not heard."""
    sock = socket.create_connection(("127.0.0.1", server.port))
    return sock if tls is None else tls.wrap_socket(sock, server_hostname="localhost")


@pytest.mark.parametrize("secure", [False, True])
async def test_a_drain_serves_those_who_have_connected(tls, secure):
    """The kernel took their connections: a listener that just closes would have it reset them."""

    def ask(sock):
        if secure:
            sock = tls[1].wrap_socket(sock, server_hostname="localhost")
        with sock:
            sock.sendall(GET % b"x")
            return sock.recv(65536).lower()

    async with serving(hello, tls=tls[0] if secure else None) as server:
        fresh = [bare(server) for _ in range(8)]
        draining = asyncio.ensure_future(server.drain(60))
        for answer in await asyncio.gather(*(asyncio.to_thread(ask, sock) for sock in fresh)):
            assert answer.startswith(b"http/1.1 200")
            assert b"connection: close" in answer
        await asyncio.wait_for(draining, 60)


@pytest.mark.parametrize("secure", [False, True])
async def test_a_drain_serves_what_an_idle_connection_has_sent(tls, secure):
    def ask(sock):
        sock.sendall(GET % b"x")
        return sock.recv(65536)

    async with serving(hello, tls=tls[0] if secure else None) as server:
        kept = [await asyncio.to_thread(bare, server, tls[1] if secure else None) for _ in range(4)]
        for sock in kept:
            assert (await asyncio.to_thread(ask, sock)).startswith(b"HTTP/1.1 200")
        draining = asyncio.ensure_future(server.drain(60))
        for sock in kept[:2]:
            sock.sendall(GET % b"x")
        for sock in kept[:2]:
            assert (await asyncio.to_thread(sock.recv, 65536)).startswith(b"HTTP/1.1 200")
        for sock in kept:
            assert await asyncio.to_thread(sock.recv, 1) == b"", "the silent ones are let go"
            sock.close()
        await asyncio.wait_for(draining, 60)


async def test_drain_cuts_what_outlives_it():
    begun, ended = asyncio.Event(), asyncio.Event()

    async def handler(exchange):
        begun.set()
        try:
            await asyncio.sleep(100)
        finally:
            ended.set()

    async with serving(handler) as server:
        client = await Client.open(server)
        client.send(GET % b"x")
        await begun.wait()
        await asyncio.wait_for(server.drain(0.05), 30)

        assert ended.is_set()
        assert server.num_connections == 0
        await client.close()


async def test_a_drain_does_not_wait_for_clients_that_do_not_listen(tls):
    """An idle client of a connection pool answers no close of TLS until it wants something again."""
    server_context, client_context = tls
    async with serving(hello, tls=server_context) as server:

        def ask():
            bare = socket.create_connection(("127.0.0.1", server.port))
            idle = client_context.wrap_socket(bare, server_hostname="localhost")
            idle.sendall(GET % b"x")
            return idle, idle.recv(65536)

        idle, answer = await asyncio.to_thread(ask)
        with idle:
            assert answer.startswith(b"HTTP/1.1 200")
            await asyncio.wait_for(server.drain(60), 40)
            assert await asyncio.to_thread(idle.recv, 1) == b"", "a clean end of TLS, no reset"


async def test_tls_serves_the_same(tls):
    server_context, client_context = tls

    async def handler(exchange):
        await exchange.respond(200, (), await exchange.read_body(10**6))

    async with serving(handler, tls=server_context) as server:
        client = await Client.open(server, ssl=client_context, server_hostname="localhost")
        for size in (1, 200_000):
            client.send(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
            assert len((await client.answer())[2]) == size
        client.send(b"BREW / HTTP/1.1\r\n\r\n")
        assert (await client.answer())[0] == 501
        await client.close()


async def test_a_listener_with_nobody_on_it_has_no_timer():
    """Who comes then finds the date of now, and deadlines that hold."""
    async with serving(hello, limits=Limits(idle_s=0.2)) as server:
        waits = server._roster.entered._waiters
        await until(lambda: waits)
        server._roster._second, server._roster.date = 0, "long ago"
        client = await Client.open(server)
        client.send(GET % b"x")
        _, headers, _ = await client.answer()
        assert headers["date"] != "long ago"
        assert await client.rest() == b"", "its idle time was up"
        await until(lambda: waits)

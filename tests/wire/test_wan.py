"""The simulated link: distance without loss of throughput, and the faults of the far end pass through."""

import asyncio
import contextlib
import time

import pytest

from tests.wire.test_serve import serving
from wire.dial import DialError, Pool
from wire.wan import WanRelay

RTT_S = 0.08
CLOCK_S = 0.001  # uvloop counts time in whole milliseconds


@contextlib.asynccontextmanager
async def far(handler, **options):
    async with serving(handler) as server:
        options = {"target": ("127.0.0.1", server.port), "rtt_ms": RTT_S * 1000, **options}
        link = await WanRelay.start("127.0.0.1", 0, **options)
        pool = Pool("127.0.0.1", link.port)
        try:
            yield pool, link, server
        finally:
            await pool.close()
            await link.close()


async def sized(exchange):
    size = int(exchange.head.query or 2)
    await exchange.read_body(2**30)
    await exchange.respond(200, (), b"x" * size)


async def timed(pool, target="/", **options):
    began = time.perf_counter()
    answer = await pool.request("PUT", target, **options)
    body = await answer.read(2**30)
    return time.perf_counter() - began, len(body)


async def least(measure, bound_s):
    """The least of what is measured until one is below `bound_s`: a busy machine adds to a time, and to any number."""
    found = [await measure()]
    end = time.perf_counter() + 30
    while min(found) >= bound_s and time.perf_counter() < end:
        found.append(await measure())
    return min(found)


async def test_a_request_costs_one_round_trip_and_a_connection_one_more():
    async def first():
        async with far(sized) as (pool, _, _):
            return (await timed(pool))[0]

    first_s = await least(first, 2.8 * RTT_S)
    async with far(sized) as (pool, _, _):

        async def later():
            return (await timed(pool))[0]

        await later()
        later_s = await least(later, 1.8 * RTT_S)

    assert 2 * RTT_S <= first_s < 2.8 * RTT_S
    assert RTT_S - CLOCK_S <= later_s < 1.8 * RTT_S


async def test_delay_does_not_take_throughput():
    async with far(sized) as (pool, _, _):
        await timed(pool)
        down_s, size = await timed(pool, f"/?{16 * 2**20}")
        up_s, _ = await timed(pool, body=b"x" * 16 * 2**20)

    assert size == 16 * 2**20
    assert down_s < 10  # a window of 64 KiB a round trip would take 20 s
    assert up_s < 10


async def test_the_rate_is_a_cap():
    async with far(sized, rtt_ms=10, bytes_per_s=10 * 2**20) as (pool, _, _):
        await timed(pool)
        took_s, _ = await timed(pool, f"/?{2 * 2**20}")

    assert 0.2 <= took_s < 20


async def test_a_dead_far_end_is_an_error_and_its_return_is_seen():
    async with far(sized) as (pool, _, server):
        await timed(pool)
        await server.close()
        with pytest.raises(DialError) as error:
            await timed(pool)

        assert error.value.received == 0


async def test_the_end_comes_after_the_bytes():
    async def until_close(reader, writer):
        writer.write(b"x" * 2**20)
        writer.close()

    server = await asyncio.start_server(until_close, "127.0.0.1", 0)
    target = server.sockets[0].getsockname()[:2]
    link = await WanRelay.start("127.0.0.1", 0, target=target, rtt_ms=50)
    reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
    assert len(await asyncio.wait_for(reader.read(-1), 30)) == 2**20
    writer.close()
    await link.close()
    server.close()


async def test_a_client_that_leaves_is_noticed_far_away():
    gone = asyncio.Event()

    async def handler(exchange):
        try:
            await asyncio.sleep(100)
        finally:
            gone.set()

    async with far(handler) as (pool, _, _):
        with pytest.raises(DialError):
            await pool.request("GET", "/", head_s=3 * RTT_S)
        await asyncio.wait_for(gone.wait(), 30)


async def test_two_half_ends_are_a_whole_one():
    """A client that stops sending first, and a server that closes after it: nothing is left open."""

    ended = asyncio.Event()

    async def echo(reader, writer):
        writer.write(await reader.read())
        writer.write_eof()
        await asyncio.sleep(0.05)
        writer.close()
        ended.set()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    relay = await WanRelay.start("127.0.0.1", 0, target=server.sockets[0].getsockname()[:2], rtt_ms=20)
    reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
    writer.write(b"x" * 100_000)
    writer.write_eof()
    assert await asyncio.wait_for(reader.read(), 30) == b"x" * 100_000
    await ended.wait()
    async with asyncio.timeout(60):
        while relay.sides:  # noqa: ASYNC110 - the relay tells nobody
            await asyncio.sleep(0.01)
    writer.close()
    await relay.close()
    server.close()


async def test_a_slow_far_reader_gets_every_byte():
    """What waits in the relay when the sender closes is still delivered."""
    received = 0
    done = asyncio.Event()

    async def slow(reader, writer):
        nonlocal received
        await asyncio.sleep(0.2)
        while data := await reader.read(2**18):
            received += len(data)
        writer.close()
        done.set()

    server = await asyncio.start_server(slow, "127.0.0.1", 0, limit=1000)
    relay = await WanRelay.start("127.0.0.1", 0, target=server.sockets[0].getsockname()[:2], rtt_ms=10)
    _, writer = await asyncio.open_connection("127.0.0.1", relay.port)
    writer.write(b"x" * 32 * 2**20)
    writer.close()
    await asyncio.wait_for(done.wait(), 10)
    assert received == 32 * 2**20
    await relay.close()
    server.close()

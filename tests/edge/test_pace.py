"""Who waits for whom: bodies are asked for once they are wanted, and each side goes at the other's pace."""

import asyncio

import pytest

from tests.edge.world import BODY, USER
from tests.wire.test_serve import Client, send_slowly, serving

MIB = 2**20
HELD_BYTES = 48 * MIB  # at most, by both hops and the kernel's buffers of four sockets; far below TOTAL
TOTAL = 256 * MIB
HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: %d\r\n"
)


async def connect(edge, listener):
    return Client(
        *await asyncio.open_connection(
            "127.0.0.1", edge.pools[listener].port, ssl=edge._tls, server_hostname="localhost", limit=65536
        )
    )


@pytest.mark.parametrize(
    ("header", "length", "status"),
    [
        (b"", len(BODY), 401),
        (b"Authorization: Bearer wrong\r\n", len(BODY), 401),
        (b"Authorization: Bearer %b\r\n" % USER.encode(), MIB + 1, 413),
        (b"Authorization: Bearer %b\r\nContent-Encoding: gzip\r\n" % USER.encode(), len(BODY), 415),
    ],
)
async def test_no_body_is_asked_for_that_is_not_wanted(world, header, length, status):
    edge = await world(names=("iad",))
    client = await connect(edge, "")
    client.send(HEAD % length + header + b"\r\n")
    said, headers, _ = await client.answer()

    assert (said, headers["connection"]) == (status, "close"), "it may send the body all the same"
    assert edge.regions["iad"].requests == []
    await client.close()


async def test_a_body_that_is_wanted_is_asked_for(world):
    edge = await world(names=("iad",))
    client = await connect(edge, "")
    for _ in range(2):
        client.send(HEAD % len(BODY) + b"Authorization: Bearer %b\r\n\r\n" % USER.encode())
        assert await client.head() == (100, {})
        client.send(BODY)
        assert (await client.answer())[0] == 200
    await client.close()


async def test_a_client_that_does_not_read_stops_the_store(world):
    written = 0

    async def store(exchange):
        nonlocal written
        await exchange.start(200, (), length=TOTAL)
        for _ in range(TOTAL // MIB):
            await exchange.write(b"x" * MIB)
            written += MIB
        await exchange.finish()

    async with serving(store) as server:
        edge = await world(names=("iad",), s3_upstream=f"127.0.0.1:{server.port}")
        client = await connect(edge, "s3")
        client.send(b"GET /b/k HTTP/1.1\r\nHost: h\r\n\r\n")
        await client.head()
        before = -1
        while before != written:  # until nothing moves any more
            before = written
            await asyncio.sleep(0.3)
        assert 0 < written <= HELD_BYTES
        await client.close()


async def test_a_store_that_does_not_read_stops_the_client(world):
    hold = asyncio.Event()

    async def store(exchange):
        await hold.wait()

    async with serving(store) as server:
        edge = await world(names=("iad",), s3_upstream=f"127.0.0.1:{server.port}")
        client = await connect(edge, "s3")
        client.send(b"PUT /b/k HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % TOTAL)
        sending = asyncio.ensure_future(send_slowly(client, TOTAL))
        done, _ = await asyncio.wait([sending], timeout=1.5)
        assert not done, "256 MiB do not fit into what two hops may hold"
        sending.cancel()
        client.writer.transport.abort()
        hold.set()

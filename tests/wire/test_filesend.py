"""File bytes: exact, without a copy on plain TCP, and never another file's."""

import asyncio
import contextlib
import os
import tempfile

import pytest

from tests.wire.test_serve import GET, Client, serving
from wire.serve import Limits

SIZE = 24 * 2**20


@pytest.fixture(scope="module")
def payload():
    """(an open file, its bytes)."""
    data = os.urandom(2**20) * (SIZE // 2**20)
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        yield file, data


async def read_all(client, num_bytes, pause_s=0.0):
    parts = []
    while num_bytes:
        data = await client.reader.read(2**20)
        assert data
        parts.append(data)
        num_bytes -= len(data)
        if pause_s:
            await asyncio.sleep(pause_s)
    return b"".join(parts)


@pytest.mark.parametrize("secure", [False, True])
async def test_a_range_of_a_file(payload, tls, secure):
    file, data = payload

    async def handler(exchange):
        await exchange.start(206, (), length=SIZE - 12345 + 3)
        await exchange.write(b"abc")
        await exchange.sendfile(file.fileno(), 12345, SIZE - 12345)
        await exchange.finish()

    options = {"ssl": tls[1], "server_hostname": "localhost"} if secure else {}
    async with serving(handler, tls=tls[0] if secure else None) as server:
        client = await Client.open(server, **options)
        for _ in range(2):  # the connection is still good afterwards
            client.send(GET % b"")
            _, headers = await client.head()
            assert headers["content-length"] == str(SIZE - 12345 + 3)
            assert await read_all(client, SIZE - 12345 + 3) == b"abc" + data[12345:]
        await client.close()


async def test_slow_readers_hold_no_thread(payload):
    file, data = payload

    async def handler(exchange):
        await exchange.start(200, (), length=SIZE)
        await exchange.sendfile(file.fileno(), 0, SIZE)
        await exchange.finish()

    async with serving(handler) as server:
        stalled = [await Client.open(server, limit=1000) for _ in range(40)]  # more than the pool has threads
        for client in stalled:
            client.send(GET % b"")
        quick = await Client.open(server)
        quick.send(GET % b"")
        await quick.head()
        assert await asyncio.wait_for(read_all(quick, SIZE), 20) == data
        for client in (*stalled, quick):
            client.writer.transport.abort()


def sending(file):
    """A handler that sends the file, and an event that is set when it has ended."""
    ended = asyncio.Event()

    async def handler(exchange):
        try:
            await exchange.start(200, (), length=SIZE)
            await exchange.sendfile(file.fileno(), 0, SIZE)
        finally:
            ended.set()

    return handler, ended


async def test_a_reader_that_stops_is_cut_and_the_file_is_safe(payload):
    file, _ = payload
    handler, ended = sending(file)

    async with serving(handler, limits=Limits(write_stall_s=0.1)) as server:
        client = await Client.open(server, limit=1000)
        client.send(GET % b"")
        await asyncio.wait_for(ended.wait(), 30)
        await client.close()


async def test_a_client_gone_in_the_middle_ends_it(payload):
    file, _ = payload
    handler, ended = sending(file)

    async with serving(handler) as server:
        client = await Client.open(server, limit=1000)
        client.send(GET % b"")
        await client.head()
        client.writer.transport.abort()
        await asyncio.wait_for(ended.wait(), 30)


async def test_a_file_shorter_than_promised_cuts_the_answer(payload, caplog):
    file, _ = payload

    async def handler(exchange):
        await exchange.start(200, (), length=100)
        await exchange.sendfile(file.fileno(), SIZE - 10, 100)
        await exchange.finish()

    async with serving(handler) as server:
        client = await Client.open(server)
        client.send(GET % b"")
        with contextlib.suppress(ConnectionResetError):
            assert len((await client.rest()).partition(b"\r\n\r\n")[2]) == 10
        await client.close()
    assert "handler failed" in caplog.text

"""Bytes leave at once where they can, and always in order."""

import asyncio
import socket
from contextlib import asynccontextmanager

import pytest

from wire.prompt import MOST_BYTES, Prompt


@asynccontextmanager
async def pair():
    """A way out over TCP, and the socket at its other end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        loop = asyncio.get_running_loop()
        connecting = loop.create_task(loop.create_connection(asyncio.Protocol, *listener.getsockname()))
        peer, _ = await loop.sock_accept(listener)
        transport, _ = await connecting
        try:
            with peer:
                yield transport, Prompt(transport), peer
        finally:
            transport.abort()


async def read(peer, num):
    loop, data = asyncio.get_running_loop(), b""
    while len(data) < num and (more := await loop.sock_recv(peer, 1 << 16)):
        data += more
    return data


async def test_they_are_out_before_the_turn_of_the_loop_ends():
    async with pair() as (_, prompt, peer):
        prompt.write(b"now")
        assert peer.recv(16) == b"now"


async def test_what_waits_goes_first():
    async with pair() as (transport, prompt, peer):
        transport.write(b"first, ")
        prompt.write(b"second")
        assert await read(peer, 13) == b"first, second"


@pytest.mark.parametrize("num", [1000, MOST_BYTES, MOST_BYTES + 1])
async def test_what_the_peer_does_not_take_is_kept_in_order(num):
    async with pair() as (transport, prompt, peer):
        pieces = [bytes([n % 251]) * num for n in range(8 * (1 << 20) // num)]
        for piece in pieces:
            prompt.write(piece)
        assert transport.get_write_buffer_size() > 0
        assert await read(peer, num * len(pieces)) == b"".join(pieces)


async def test_a_peer_that_is_gone_is_the_transports_to_notice():
    async with pair() as (transport, prompt, peer):
        peer.close()
        while not transport.is_closing():
            prompt.write(b"x" * 1000)
            await asyncio.sleep(0.001)

"""Clients that are slow on purpose: `python -m tests.attack.http.crowd PORT CA SECONDS NUM` is NUM of them for so long.

Each of KINDS comes again as soon as it is thrown out. The last line of output says how long the longest-lived
connection of each kind was, how many ended, how many of its clients (`out`) were thrown out at least once, and how many
were still there. It leaves the processors to those whom it attacks and to those who are measured: a crowd on the
internet has its own.
"""

import asyncio
import contextlib
import itertools
import json
import os
import socket
import ssl
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from tests.edge.world import USER
from wire.secured.tls import client_context

DRIP_S = 1.0
THEIR_ADDRESS = "127.0.0.2"  # a cap holds for one address, and others are measured
ESTABLISHED = 1  # of the kernel's states of TCP
KEY = f"Authorization: Bearer {USER}\r\n".encode()
EMBED = b'{"model": "acme/chat", "input": "a"}'
Act = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def _until_closed(reader: asyncio.StreamReader, drip: Callable[[], None]) -> None:
    """Drip once in DRIP_S until the server ends it."""
    closed = asyncio.ensure_future(reader.read())
    while not closed.done():
        drip()
        await asyncio.wait([closed], timeout=DRIP_S)
    closed.result()


async def head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A head without end, a line a second."""
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\n")
    await _until_closed(reader, lambda: writer.write(b"A: b\r\n"))


async def body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A body of which a byte comes a second."""
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\n" + KEY + b"Content-Length: 1000000\r\n\r\n"
    )
    await _until_closed(reader, lambda: writer.write(b" "))


async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """Nothing at all."""
    await reader.read()


async def sip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A large answer that is asked for and taken 100 bytes a second."""
    writer.write(b"POST /v1/embeddings HTTP/1.1\r\nHost: h\r\n" + KEY)
    writer.write(b"Content-Length: %d\r\n\r\n" % len(EMBED) + EMBED)
    sock = writer.get_extra_info("socket")
    while _is_open(sock):
        await reader.read(100)
        await asyncio.sleep(DRIP_S)


def _is_open(sock: socket.socket) -> bool:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == ESTABLISHED


KINDS: dict[str, Act] = {each.__name__: each for each in (head, body, silent, sip)}
ALL_HERE_S = 60.0  # where handshakes are too slow for it, each is thrown out before the last is in
MAKE_WAY = 200  # of connections being made at once
NICE = 5  # a third of what who runs at ordinary priority beside it has


class Crowd:
    """`lives` are seconds from a connection's opening to its end, by kind; `open` are those under way."""

    def __init__(self, port: int, tls: ssl.SSLContext | None) -> None:
        self._port = port
        self._tls = tls
        self._gate = asyncio.Semaphore(MAKE_WAY)
        self.lives: dict[str, list[float]] = {kind: [] for kind in KINDS}
        self.num_out: Counter[str] = Counter()
        self.open = 0

    async def one(self, kind: str, *, again: bool) -> None:
        """One client of the crowd, coming back if `again`."""
        for life in itertools.count():
            reader, writer = await self._connect()
            began = time.monotonic()
            self.open += 1
            try:
                with contextlib.suppress(OSError):
                    await KINDS[kind](reader, writer)
                self.lives[kind].append(time.monotonic() - began)
                self.num_out[kind] += not life
            finally:
                self.open -= 1
                writer.transport.abort()
            if not again:
                return

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with self._gate:
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.bind((THEIR_ADDRESS, 0))
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self._port))
            name = "localhost" if self._tls else None
            return await asyncio.open_connection(sock=sock, ssl=self._tls, server_hostname=name, limit=2048)


async def main(port: int, ca: Path, seconds: float, num: int) -> None:
    """A crowd of `num` for `seconds`."""
    crowd = Crowd(port, client_context(ca))
    kinds = list(KINDS)
    tasks = [asyncio.ensure_future(crowd.one(kinds[i % len(kinds)], again=True)) for i in range(num)]
    async with asyncio.timeout(ALL_HERE_S):
        while crowd.open < num * 0.98:  # those that are thrown out just now come back  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    sys.stdout.write("here\n")
    sys.stdout.flush()
    await asyncio.sleep(seconds)
    said = {
        kind: {"out": crowd.num_out[kind], "ended": len(lives), "longest_s": round(max(lives, default=0), 2)}
        for kind, lives in crowd.lives.items()
    }
    sys.stdout.write(json.dumps({"open": crowd.open, "kinds": said}) + "\n")
    sys.stdout.flush()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    os.nice(NICE)
    uvloop.run(main(int(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])))

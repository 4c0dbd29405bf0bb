"""DNS over TCP (RFC 7766): several questions a connection, in any pieces; idle ones end, and all are counted."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING, Final, cast

from edge.dns.respond import MAX_QUERY_BYTES

if TYPE_CHECKING:
    import socket

    from edge.dns.udp import Answer

MAX_CONNECTIONS: Final = 512
MAX_PER_HOST: Final = 32  # a resolver keeps a few open
IDLE_S: Final = 10.0  # RFC 7766 6.2.3: "of the order of a few seconds"
SWEEP_S: Final = 1.0
WRITE_BYTES: Final = 65_536  # answers that a client has not read; above, its questions wait
BACKLOG: Final = 256


class Streams:
    """The connections of every address."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.open: set[_Connection] = set()
        self.by_host: Counter[str] = Counter()
        self._servers: list[asyncio.Server] = []
        self._sweeper = asyncio.get_running_loop().create_task(self._sweep())

    async def start(self, sock: socket.socket) -> None:
        """Accept on a bound socket."""
        loop = asyncio.get_running_loop()
        self._servers.append(await loop.create_server(lambda: _Connection(self), sock=sock, backlog=BACKLOG))

    async def close(self) -> None:
        """Stop listening, and end every connection."""
        for server in self._servers:
            server.close()
        self._sweeper.cancel()
        for connection in tuple(self.open):
            connection.cut()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            now = time.monotonic()
            for connection in tuple(self.open):
                if now - connection.heard_at > IDLE_S:
                    connection.cut()


class _Connection(asyncio.Protocol):
    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._rest = b""
        self._host = ""
        self._transport: asyncio.Transport
        self._paused = False
        self.heard_at = time.monotonic()  # when its last whole question came

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(WRITE_BYTES)
        self._host = str(transport.get_extra_info("peername")[0])
        streams = self._streams
        streams.open.add(self)
        streams.by_host[self._host] += 1
        if len(streams.open) > MAX_CONNECTIONS or streams.by_host[self._host] > MAX_PER_HOST:
            self.cut()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        streams = self._streams
        streams.open.discard(self)
        streams.by_host[self._host] -= 1
        if not streams.by_host[self._host]:
            del streams.by_host[self._host]

    def data_received(self, data: bytes) -> None:
        self._rest += data
        self._answer()

    def pause_writing(self) -> None:
        self._paused = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._paused = False
        self._transport.resume_reading()
        self._answer()

    def cut(self) -> None:
        """End it, whatever it was doing."""
        self._transport.abort()

    def _answer(self) -> None:
        """Every whole question that is here, for as long as the client reads."""
        at = 0
        while not self._paused and not self._transport.is_closing():
            size = int.from_bytes(self._rest[at : at + 2])
            end = at + 2 + size
            if len(self._rest) < at + 2:
                break
            if size > MAX_QUERY_BYTES:
                self.cut()
                return
            if len(self._rest) < end:
                break
            self._say(self._rest[at + 2 : end])
            at = end
        self._rest = self._rest[at:]

    def _say(self, query: bytes) -> None:
        self.heard_at = time.monotonic()
        reply = self._streams.answer(query, self._host, self.heard_at)
        if not reply:
            self.cut()
            return
        self._transport.write(len(reply).to_bytes(2) + reply)

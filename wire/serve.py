"""An HTTP/1.1 server for the internet: strict gate, deadlines, caps, back-pressure, graceful drain."""

import asyncio
import os
import socket
import ssl

from wire.connection import Connection
from wire.exchange import Disconnected, Exchange
from wire.limits import DEFAULT_LIMITS, Limits
from wire.roster import Handler, Met, Roster

__all__ = ["DEFAULT_LIMITS", "Disconnected", "Exchange", "Handler", "Limits", "Met", "Server"]

SWEEP_S = 0.5  # how late a deadline may be enforced, at most
BACKLOG = 1024  # connections the kernel holds while the loop is busy


class Server:
    """One listener. `await Server.start(...)`; `port` is the bound one (useful when 0 was asked for)."""

    def __init__(self, roster: Roster, listener: asyncio.Server, port: int) -> None:
        self.port = port
        self._roster = roster
        self._listener = listener
        self._sweeper = asyncio.get_running_loop().create_task(self._sweep())

    @classmethod
    async def start(
        cls,
        handler: Handler,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None = None,
        limits: Limits = DEFAULT_LIMITS,
        met: Met | None = None,
    ) -> "Server":
        """Listen on a named address; `handler` gets each request as an Exchange, in its own task.

        A Refusal the handler raises before `start` becomes its response, any other exception a plain 500 (and
        is logged); after `start` the connection is cut. Raises OSError if the address cannot be bound.
        """
        roster = Roster(handler, limits, met)
        roster.tick()
        listener = await asyncio.get_running_loop().create_server(
            lambda: Connection(roster),
            host,
            port,
            ssl=tls,
            ssl_handshake_timeout=None if tls is None else limits.handshake_s,
            backlog=BACKLOG,
        )
        return cls(roster, listener, listener.sockets[0].getsockname()[1])

    @classmethod
    async def start_unix(
        cls, handler: Handler, listener: socket.socket, *, limits: Limits = DEFAULT_LIMITS
    ) -> "Server":
        """The same on a bound Unix socket, for processes of our own user only; `port` is 0.

        Answers may carry descriptors there (`Exchange.send_descriptors`). Whoever bound the name removes it.
        """
        roster = Roster(handler, limits, only_uid=os.geteuid())
        roster.tick()
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(lambda: Connection(roster), sock=listener, backlog=BACKLOG)
        return cls(roster, server, 0)

    @property
    def num_connections(self) -> int:
        """Open client connections."""
        return len(self._roster.members)

    async def drain(self, deadline_s: float) -> None:
        """Stop listening, let running exchanges finish within `deadline_s` seconds, cut the rest."""
        self._listener.close()
        self._roster.draining = True
        for connection in tuple(self._roster.members):
            connection.close_if_idle()
        try:
            async with asyncio.timeout(deadline_s):
                await self._emptied()
        except TimeoutError:
            pass
        await self.close()

    async def close(self) -> None:
        """Stop listening and cut every connection; returns when the last handler has ended."""
        self._listener.close()
        self._roster.draining = True
        self._sweeper.cancel()
        tasks = [c.task for c in self._roster.members if c.task is not None]
        for connection in tuple(self._roster.members):
            connection.cut()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._emptied()

    async def _emptied(self) -> None:
        while self._roster.members:
            self._roster.emptied.clear()
            await self._roster.emptied.wait()

    async def _sweep(self) -> None:
        """Enforce all deadlines: one timer for the listener instead of several per request."""
        limits = self._roster.limits
        shortest = min(limits.head_s, limits.idle_s, limits.body_grace_s, limits.write_stall_s)
        pause = min(SWEEP_S, max(shortest / 4, 0.01))
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(pause)
            self._roster.tick()
            now = loop.time()
            for connection in tuple(self._roster.members):
                connection.check(now)

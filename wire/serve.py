"""An HTTP/1.1 server for the internet: strict gate, deadlines, caps, back-pressure, graceful drain."""

import asyncio
import os
import socket
import ssl
import time

from wire.dialect import spoken
from wire.http.limits import DEFAULT_LIMITS, Limits
from wire.listener.endings import Cause, Endings
from wire.listener.exchange import Exchange
from wire.listener.line import Disconnected
from wire.listener.roster import Handler, Met, Roster, Speak
from wire.listener.welcome import Welcome, bound

__all__ = ["DEFAULT_LIMITS", "Disconnected", "Exchange", "Handler", "Limits", "Met", "Server"]

SWEEP_S = 0.5  # how late a deadline may be enforced, at most
PIECE_S = 0.00025  # of a sweep: to end a connection costs what an answer does, and many may be due at once
OTHERS_TURNS = 3  # of the loop between two pieces: a request takes several, and is to meet one piece in them
LAST_CALL_S = 0.3  # a round trip around the Earth: a request may be on its way when a drain begins


class Server:
    """One listener. `await Server.start(...)`; `port` is the bound one (useful when 0 was asked for)."""

    def __init__(self, roster: Roster, welcome: Welcome, port: int) -> None:
        self.port = port
        self._roster = roster
        self._welcome = welcome
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
        speak: Speak = spoken,
        sock: socket.socket | None = None,
        endings: Endings | None = None,
    ) -> "Server":
        """Listen on a named address, or on `sock`, which is bound to it; `handler` gets each request as an Exchange.

        A Refusal the handler raises before `start` becomes its response, any other exception a plain 500 (and
        is logged); after `start` the connection is cut. Both, and what is refused before there is a handler, are
        worded by `speak`. `endings` hears of connections that end before their time. Raises OSError if the address
        cannot be bound.
        """
        sock = sock or await bound(host, port)
        roster = Roster(handler, limits, met, speak, endings=endings or Endings())
        return await cls._open(roster, sock, sock.getsockname()[1], tls)

    @classmethod
    async def start_unix(
        cls, handler: Handler, listener: socket.socket, *, limits: Limits = DEFAULT_LIMITS
    ) -> "Server":
        """The same on a bound Unix socket, for processes of our own user only; `port` is 0.

        Answers may carry descriptors there (`Exchange.send_descriptors`). Whoever bound the name removes it.
        """
        return await cls._open(Roster(handler, limits, only_uid=os.geteuid()), listener, 0, None)

    @classmethod
    async def _open(
        cls, roster: Roster, sock: socket.socket, port: int, tls: ssl.SSLContext | None
    ) -> "Server":
        roster.tick()
        welcome = Welcome(sock, roster, tls)
        await welcome.open()
        return cls(roster, welcome, port)

    @property
    def num_connections(self) -> int:
        """Open client connections."""
        return len(self._roster.members)

    async def drain(self, deadline_s: float) -> None:
        """Stop listening, let running exchanges finish within `deadline_s` seconds, cut the rest.

        Every answer from now on says that it is the last of its connection. Those who have connected, or whose
        request is on its way, are still served: they have LAST_CALL_S.
        """
        self._roster.draining = True
        self._welcome.close()
        try:
            async with asyncio.timeout(deadline_s):
                await self._last_call()
                await self._emptied()
        except TimeoutError:
            pass
        await self.close()

    async def _last_call(self) -> None:
        """Let the silent ones go once what they may have sent has had the time to come."""
        await self._welcome.settled()
        try:
            async with asyncio.timeout(LAST_CALL_S):
                await self._emptied()
        except TimeoutError:
            for _ in range(2):  # and if this process did not run meanwhile, what came is read first
                await asyncio.sleep(0)
        for connection in tuple(self._roster.members):
            connection.close_if_idle()

    async def close(self) -> None:
        """Stop listening and cut every connection; returns when the last handler has ended."""
        self._roster.draining = True
        self._sweeper.cancel()
        await self._welcome.give_up()
        tasks = [c.task for c in self._roster.members if c.task is not None]
        for connection in tuple(self._roster.members):
            connection.cut(Cause.SHUT_DOWN)
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._emptied()

    async def _emptied(self) -> None:
        while self._roster.members:
            self._roster.emptied.clear()
            await self._roster.emptied.wait()

    async def _sweep(self) -> None:
        """Enforce all deadlines: one timer for the listener instead of several per request; none while it is empty."""
        limits = self._roster.limits
        shortest = min(limits.head_s, limits.idle_s, limits.body_grace_s, limits.write_stall_s)
        shortest = min(shortest, limits.total_s or shortest)
        pause = min(SWEEP_S, max(shortest / 4, 0.01))
        loop = asyncio.get_running_loop()
        while True:
            await self._roster.entered.wait()
            await asyncio.sleep(pause)
            self._roster.tick()
            await self._check_all(loop.time())

    async def _check_all(self, now: float) -> None:
        began = time.perf_counter()
        for connection in tuple(self._roster.members):
            connection.check(now)
            if time.perf_counter() - began > PIECE_S:
                for _ in range(1 + OTHERS_TURNS):
                    await asyncio.sleep(0)
                began = time.perf_counter()

"""Connections to one address that are being made, and the requests that wait for one, whichever is there first."""

import asyncio
from collections import deque
from functools import partial
from typing import Protocol

from wire.upstreams.connect import Attempt, Target
from wire.upstreams.failure import DialError
from wire.upstreams.upstream import Upstream

SPARE_S = 2.0  # for a connection that nobody waits for


class Keeper(Protocol):
    """Whose connections they are: the pool."""

    def keep(self, upstream: Upstream, now: float) -> None:
        """Nobody waits for this one any more, `now` (loop time)."""

    def use(self, upstream: Upstream | None) -> None:
        """This one, or one that is still to be made, is in use from here on."""


class Making:
    """`attempts` are under way; `waiting` are requests, each for the first connection that is made or becomes free."""

    def __init__(self, target: Target, keeper: Keeper) -> None:
        self._target, self._keeper = target, keeper
        self.attempts: set[Attempt] = set()
        self.waiting: deque[asyncio.Future[Upstream]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def __len__(self) -> int:
        """Those that are made in a task of their own."""
        return len(self._tasks)

    async def close(self) -> None:
        """No more are made, and those under way are given up."""
        self._closed = True
        for attempt in tuple(self.attempts):
            attempt.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def connect(self, connect_s: float) -> Upstream:
        """A new one, in use. Raises DialError."""
        if self._closed:
            raise DialError("connect", 0, "the pool is closed")
        attempt = Attempt(self._target)
        self.attempts.add(attempt)
        self._keeper.use(None)
        try:
            upstream = await attempt.connect(connect_s)
        finally:
            self.attempts.discard(attempt)
        self._keeper.use(upstream)
        return upstream

    async def soonest(self, connect_s: float) -> Upstream:
        """A connection that is made, or one that becomes free before: then the new one is kept for the next request.

        Where requests suddenly take longer, as when the next region is a far one, each would else wait for a handshake
        of its own, and all those handshakes for each other (Go's net/http does the same). Raises DialError.
        """
        waiter: asyncio.Future[Upstream] = asyncio.get_running_loop().create_future()
        self.waiting.append(waiter)
        making = asyncio.get_running_loop().create_task(self._make(waiter, connect_s))
        self._tasks.add(making)
        making.add_done_callback(partial(self._made, waiter))
        try:
            return await waiter
        except asyncio.CancelledError:
            making.cancel()
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                given = waiter.result()  # it was given one in the same turn
                self._keeper.keep(given, given.idle_since or given.now())
            raise
        finally:
            if waiter in self.waiting:
                self.waiting.remove(waiter)

    def give(self, upstream: Upstream) -> bool:
        """To the request that has waited the longest, if any does."""
        while self.waiting:
            waiter = self.waiting.popleft()
            if not waiter.done():
                self._keeper.use(upstream)
                waiter.set_result(upstream)
                return True
        return False

    def spare(self, num: int) -> None:
        """Make so many, to be kept. One that fails is missed by nobody."""
        for _ in range(num):
            making = asyncio.get_running_loop().create_task(self._spare())
            self._tasks.add(making)
            making.add_done_callback(self._tasks.discard)

    async def _spare(self) -> None:
        try:
            upstream = await self.connect(SPARE_S)
        except DialError:
            return
        self._keeper.keep(upstream, upstream.now())

    async def _make(self, waiter: asyncio.Future[Upstream], connect_s: float) -> None:
        """A connection for this one; for another one, or to be kept, if it does not wait any more."""
        upstream = await self.connect(connect_s)
        if waiter.done():
            self._keeper.keep(upstream, upstream.now())
        else:
            waiter.set_result(upstream)

    def _made(self, waiter: asyncio.Future[Upstream], making: asyncio.Task[None]) -> None:
        """What ended the attempt is told to the one that it was for, if that still waits; to nobody else."""
        self._tasks.discard(making)
        error = None if making.cancelled() else making.exception()
        if (
            not waiter.done()
        ):  # never a cancel: who waits would take it for his own, and tell his client nothing
            waiter.set_exception(error or DialError("connect", 0, "the attempt was given up"))

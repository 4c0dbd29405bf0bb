"""A second try beside a slow first one, whichever answers first: for questions that may be asked twice, and only those.

Probes of a region are asked so: a round trip that hangs on one sick connection is none that the region failed. Never a
generation: it would be computed twice. The second goes out after the 95th percentile of what was measured, at most one
for TENTH questions (Dean and Barroso, The Tail at Scale, 2013: 2 to 5 % more load take most of the tail).
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

WINDOW: Final = 64  # answers looked at
LEAST_SEEN: Final = 20  # before the percentile means anything
PERCENTILE: Final = 0.95
TENTH: Final = 10
LEAST_DELAY_S: Final = 0.01  # nothing on a loop that has other work is late before
BURST: Final = 3.0  # second tries that may come in a row

T = TypeVar("T")


class Hedge:
    """When a second try may go out. Pure."""

    def __init__(self) -> None:
        self._took_s: deque[float] = deque(maxlen=WINDOW)
        self._left = BURST
        self.num_hedged = 0

    def answered(self, took_s: float) -> None:
        """A question was answered so long after it was first asked."""
        self._took_s.append(took_s)
        self._left = min(BURST, self._left + 1 / TENTH)

    def delay_s(self) -> float | None:
        """How long to wait for the first; None while nothing is known."""
        if len(self._took_s) < LEAST_SEEN:
            return None
        return max(LEAST_DELAY_S, sorted(self._took_s)[int(PERCENTILE * len(self._took_s))])

    def take(self) -> bool:
        """Whether there may be a second one now."""
        if self._left < 1.0:
            return False
        self._left -= 1.0
        self.num_hedged += 1
        return True


async def first_of(ask: Callable[[], Awaitable[T]], again: Callable[[], Awaitable[T]], hedge: Hedge) -> T:
    """What `ask` says, or `again`, which begins if that takes long. Raises what the last of them raises."""
    delay_s = hedge.delay_s()
    if delay_s is None:
        return await ask()
    first = asyncio.ensure_future(ask())
    asked: list[asyncio.Future[T]] = [first]
    try:
        await asyncio.wait(asked, timeout=delay_s)
        if first.done():
            return first.result()
        if hedge.take():
            asked.append(asyncio.ensure_future(again()))
        return await _best(asked)
    finally:
        if len(asked) > 1 or not first.done():  # else there is nobody to wait for, as nearly always
            for each in asked:
                each.cancel()
            await asyncio.gather(*asked, return_exceptions=True)


async def _best(asked: list[asyncio.Future[T]]) -> T:
    """The first result; if none has one, the last error."""
    waiting = set(asked)
    while True:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        good = [each for each in done if each.exception() is None]
        if good or not waiting:
            return (good or list(done))[0].result()

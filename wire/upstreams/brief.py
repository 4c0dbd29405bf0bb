"""Requests that wait a moment for a pool's connection which is about to be free, in place of a new one each.

When a process comes back from a stall, many requests are there in one turn of its loop, and each finds all connections
taken by those before it. To make one costs more than the request itself (and a handshake of TLS ten times that), while
fast answers free them in the next turns. So one waits while the others' are freed; who would wait for long is told so.
"""

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from wire.upstreams.upstream import Upstream

LOOK_S: Final = (
    0.005  # between two looks at how fast they are freed: a tenth of a handshake with a far region
)
LOOKS: Final = 4  # so many such spans one waits at most, at the pace of the last


class Waiter(Protocol):
    """One request. Either call is made once, and not from within `join`."""

    def go(self, upstream: "Upstream") -> None:
        """It has a connection."""

    def give_up(self) -> None:
        """None will be free soon."""


class Brief:
    """First come, first served: those in `waiting`. A timer runs only while somebody waits."""

    def __init__(self) -> None:
        self.waiting: deque[Waiter] = deque()
        self._num_given = 0  # since the last look
        self._looks = False

    def __len__(self) -> int:
        return len(self.waiting)

    def join(self, waiter: Waiter) -> None:
        """Wait."""
        self.waiting.append(waiter)
        if not self._looks:
            self._looks, self._num_given = True, 0
            self._look_later()

    def leave(self, waiter: Waiter) -> None:
        """Its client is gone, or it is somebody else's now."""
        if waiter in self.waiting:
            self.waiting.remove(waiter)

    def give(self, upstream: "Upstream") -> bool:
        """To the one that has waited the longest, if any does."""
        if not self.waiting:
            return False
        self._num_given += 1
        self.waiting.popleft().go(upstream)
        return True

    def _look_later(self) -> None:
        """Two turns after the timer: one that rings after a stall rings before the answers are read."""
        loop = asyncio.get_running_loop()
        loop.call_later(LOOK_S, loop.call_soon, loop.call_soon, self._look)

    def _look(self) -> None:
        """Send on those for whom too few are freed; always one, so that a pool that is too small grows."""
        num_given, self._num_given = self._num_given, 0
        num_over = max(1, len(self.waiting) - LOOKS * num_given)
        for _ in range(min(num_over, len(self.waiting))):
            self.waiting.popleft().give_up()
        self._looks = bool(self.waiting)
        if self._looks:
            self._look_later()

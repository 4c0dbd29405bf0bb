"""A deadline that is moved often and rarely met: moving it costs one attribute, not a timer."""

import asyncio
from collections.abc import Callable

ASLEEP_S = 0.1  # timers of a loop that runs are not so late
GRACE_S = 1.0  # at most: a machine that goes on standing still is one that cannot keep time


class Alarm:
    """Calls `ring()` once the deadline set last has passed; `set(None)` means none."""

    __slots__ = ("_deadline", "_handle", "_loop", "_ring")

    def __init__(self, ring: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._ring = ring
        self._deadline: float | None = None  # loop time
        self._handle: asyncio.TimerHandle | None = None

    def set(self, after_s: float | None) -> None:
        """Ring in `after_s` seconds; an earlier setting is forgotten."""
        if after_s is None:
            self._deadline = None
            return
        deadline = self._deadline = self._loop.time() + after_s
        if self._handle is not None and self._handle.when() > deadline:
            self._handle.cancel()
            self._handle = None
        if self._handle is None:
            self._handle = self._loop.call_at(deadline, self._check)

    def stop(self) -> None:
        """Forget everything; for the end of the owner's life."""
        self._deadline = None
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _check(self) -> None:
        self._handle = None
        if self._deadline is None:
            return
        late_s = self._loop.time() - self._deadline
        if late_s > ASLEEP_S:  # this process stood still, and what the peer said meanwhile was not read yet
            self._deadline += late_s + min(late_s, GRACE_S)
        elif late_s >= 0:
            self._deadline = None
            self._ring()
            return
        self._handle = self._loop.call_at(self._deadline, self._check)

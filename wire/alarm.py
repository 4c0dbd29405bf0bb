"""A deadline that is moved often and rarely met: moving it costs one attribute, not a timer."""

import asyncio
from collections.abc import Callable


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
        if self._loop.time() < self._deadline:
            self._handle = self._loop.call_at(self._deadline, self._check)
        else:
            self._deadline = None
            self._ring()

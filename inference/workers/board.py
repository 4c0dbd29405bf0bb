"""The progress of one load, for any number of readers: the newest line, and the last one."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Line = dict[str, Any]

GAP_S = 0.1
"""Between two lines to one reader: the edge shows four a second, bars look smooth at ten."""


class LoadFailure(Exception):
    """A load that cannot succeed; `code` for programs, the message and `next_step` for people."""

    def __init__(self, code: str, message: str, next_step: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.next_step = next_step

    def line(self) -> Line:
        """The last line of the load."""
        return {"phase": "failed", "code": self.code, "message": self.message, "next": self.next_step}


class Board:
    """Where a load writes what it is doing. Readers see the newest line, never a backlog."""

    def __init__(self) -> None:
        self.line: Line | None = None
        self._changed = asyncio.Event()
        self._final = asyncio.Event()

    @property
    def is_final(self) -> bool:
        """True once the last line is there."""
        return self._final.is_set()

    def post(self, phase: str, done: int, total: int, eta_s: float | None = None) -> None:
        """The load is `done` of `total` (bytes or steps) into `phase`."""
        percent = round(100 * done / total, 1) if total else 100.0
        self._write(
            {"phase": phase, "done_bytes": done, "total_bytes": total, "percent": percent, "eta_s": eta_s}
        )

    def finish(self, line: Line) -> None:
        """The last line; later ones are ignored."""
        if not self.is_final:
            self.line = line
            self._final.set()
            self._changed.set()

    async def lines(self) -> AsyncIterator[Line]:
        """Lines from now on, the newest first, at most one each `GAP_S` but the last one at once."""
        shown: Line | None = None
        while not self.is_final:
            changed = self._changed
            if self.line is not None and self.line is not shown:
                shown = self.line
                yield shown
            await changed.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GAP_S):
                    await self._final.wait()
        yield await self.outcome()

    async def outcome(self) -> Line:
        """The last line."""
        await self._final.wait()
        return self.line or {}

    def _write(self, line: Line) -> None:
        if not self.is_final:
            self.line = line
            self._changed.set()
            self._changed = asyncio.Event()

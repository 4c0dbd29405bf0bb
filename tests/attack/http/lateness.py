"""How late an event loop is: what waits for it before a line of the code that is measured runs."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

EVERY_S = 0.005  # 200 looks a second cost a loop some 2 ms of it


class Lateness:
    """Milliseconds by which the running loop's timers were late, since the last `take_p99_ms`."""

    def __init__(self) -> None:
        self._late_ms: list[float] = []

    @classmethod
    @contextlib.asynccontextmanager
    async def watched(cls) -> AsyncIterator[Lateness]:
        """One of the running loop, looked at until this ends."""
        lateness = cls()
        looking = asyncio.ensure_future(lateness._look())
        try:
            yield lateness
        finally:
            looking.cancel()

    def take_p99_ms(self) -> float:
        """Of what was seen; there must have been two looks."""
        seen, self._late_ms = self._late_ms, []
        return statistics.quantiles(seen, n=100)[98]

    async def _look(self) -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(EVERY_S)
            self._late_ms.append(1000 * (time.perf_counter() - began - EVERY_S))

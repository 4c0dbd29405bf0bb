"""One loop a key, level-triggered: poked any number of times, it looks again until there is nothing to do."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = logging.getLogger("nearfield.regions")


class KeyedLoops:
    """Runs `step(key)` for every poked key, one at a time a key.

    `step` returns the seconds after which it wants to run again, or None when only a poke should wake it.
    """

    def __init__(self, name: str, step: Callable[[str], Awaitable[float | None]]) -> None:
        self._name = name
        self._step = step
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._poked: dict[str, asyncio.Event] = {}

    def poke(self, key: str) -> None:
        """Says that something about `key` may have changed."""
        self._poked.setdefault(key, asyncio.Event()).set()
        if key not in self._tasks:
            task = asyncio.create_task(self._follow(key), name=f"{self._name} {key}")
            self._tasks[key] = task
            task.add_done_callback(lambda done: self._ended(key, done))

    async def close(self) -> None:
        """Cancels every loop and waits for its end."""
        tasks = tuple(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, key: str) -> None:
        poked = self._poked[key]
        while poked.is_set():
            poked.clear()
            again_s = await self._step(key)
            if again_s is not None:
                await _set_within(poked, again_s)
                poked.set()

    def _ended(self, key: str, task: asyncio.Task[None]) -> None:
        """Forgets an ended loop; a bug in a step is logged whole and ends that key's loop alone."""
        del self._tasks[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s %s stopped", self._name, key, exc_info=error)
            return
        if not task.cancelled() and self._poked[key].is_set():
            self.poke(key)  # poked between the last look and the end


async def _set_within(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return

"""The way into one engine, where requests wait for their tenant's turn (`inference.workers.entry.turnstile`)."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from inference.workers.entry.turnstile import Guest, Turnstile
from wire.counted import counted
from wire.refused.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

SPARE = 4
"""One place in so many beside the engine's slots: whoever gets the next free one is there already, its prompt made."""


class Entrance:
    """Open to everybody until `open` says how many its engine can hold, unless its `turnstile` knows."""

    def __init__(self, now: Callable[[], float] = time.monotonic, turnstile: Turnstile | None = None) -> None:
        self._now = now
        self._turnstile = turnstile or Turnstile()
        self._comers: dict[Guest, asyncio.Future[None]] = {}

    @property
    def num_waiting(self) -> int:
        """Requests that are not on their way to the engine yet."""
        return self._turnstile.num_waiting

    def open(self, ready: Mapping[str, Any]) -> None:
        """The engine is there, as it says of itself."""
        slots = int(ready.get("slots") or 0)
        self._turnstile.places = slots + max(1, slots // SPARE) if slots else 0
        self._turnstile.is_shy = bool(ready.get("shares_cores"))

    def inside(self, tenant: str, weight: int, priority: int, size: int) -> Inside:
        """A request of so many sequences: inside while this is open."""
        return Inside(self, tenant, weight, priority, size)

    async def come(self, tenant: str, weight: int, priority: int, size: int) -> tuple[Guest, bool]:
        """Wait for a turn; the guest, and whether it had to.

        Raises:
            Refusal: 429, too many wait and its tenant has most of them; 503, the engine was lost.
        """
        guest, unlucky, admitted = self._turnstile.come(
            tenant, self._now(), weight=weight, priority=priority, size=size
        )
        for each in admitted:
            if each is not guest:
                self._tell(each)
        if unlucky is guest:
            raise self._full()
        if unlucky is not None:
            self._tell(unlucky, self._full())
        if guest.is_inside:
            return guest, False
        await self._turn(guest)
        return guest, True

    def leave(self, guest: Guest) -> None:
        """It has its answer, or is given up."""
        for each in self._turnstile.leave(guest, self._now()):
            self._tell(each)

    def _tell(self, guest: Guest, refusal: Refusal | None = None) -> None:
        """It may go in, or why not; unless it was told something else a moment ago, and has not left yet."""
        if (comer := self._comers.pop(guest, None)) is not None:
            _settle(comer, refusal)

    def fail_all(self, refusal: Refusal) -> None:
        """Nobody who waits is let in any more."""
        comers, self._comers = self._comers, {}
        for comer in comers.values():
            _settle(comer, refusal)

    async def _turn(self, guest: Guest) -> None:
        comer = self._comers[guest] = asyncio.get_running_loop().create_future()
        try:
            await comer
        except (Refusal, asyncio.CancelledError):
            self._comers.pop(guest, None)
            self.leave(guest)
            raise

    def _full(self) -> Refusal:
        num, wait_s = self._turnstile.num_waiting, self._turnstile.wait_s()
        message = f"{counted(num, 'request')} waiting already; try again in {wait_s:.0f} s"
        return Refusal(429, "overloaded", message, "rate_limit_error", retry_after_s=wait_s)


class Inside:
    """One request's stay; whoever need not wait does not give its turn of the loop away either."""

    __slots__ = ("_entrance", "_guest", "_order")

    def __init__(self, entrance: Entrance, *order: Any) -> None:
        self._entrance, self._order = entrance, order
        self._guest: Guest | None = None

    async def __aenter__(self) -> bool:
        """Whether it had to wait. Raises Refusal, as `Entrance.come`."""
        self._guest, has_waited = await self._entrance.come(*self._order)
        return has_waited

    async def __aexit__(self, *_: object) -> None:
        if self._guest is not None:
            self._entrance.leave(self._guest)


def _settle(comer: asyncio.Future[None], refusal: Refusal | None = None) -> None:
    """Tell who waits, unless it has just gone."""
    if comer.done():
        return
    if refusal is None:
        comer.set_result(None)
    else:
        comer.set_exception(refusal)

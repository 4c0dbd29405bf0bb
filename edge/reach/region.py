"""One region as this edge reaches it: the way there (`wire/ways/way.py`), and its health, by what requests saw."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Final

from regions.health import HEALTHY, PROVEN, Breaker, Outcome, RegionHealth, after
from wire.dial import MAX_IDLE
from wire.ways.way import Way

if TYPE_CHECKING:
    import ssl

DOWN: Final = RegionHealth(breaker=Breaker.OPEN, until=math.inf)


class Reach(Way):
    """A way, and `health`: what requests saw of the region; while it is down, that it is gone."""

    def __init__(
        self,
        name: str,
        host: str,
        port: int,
        tls: ssl.SSLContext | None = None,
        *,
        max_idle: int = MAX_IDLE,
    ) -> None:
        """See Way."""
        super().__init__(name, host, port, tls, max_idle=max_idle)
        self.health: RegionHealth = HEALTHY
        self._seen: RegionHealth = HEALTHY

    def saw(self, outcome: Outcome) -> None:
        """Note what became of a request to the region."""
        if self.health is not PROVEN or outcome is Outcome.FAILED:  # else there is nothing to learn
            self._believe(after(self._seen, outcome, asyncio.get_running_loop().time()))

    def on_answer(self, now: float, *, came_back: bool) -> None:
        """(Way) its probe was answered."""
        if came_back:
            # What was seen of it belongs to a process or a path that is gone; it starts slowly.
            self._believe(RegionHealth(recovered_at=now))
        elif self._seen.breaker is not Breaker.CLOSED and self._seen.admits(now):
            self.saw(Outcome.SENT)  # the trial: no request may ever choose a region that has just failed
            self.saw(Outcome.SUCCEEDED)

    def on_failure(self) -> None:
        """(Way) its probe was not answered."""
        self._believe(self._seen)

    def _believe(self, seen: RegionHealth) -> None:
        self._seen = seen
        self.health = DOWN if self.down else seen

"""When an engine that fell may be started again: at once, then later each time, then at once again. Pure.

Rule: the pause doubles with each fall, and one good run of `STEADY_S` forgets them all.
"""

from __future__ import annotations

from dataclasses import dataclass

FIRST_PAUSE_S = 0.5
LAST_PAUSE_S = 60.0
STEADY_S = 120.0
"""An engine that ran for so long fell for a reason of its own, not for that of the falls before."""


@dataclass(slots=True)
class BackOff:
    """The falls of one revision's engine on one host; times in seconds of any one clock."""

    num_falls: int = 0
    ready_at_s: float = 0.0

    def fell(self, began_s: float, now_s: float) -> None:
        """It ended by itself, or never started; it began (to load) at `began_s`."""
        self.num_falls = 1 if now_s - began_s >= STEADY_S else self.num_falls + 1
        self.ready_at_s = now_s + self.pause_s()

    def pause_s(self) -> float:
        """How long the next start waits after the last fall. The first one is free: most falls are single."""
        if self.num_falls < 2:
            return 0.0
        doublings = min(self.num_falls - 2, 16)
        return float(min(FIRST_PAUSE_S * 2**doublings, LAST_PAUSE_S))

    def left_s(self, now_s: float) -> float:
        """How long to wait from now on."""
        return max(0.0, self.ready_at_s - now_s)

"""Who goes into the first pass of an engine whose weights are still on their way. Plain Python, no torch.

A pass through gates ends with the last byte, however early it began, and whoever came a moment after its beginning
waits for another pass behind it. Requests that waited for the same start come within milliseconds of each other, so
the first pass waits until they are all here, as long as that costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

QUIET_S = 0.05
"""No request for so long: they are all here. On two cores that are busy landing, 64 come within 0.25 s, up to 40 ms
apart (measured)."""
MOST_S = 1.0
"""From the first request on: requests that never pause are no reason to begin later and later."""
ENOUGH_LANDED = 0.5
"""Of the weights: a pass over what is there takes less time than what is still to come needs to land."""


class Gather:
    """Says how long the first step may yet wait. `landed` is the share of the weights that is here."""

    def __init__(self, landed: Callable[[], float]) -> None:
        self._landed = landed
        self._first_s: float | None = None
        self._last_s = 0.0
        self._is_over = False

    def heard(self, now: float) -> None:
        """A request has come."""
        self._first_s = now if self._first_s is None else self._first_s
        self._last_s = now

    def patience_s(self, now: float) -> float:
        """Seconds to wait for another request before the first step; 0 from the moment it may begin."""
        if self._first_s is None or self._is_over:
            return 0.0
        left_s = min(self._last_s + QUIET_S, self._first_s + MOST_S) - now
        self._is_over = left_s <= 0 or self._landed() >= ENOUGH_LANDED
        return 0.0 if self._is_over else left_s

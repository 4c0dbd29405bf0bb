"""How far a region is: the least of its last round trips, because all that is above it is waiting, not way. Pure.

A busy moment on either side makes one probe slow, never fast; so the least one of a window is the way itself, and stays
where a mean would move traffic. A way that became longer is told from noise by several slow probes in a row.
"""

from __future__ import annotations

from collections import deque
from typing import Final

WINDOW: Final = 10  # round trips; as many seconds
MOVED_AFTER: Final = 3  # slow ones in a row
MOVED_SHARE: Final = 0.25  # slow is this share above the least ...
MOVED_MS: Final = 2.0  # ... and by this much


class Distance:
    """The last round trips over one way."""

    def __init__(self) -> None:
        self._seen: deque[float] = deque(maxlen=WINDOW)

    def saw(self, rtt_ms: float) -> float:
        """Take one in; the distance now."""
        self._seen.append(rtt_ms)
        last = list(self._seen)[-MOVED_AFTER:]
        least = min(self._seen)
        bar_ms = least + max(MOVED_MS, MOVED_SHARE * least)
        if len(last) == MOVED_AFTER and min(last) > bar_ms:
            self._seen = deque(last, maxlen=WINDOW)
            return min(last)
        return least

    def forget(self) -> None:
        """The way may be another one."""
        self._seen.clear()

"""How many lines of one kind a log bears: whoever makes more of them is one client in a loop, or an attack."""

import time
from collections.abc import Callable
from typing import Final

PER_S: Final = 10.0  # lines
BURST: Final = 100.0


class Sparing:
    """Lines at a bounded pace; what is left unsaid is counted, and told with the next that is said."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._left, self._at, self._num_silent = BURST, now(), 0

    def num_silent(self) -> int | None:
        """None if this line is one too many; else how many before it were."""
        now = self._now()
        self._left = min(BURST, self._left + (now - self._at) * PER_S)
        self._at = now
        if self._left < 1.0:
            self._num_silent += 1
            return None
        self._left -= 1.0
        silent, self._num_silent = self._num_silent, 0
        return silent

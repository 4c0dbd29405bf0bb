"""How many parts go up at once: the more are under way when an upload is cut, the more has to go again."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LEAST = 4
"""Of a line with losses each connection gets little: fewer would not fill it."""
QUICK_S = 4.0
"""A part that took less: the line takes one more at once."""
SLOW_S = 8.0
"""A part that took longer: they are too many for this line."""


class Width:
    """Turns of several threads, `LEAST` to `most` at once: as many as the line brings to their end soon."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = most, clock
        self._free = threading.Condition()
        self._running = 0
        self.width = min(LEAST, most)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn and have it; one that fails teaches nothing."""
        with self._free:
            self._free.wait_for(lambda: self._running < self.width)
            self._running += 1
        began = self._clock()
        try:
            yield
            self._learn(self._clock() - began)
        finally:
            with self._free:
                self._running -= 1
                self._free.notify_all()

    def _learn(self, took_s: float) -> None:
        with self._free:
            if took_s < QUICK_S:
                self.width = min(self.width + 1, self._most)
            elif took_s > SLOW_S:
                self.width = max(self.width - 1, min(LEAST, self._most))

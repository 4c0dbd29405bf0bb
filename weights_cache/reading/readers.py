"""The host's connections to its store while no load uses them."""

import threading
from collections.abc import Callable

from weights_cache.reading.fetch import RangeReader


class Readers:
    """Takes and gives readers, of which at most `most` are kept. Any thread may call anything."""

    def __init__(self, make: Callable[[], RangeReader], most: int) -> None:
        self._make, self._most = make, most
        self._lock = threading.Lock()
        self._idle: list[RangeReader] = []
        self._is_closed = False

    def take(self) -> RangeReader:
        """One that is idle, or a new one; it is the caller's until it is given back or closed."""
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return self._make()

    def give(self, reader: RangeReader) -> None:
        """Give one back that may be used again."""
        with self._lock:
            if len(self._idle) < self._most and not self._is_closed:
                self._idle.append(reader)
                return
        reader.close()

    def close(self) -> None:
        """Close those that are idle; one that is given back later is closed then."""
        with self._lock:
            self._is_closed, idle, self._idle = True, self._idle, []
        for reader in idle:
            reader.close()

"""One lock for each key: who does the same thing waits for each other, and nobody else does."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class KeyedLocks:
    """A lock for each key, there as long as somebody holds or wants it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._locks: dict[str, tuple[threading.Lock, int]] = {}

    @contextmanager
    def of(self, key: str) -> Iterator[None]:
        """Hold the lock of `key`."""
        with self._lock:
            lock, num_users = self._locks.get(key, (threading.Lock(), 0))
            self._locks[key] = lock, num_users + 1
        try:
            with lock:
                yield
        finally:
            with self._lock:
                num_users = self._locks[key][1] - 1
                self._locks[key] = lock, num_users
                if not num_users:
                    del self._locks[key]

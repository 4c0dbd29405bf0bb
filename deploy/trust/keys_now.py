"""The access keys that the configuration has now, for a store that looks once a second: read when the file is another.

Parsing it each second was a third of what an idle store cost.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from storage.auth.key import AccessKey

    Stamp = tuple[int, ...]

SETTLED_NS: Final = 2_000_000_000
"""A file system's clock has ticks, of two seconds at the worst: a younger file may change and look the same."""


class KeysNow:
    """`read` parses the file at `path`. One thread at a time."""

    def __init__(
        self,
        path: Path,
        read: Callable[[Path], tuple[AccessKey, ...]],
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._path, self._read, self._clock_ns = path, read, clock_ns
        self._stamp: Stamp | None = None
        self._keys: tuple[AccessKey, ...] = ()

    def __call__(self) -> tuple[AccessKey, ...]:
        """The keys; the very same tuple while they are the same. Raises: OSError, and what `read` raises."""
        stamp = self._look()
        if stamp is None or stamp != self._stamp:
            keys = self._read(self._path)  # after the look, so that what changes between is read again
            self._stamp = stamp
            self._keys = self._keys if keys == self._keys else keys
        return self._keys

    def _look(self) -> Stamp | None:
        """What is another when the file is; None while that is not sure."""
        seen = self._path.stat()
        if self._clock_ns() - max(seen.st_mtime_ns, seen.st_ctime_ns) < SETTLED_NS:
            return None
        return seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns

"""Where the counts of keys lie: in this process, or in memory that all processes of one edge share.

Shared, a key's quota is the edge's to the last token whichever process its connections came to. A set of entries is
locked by the kernel (fcntl), which frees it when its holder dies; what such a one had running is taken back by
whoever replaces it (`clear`). One look costs some 6 us, and is taken for keys with a quota alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
from array import array
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    Cells = memoryview[float]

REQUESTS: Final = 0  # a bucket of requests a minute: its level, at which time, and how much it holds
TOKENS: Final = 3
RUNNING: Final = 6  # requests under way, of each process
NUM_SETS: Final = 2048
NUM_WAYS: Final = 8  # together twice the keys that a policy row may hold
DIGEST_BYTES: Final = 32
FLOAT_BYTES: Final = 8
NOBODY: Final = bytes(DIGEST_BYTES)


class Ledger(Protocol):
    """The counts of keys, by digest."""

    @property
    def is_shared(self) -> bool:
        """Whether others may change them between two looks."""

    @property
    def me(self) -> int:
        """Which process this is."""

    def held(self, digest: str) -> contextlib.AbstractContextManager[Cells]:
        """One key's cells, for nobody else meanwhile; those of a key that was not here are 0. Not to be nested."""

    def drop(self, digest: str) -> None:
        """The key is idle, and full again."""


class OwnLedger:
    """Of an edge that is one process."""

    is_shared = False
    me = 0

    def __init__(self) -> None:
        self._cells: dict[str, Cells] = {}

    def held(self, digest: str) -> contextlib.AbstractContextManager[Cells]:
        """See Ledger."""
        if digest not in self._cells:
            self._cells[digest] = memoryview(array("d", bytes(FLOAT_BYTES * (RUNNING + 1))))
        return contextlib.nullcontext(self._cells[digest])

    def drop(self, digest: str) -> None:
        """See Ledger."""
        self._cells.pop(digest, None)


class SharedLedger:
    """Of `size` processes, forked from the one that made it: each says with `at` who it is.

    An entry is a key's digest and its cells. It lies in the set that its digest names; where a set is full, whoever is
    idle the longest goes: it is full again by then, as far as it matters.
    """

    is_shared = True

    def __init__(self, size: int) -> None:
        self.me = 0
        self._num_cells = RUNNING + size
        self._entry_bytes = DIGEST_BYTES + FLOAT_BYTES * self._num_cells
        self._fd = os.memfd_create("nearfield-quotas", os.MFD_CLOEXEC)
        num_bytes = NUM_SETS * NUM_WAYS * self._entry_bytes
        os.ftruncate(self._fd, num_bytes)
        self._bytes = memoryview(mmap.mmap(self._fd, num_bytes))

    def at(self, me: int) -> SharedLedger:
        """The same, as process `me` of them sees it."""
        self.me = me
        return self

    @contextlib.contextmanager
    def held(self, digest: str) -> Iterator[Cells]:
        """See Ledger."""
        name = bytes.fromhex(digest)
        number = int.from_bytes(name[:4]) % NUM_SETS
        with self._locked(number):
            yield self._find(number, name)

    def drop(self, digest: str) -> None:
        """Nothing: another process may have it."""

    def clear(self, index: int) -> None:
        """Process `index` is gone, and with it what it had running."""
        for number in range(NUM_SETS):
            with self._locked(number):
                for start in self._starts(number):
                    self._cells(start)[RUNNING + index] = 0.0

    @contextlib.contextmanager
    def _locked(self, number: int) -> Iterator[None]:
        fcntl.lockf(self._fd, fcntl.LOCK_EX, 1, number)
        try:
            yield
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, number)

    def _find(self, number: int, name: bytes) -> Cells:
        """The entry of a key, which is made if there is none. For who has the lock."""
        starts = self._starts(number)
        for start in starts:
            if self._bytes[start : start + DIGEST_BYTES] == name:
                return self._cells(start)
        start = min(starts, key=self._age)
        self._bytes[start : start + DIGEST_BYTES] = name
        cells = self._cells(start)
        for index in range(self._num_cells):
            cells[index] = 0.0
        return cells

    def _age(self, start: int) -> tuple[bool, float]:
        """Who has requests under way goes last, and an entry that nobody has first."""
        cells = self._cells(start)
        return any(cells[RUNNING:]), max(cells[REQUESTS + 1], cells[TOKENS + 1])

    def _starts(self, number: int) -> range:
        first = number * NUM_WAYS * self._entry_bytes
        return range(first, first + NUM_WAYS * self._entry_bytes, self._entry_bytes)

    def _cells(self, start: int) -> Cells:
        return self._bytes[start + DIGEST_BYTES : start + self._entry_bytes].cast("d")

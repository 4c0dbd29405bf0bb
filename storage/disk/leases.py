"""Which blobs somebody outside holds open, so that nothing deletes them while they are in use.

The descriptor itself keeps the bytes: blobs are never changed in place, only unlinked. The lease keeps the books
true beside it: a held blob still has its name and counts as used, and whatever would reuse a blob's room asks first.
It ends with the holder's connection, so a holder that is killed leaves nothing behind.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import Executor

from storage.disk.blobs import Blobs
from storage.fault import S3Error

MAX_LEASED = 16_384  # blobs held at once, counted per holder; each costs a holder a descriptor of its own


class Leases:
    """The leases of one store. Its methods run on the loop; files are deleted in `pool`."""

    def __init__(self, blobs: Blobs, pool: Executor, max_leased: int = MAX_LEASED) -> None:
        self._blobs = blobs
        self._pool = pool
        self._max_leased = max_leased
        self.num_leased = 0
        """Blobs held, one that two holders have counted twice."""

    def take(self, blobs: Iterable[str]) -> "Lease":
        """Hold these blobs against deletion. Raises: S3Error SlowDown if too many are held already."""
        held = frozenset(blobs)
        if self.num_leased + len(held) > self._max_leased:
            raise S3Error("SlowDown", "Too many descriptors are out; read the bytes, or try again later.")
        self._blobs.pin(held)
        self.num_leased += len(held)
        return Lease(held, self._give)

    def _give(self, held: frozenset[str]) -> None:
        self.num_leased -= len(held)
        try:
            self._pool.submit(self._blobs.unpin, held)  # it may unlink what was deleted meanwhile
        except RuntimeError:  # the pool is shut down: the store is closing
            self._blobs.unpin(held)


class Lease:
    """Some blobs held by one holder, until `end`."""

    def __init__(self, held: frozenset[str], give: Callable[[frozenset[str]], None]) -> None:
        self._held = held
        self._give = give

    def end(self) -> None:
        """Let them go. May be called twice."""
        held, self._held = self._held, frozenset()
        if held:
            self._give(held)

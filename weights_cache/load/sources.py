"""Where an extent may be on this host already, asked in this order before the store is: mapped, kept, shared, copied.

mapped: a file that the store of this host handed over, where it lies. kept: the landing's own memory of an earlier
life. shared: another revision that is here. copied: a file that was handed over and cannot be mapped. What is found is
checked like bytes from the store, and what is wrong is as good as not found; only of a mapped file there is no second.
"""

import logging
import threading
import time
from collections.abc import Callable

import xxhash

from weights_cache.load.keep import Elsewhere, Keep
from weights_cache.memory.view import LandingError
from weights_cache.model.plan import Layout
from weights_cache.model.revision import Extent, Revision
from weights_cache.reading.fetch import ReadError
from weights_cache.reading.handoff import Given

log = logging.getLogger("nearfield.weights")


class Work:
    """What the threads of one load spend their time on. Any thread may call anything."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._busy_s = {"allocate": 0.0, "fetch": 0.0, "verify": 0.0}

    def spend(self, phase: str, started: float) -> None:
        """This thread did `phase` from `started` on."""
        with self._lock:
            self._busy_s[phase] += time.monotonic() - started

    def verified(self, extent: Extent, view: memoryview) -> bool:
        """Whether these are the extent's bytes."""
        started = time.monotonic()
        right = xxhash.xxh3_64_hexdigest(view) == extent.xxh3
        self.spend("verify", started)
        return right

    def shares(self, wall_ms: float) -> dict[str, float]:
        """The wall time, shared out by what the threads did; the parts sum to it."""
        busy_s = sum(self._busy_s.values())
        return {name: wall_ms * part / busy_s if busy_s else 0.0 for name, part in self._busy_s.items()}


class Sources:
    """One load's ways to an extent that lead past the store, and how many bytes came by each."""

    def __init__(
        self,
        revision: Revision,
        places: Layout,
        given: Given,
        keep: Keep,
        elsewhere: Elsewhere,
        work: Work,
    ) -> None:
        self._revision, self._layout, self._given = revision, places, given
        self._keep, self._elsewhere, self._work = keep, elsewhere, work
        self._lock = threading.Lock()
        self.mapped_bytes, self.copied_bytes = given.num_bytes(revision)
        self.kept_bytes, self.shared_bytes = 0, 0
        self.expected_kept_bytes, self.expected_shared_bytes = self._expected()

    def _expected(self) -> tuple[int, int]:
        """Bytes that will be found (kept, shared), by what is written down and has landed by now.

        A start tells its sources long before all of them were looked at. Of a file that was handed over nothing is
        expected: whatever is not found of it is there.
        """
        handed = {*self._given.maps, *self._given.objects}
        read = [(at, one) for at, one in enumerate(self._revision.extents) if one.file not in handed]
        kept = {at for at, _ in read if self._keep.has(at)}
        digests = self._elsewhere.digests() if len(kept) < len(read) else frozenset[str]()
        shared = (one.length for at, one in read if at not in kept and one.blake3 in digests)
        return sum(one.length for at, one in read if at in kept), sum(shared)

    @property
    def is_some(self) -> bool:
        """Whether this host had any of it, kept or of another revision."""
        return self.kept_bytes > 0 or self.shared_bytes > 0

    def land(
        self, number: int, memory: Callable[[int], memoryview], kept: Callable[[int, int], memoryview]
    ) -> bool:
        """Have an extent, checked, without the store; False if this host does not have it. Raises LandingError.

        `memory(number)` is where it lands, its pages there; `kept(place, length)` is the landing as it is.
        """
        extent = self._revision.extents[number]
        if extent.file in self._given.maps:
            if not self._map(extent):
                raise corrupt(self._revision, extent)
            return True
        if self._is_kept(number, extent, kept):
            return True
        with memory(number) as view:
            return self._share(extent, view) or (
                self._copy(extent, view) and self._work.verified(extent, view)
            )

    def _map(self, extent: Extent) -> bool:
        """Bring an extent of a mapped file into memory and verify it there. Reading it again would be the same page."""
        file_map, started = self._given.maps[extent.file], time.monotonic()
        at = extent.offset - self._layout.data_starts[extent.file]
        try:
            file_map.populate(at, extent.length)
        except OSError as error:
            raise LandingError("weights_unreadable", f"reading mapped weights: {error}") from error
        self._work.spend("fetch", started)
        with file_map.view(at, extent.length) as view:
            return self._work.verified(extent, view)

    def _is_kept(self, number: int, extent: Extent, kept: Callable[[int, int], memoryview]) -> bool:
        """Whether an extent is here from an earlier load, and right."""
        place, started = self._layout.place(extent), time.monotonic()
        if not self._keep.has(number) or not self._keep.bring(place, extent.length):
            return False
        self._work.spend("fetch", started)
        with kept(place, extent.length) as view:
            right = self._work.verified(extent, view)
        with self._lock:
            self.kept_bytes += extent.length if right else 0
        return right

    def _share(self, extent: Extent, view: memoryview) -> bool:
        """Copy an extent that another revision of this host has too; False if none has, or it is not right there."""
        started = time.monotonic()
        if not self._elsewhere.copy(extent, view):
            return False
        self._work.spend("fetch", started)
        right = self._work.verified(extent, view)
        with self._lock:
            self.shared_bytes += extent.length if right else 0
            self.copied_bytes -= extent.length if right and extent.file in self._given.objects else 0
        return right

    def _copy(self, extent: Extent, view: memoryview) -> bool:
        """Copy an extent from a file that was handed over; False if there is none or it cannot be read."""
        source, started = self._given.objects.get(extent.file), time.monotonic()
        if source is None:
            return False
        try:
            source.read_into(extent.offset, view)
        except (OSError, ReadError) as error:
            log.warning("a file that was handed over cannot be read, so its object is: %s", error)
            return False
        self._work.spend("fetch", started)
        return True


def corrupt(revision: Revision, extent: Extent) -> LandingError:
    """The same wrong bytes as often as they were asked for."""
    path = revision.files[extent.file].path
    return LandingError("weights_corrupt", f"{path} at byte {extent.offset:,} is not what was committed")

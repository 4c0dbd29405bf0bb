"""A landing seen from another process: the engine maps it and waits for what it needs.

The weights are one memfd and, where the store of this host handed over files, those files after it in one
run of addresses; the state of each extent is one byte of another memfd, and an eventfd wakes who waits. The
mapping is private and copy-on-write: the engine may even write to a tensor without changing what any other
process or the store's file holds, and torch gets the writable buffer it asks for. No torch, and it works on
descriptors received over SCM_RIGHTS after a fork. The pages of an extent are mapped in one call when it is
waited for, unless somebody touched them all before (`inference.engine.attach.ahead`) or several threads read them.
"""

import mmap
import os
import select
import time
from bisect import bisect_right
from collections.abc import Sequence

from weights_cache.memory import pages
from weights_cache.memory.addresses import Addresses
from weights_cache.model.plan import Layout, MappedFile
from weights_cache.model.revision import Revision

WAITING, LANDED, FAILED = 0, 1, 2  # one byte an extent, written by the node after the extent was verified
LOOK_AGAIN_S = 0.02  # a wake-up may be taken by another waiter of the same landing; nobody sleeps longer


class LandingError(Exception):
    """The weights will not land: `code` and a sentence. Every waiter of the same load gets the same one."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class LandingView:
    """One process' view of a landing. `buffer` holds `layout.total_bytes` bytes; place(tensor) says where."""

    def __init__(
        self,
        addresses: Addresses,
        fd: int,
        ready_fd: int,
        event_fd: int,
        mapped_fds: Sequence[int] = (),
    ) -> None:
        """Lays the landing at `addresses`, which are its own from now on. Raises OSError."""
        addresses.fill(fd, mapped_fds)
        revision = addresses.revision
        self.layout: Layout = addresses.layout
        self._layers = [extent.layer for extent in revision.extents]
        self._spans = [(self.layout.place(extent), extent.length) for extent in revision.extents]
        self._touched = bytearray(len(self._spans))
        self._event_fd = event_fd
        self._map = addresses.region
        self._ready = mmap.mmap(ready_fd, max(1, len(self._layers)), mmap.MAP_SHARED, mmap.PROT_READ)
        self._num_landed = 0
        self.buffer = addresses.buffer

    def wait_extent(self, number: int, timeout_s: float | None = None) -> bool:
        """Wait until extent `number` is verified, and map it; False when `timeout_s` passed. Raises LandingError."""
        landed = self.wait_landed(number, timeout_s)
        if landed:
            self._touch(number)
        return landed

    def wait_landed(self, number: int, timeout_s: float | None = None) -> bool:
        """As `wait_extent`, but its pages are mapped by whoever reads them first, of whom there may be many."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while (state := self._ready[number]) == WAITING:
            left_s = LOOK_AGAIN_S if deadline is None else min(LOOK_AGAIN_S, deadline - time.monotonic())
            if left_s <= 0:
                return False
            self._sleep(left_s)
        if state == FAILED:
            raise LandingError("weights_failed", f"extent {number} of the weights could not be loaded")
        return True

    def wait_layer(self, layer: int, timeout_s: float | None = None) -> bool:
        """Wait for everything that runs up to and including `layer` (-1: what comes before the layers)."""
        return self._wait_first(bisect_right(self._layers, layer), timeout_s)

    def wait_all(self, timeout_s: float | None = None) -> bool:
        """Wait for every byte: before the last norm and the head, whatever number their layer has."""
        return self._wait_first(len(self._layers), timeout_s)

    @property
    def num_landed(self) -> int:
        """Extents that are verified, counted from the first one without a gap."""
        while self._num_landed < len(self._layers) and self._ready[self._num_landed] == LANDED:
            self._touch(self._num_landed)
            self._num_landed += 1
        return self._num_landed

    @property
    def is_whole(self) -> bool:
        """Whether every extent is verified."""
        return set(self._ready[: len(self._layers)]) == {LANDED}

    def note_mapped(self) -> None:
        """Every page was touched: nobody need map them again."""
        self._touched = bytearray(b"\1" * len(self._spans))

    def close(self) -> None:
        """Unmap. Fails with BufferError while a tensor or another view still uses `buffer`."""
        self.buffer.release()
        self._map.close()
        self._ready.close()

    def _wait_first(self, num_extents: int, timeout_s: float | None) -> bool:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while (number := self.num_landed) < num_extents:
            left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not self.wait_extent(number, left_s):
                return False
        return True

    def _touch(self, number: int) -> None:
        if not self._touched[number]:
            self._touched[number] = 1
            _make_present(self._map, *self._spans[number])

    def _sleep(self, most_s: float) -> None:
        poll = select.poll()
        poll.register(self._event_fd, select.POLLIN)
        if poll.poll(most_s * 1000):
            try:
                os.eventfd_read(self._event_fd)
            except BlockingIOError:
                return  # another waiter took it; the state byte is looked at in any case


def _make_present(region: mmap.mmap, place: int, length: int) -> None:
    """Map the pages of a span in one call: half the price of a fault each (53 against 107 ms a GiB measured).

    Only ever a gain: where the kernel (before 5.14) does not know the advice, the pages come by faults.
    """
    start = place - place % mmap.PAGESIZE
    pages.advise(region, start, length + place - start, pages.POPULATE_READ)


def open_landing(
    revision: Revision,
    fd: int,
    ready_fd: int,
    event_fd: int,
    mapped: Sequence[MappedFile] = (),
    mapped_fds: Sequence[int] = (),
) -> LandingView:
    """Map the landing behind these descriptors. They may be closed afterwards, all but `event_fd`."""
    return LandingView(Addresses(revision, mapped), fd, ready_fd, event_fd, mapped_fds)

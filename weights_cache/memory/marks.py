"""What a load tells other processes: one byte an extent, and an eventfd that wakes who waits for the next."""

import mmap
import os
import weakref

from weights_cache.memory.view import FAILED, LANDED, WAITING


class Marks:
    """All WAITING at first. `ready_fd` cannot write; both descriptors close with the last holder of this."""

    def __init__(self, num_extents: int) -> None:
        self._states, self.ready_fd = _states(num_extents)
        self._num_extents = num_extents
        self.event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        weakref.finalize(self, _close, self.ready_fd, self.event_fd)

    def land(self, number: int) -> None:
        """An extent is there and verified; tell it with `wake`."""
        self._states[number] = LANDED

    def has_landed(self, number: int) -> bool:
        """Whether an extent is there and verified."""
        return self._states[number] == LANDED

    def fail_rest(self) -> None:
        """What is not there will not come; tell it with `wake`."""
        for number in range(self._num_extents):
            if self._states[number] == WAITING:
                self._states[number] = FAILED

    def wake(self) -> None:
        """Wake one of those who wait; the others look again by themselves."""
        os.eventfd_write(self.event_fd, 1)


def _states(num_extents: int) -> tuple[mmap.mmap, int]:
    """Our writable mapping and a descriptor that cannot write."""
    fd = os.memfd_create("nearfield-ready", os.MFD_CLOEXEC)
    os.ftruncate(fd, max(1, num_extents))
    states = mmap.mmap(fd, max(1, num_extents))
    read_only = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    os.close(fd)
    return states, read_only


def _close(*fds: int) -> None:
    for fd in fds:
        os.close(fd)

"""Landing memory that is a file of a folder: it is still there when the process that filled it is not."""

import errno
import mmap
import os
from collections.abc import Callable

from weights_cache.memory.buffers import Buffer, HostMemoryError, whole_pages
from weights_cache.memory.file_map import lock_as_read, read_in

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})


class FileBuffer(Buffer):
    """An open file of `whole_pages(num_bytes)` bytes, mapped writable while it lives; it may have holes.

    `make_room` deletes other entries of the file's disk, one at a time; False if there is none to delete. With `lock`
    its pages stay in memory once they were touched.
    """

    _wants_huge = False  # no file system of a disk makes any of what is written

    def __init__(self, fd: int, num_bytes: int, make_room: Callable[[], bool], *, lock: bool) -> None:
        """Takes the descriptor over. Raises OSError: the host does not let us map or lock it."""
        self.num_bytes = whole_pages(num_bytes)
        self.populated_bytes = 0
        self.fd = fd
        self._make_room = make_room
        try:
            self._map: mmap.mmap | None = mmap.mmap(fd, self.num_bytes)
            if lock:
                lock_as_read(self._map)
        except OSError:
            os.close(fd)
            raise

    def populate(self, offset: int, length: int, *, patient: bool = False) -> None:
        """See `Buffer`; space on the disk is taken first: a hole that cannot be filled would kill who writes to it."""
        if self._map is None:
            return
        start = offset - offset % mmap.PAGESIZE
        while not self._allocated(start, offset + length - start):
            if not self._make_room():
                raise HostMemoryError(errno.ENOSPC, f"no space left for {length:,} bytes of weights")
        super().populate(offset, length, patient=patient)

    def bring(self, offset: int, length: int) -> bool:
        """Read a span that was written before into memory; False if the disk does not give it."""
        region = self._map
        if region is None:
            return False
        start = offset - offset % mmap.PAGESIZE
        try:
            read_in(region, start, offset + length - start)
        except OSError:
            return False
        return True

    def _allocated(self, start: int, length: int) -> bool:
        try:
            os.posix_fallocate(self.fd, start, length)
        except OSError as error:
            if error.errno in NO_SPACE:
                return False
            raise HostMemoryError(error.errno, f"no space for weights: {error.strerror}") from error
        return True

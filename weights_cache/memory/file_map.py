"""A run of a file mapped read-only in effect, its pages kept in memory from the first read on.

The pages are the page cache's own: the store, this process and every engine that maps the file share them, and
nothing is copied. They are locked as they are read (mlock2 with MLOCK_ONFAULT), so the bytes that were verified are
the bytes that are used: a page that memory could drop would be read again from the disk later, unverified. It also
means that a page is there or reading it failed with an error here, never with a SIGBUS at somebody's first touch.

The mapping is private. Nobody writes to it; the right to write is there because Python gives the address of
writable buffers only.
"""

import ctypes
import mmap
import os
import resource
from contextlib import suppress

from weights_cache.memory.pages import LIBC, MAP_NORESERVE, POPULATE_READ

_MLOCK_ONFAULT = 1


class FileMap:
    """`length` bytes of a file from `offset`. Threads may call anything at any time."""

    def __init__(self, fd: int, offset: int, length: int) -> None:
        """Raises OSError: the host lets us lock no more memory, or its kernel cannot do this."""
        self._lead = offset % mmap.PAGESIZE
        self._map: mmap.mmap | None = mmap.mmap(
            fd,
            self._lead + length,
            mmap.MAP_PRIVATE | MAP_NORESERVE,
            mmap.PROT_READ | mmap.PROT_WRITE,
            offset=offset - self._lead,
        )
        with suppress(OSError):  # a kernel without huge pages
            self._map.madvise(mmap.MADV_HUGEPAGE)  # what is still to be read comes in pieces of that size
        try:
            lock_as_read(self._map)
            self.populate(0, 1)  # a kernel that does not know the advice says so now
        except OSError:
            self.close()
            raise

    def populate(self, at: int, length: int) -> None:
        """Read these bytes into memory, to stay. Without the interpreter's lock. Raises OSError."""
        region = self._region()
        start = self._lead + at
        page = start - start % mmap.PAGESIZE
        read_in(region, page, start + length - page)

    def view(self, at: int, length: int) -> memoryview:
        """These bytes; the mapping lives as long as a view of it."""
        return memoryview(self._region())[self._lead + at : self._lead + at + length].toreadonly()

    def close(self) -> None:
        """Unmap and unlock, as soon as no view is left."""
        self._map = None  # dropped, not closed: a thread may be verifying what it views

    def _region(self) -> mmap.mmap:
        if self._map is None:
            raise ValueError("this mapping is closed")
        return self._map


def lock_as_read(region: mmap.mmap) -> None:
    """Have each page of a mapping stay in memory from its first read on. Raises OSError."""
    _call("mlock2", region, 0, len(region), _MLOCK_ONFAULT)


def read_in(region: mmap.mmap, page: int, length: int) -> None:
    """Read a span that begins on a page into memory. Without the interpreter's lock. Raises OSError."""
    _call("madvise", region, page, length, POPULATE_READ)


def _call(name: str, region: mmap.mmap, start: int, length: int, flag: int) -> None:
    """One of libc's calls on a span of memory. Raises OSError."""
    call = getattr(LIBC, name, None)
    if call is None:
        raise OSError(f"this host has no {name}")
    first = ctypes.c_char.from_buffer(region, start)
    address = ctypes.c_void_p(ctypes.addressof(first))
    if call(address, ctypes.c_size_t(length), ctypes.c_int(flag)):
        code = ctypes.get_errno()
        raise OSError(code, f"{name} of {length:,} bytes: {os.strerror(code)}")


def lift_lock_limit() -> None:
    """Let this process lock as much memory as its hard limit allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))


def can_lock(num_bytes: int) -> bool:
    """True if this process might lock so much; asked of the kernel without a page being touched."""
    try:
        region = mmap.mmap(-1, num_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
    except OSError:
        return False
    try:
        _call("mlock2", region, 0, num_bytes, _MLOCK_ONFAULT)
    except OSError:
        return False
    finally:
        region.close()
    return True

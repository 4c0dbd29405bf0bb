"""The pages of a mapping: where it lies in memory, and what the kernel is asked to do with them.

A landing is best in huge pages: bytes are received into them, verified and read by an engine with a fraction of the
page faults and look-ups. Most hosts give a memory file small pages only, but collapse them on request, if the file is
mapped where a huge page could be (MADV_COLLAPSE, Linux 6.1). All of it is only ever a gain: what a kernel does not
know or have is left out.
"""

import ctypes
import errno
import mmap
import os
import time
from collections.abc import Sequence
from pathlib import Path

HUGE_BYTES = 2 << 20  # of a huge page where pages have 4 KiB; elsewhere nothing is collapsed
POPULATE_READ, POPULATE_WRITE, COLLAPSE = 22, 23, 25  # advice that Python's mmap module does not name
MAP_NORESERVE = 0x4000  # private pages of weights are never written in practice: reserve no swap for them
UNKNOWN = frozenset({errno.EINVAL, errno.ENOSYS})  # what a kernel says to advice that it does not take
_MAP_FIXED = 0x10
LIBC = ctypes.CDLL(None, use_errno=True)  # to ask for it anew takes 58 us, a page of 2 MiB to map 3
LIBC.mmap.restype = ctypes.c_void_p
_RIGHTS = mmap.PROT_READ | mmap.PROT_WRITE


def reserve(num_bytes: int) -> mmap.mmap:
    """A run of addresses for at least `num_bytes`, which begins where a huge page could if the kernel does so."""
    whole = num_bytes + -num_bytes % HUGE_BYTES
    return mmap.mmap(
        -1, max(whole, HUGE_BYTES), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE, _RIGHTS
    )


def lay(region: mmap.mmap, start: int, fd: int, offset: int, length: int, flags: int) -> None:
    """Map a span of a file over a span of `region`, page on page. Raises OSError.

    The region keeps the addresses: when it goes, whatever lies there is unmapped with it.
    """
    address = ctypes.addressof(ctypes.c_char.from_buffer(region, start))
    found = LIBC.mmap(
        ctypes.c_void_p(address),
        ctypes.c_size_t(length),
        ctypes.c_int(_RIGHTS),
        ctypes.c_int(flags | _MAP_FIXED),
        ctypes.c_int(fd),
        ctypes.c_long(offset),
    )
    if found != address:
        code = ctypes.get_errno()
        raise OSError(code, f"mapping {length:,} bytes of weights: {os.strerror(code)}")


def shared(fd: int, num_bytes: int) -> mmap.mmap:
    """The first `num_bytes` of a memory file, whole pages, for reading and writing. Raises OSError."""
    region = reserve(num_bytes)
    lay(region, 0, fd, 0, num_bytes, mmap.MAP_SHARED)
    return region


def advise(region: mmap.mmap, start: int, length: int, advice: int) -> int:
    """What madvise says to a span that begins on a page (0, or an errno), without the interpreter's lock."""
    first = ctypes.c_char.from_buffer(region, start)
    return _advise_at(ctypes.addressof(first), length, advice)


def _advise_at(address: int, length: int, advice: int) -> int:
    refused = LIBC.madvise(ctypes.c_void_p(address), ctypes.c_size_t(length), advice)
    return ctypes.get_errno() if refused else 0


def collapse_own(address: int, num_bytes: int) -> int:
    """Have memory of this process alone in huge pages, what it holds kept: all those that the span touches.

    What else lies in the first and the last one goes with it: of tensors of 4 MiB side by side on a heap, each of
    which holds one huge page whole, half would stay in small ones. These two are asked for by themselves: where
    something else lies in one that cannot be collapsed, the kernel goes no further. 0, or the errno of a kernel that
    makes none, or not all.
    """
    end = address + num_bytes
    low, high = address + -address % HUGE_BYTES, end - end % HUGE_BYTES
    spans = [(low, high)] if low < high else []
    edges = {address - address % HUGE_BYTES, high} if num_bytes else set()
    spans += [(at, at + HUGE_BYTES) for at in sorted(edges) if not low <= at < high and at < end]
    refused = [_advise_at(start, stop - start, COLLAPSE) for start, stop in spans]
    return next((code for code in refused if code), 0)


def own_spans() -> list[tuple[int, int]]:
    """Where what this process has written lies, heap and unnamed mappings: the first address and the one behind.

    Nothing where the kernel does not tell.
    """
    try:
        lines = [line.split() for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()]
    except OSError:
        return []
    spans = [words[0].split("-") for words in lines if words[1] == "rw-p" and words[5:] in ([], ["[heap]"])]
    return [(int(low, 16), int(high, 16)) for low, high in spans]


def beyond(spans: Sequence[tuple[int, int]], before: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The parts of `spans` that lie in none of `before`; both in order, and none over another."""
    left = []
    for low, high in spans:
        at = low
        for known, end in before:
            if known < high and end > at:
                left += [(at, known)] if known > at else []
                at = end
        left += [(at, high)] if at < high else []
    return left


def collapse(region: mmap.mmap, start: int, end: int, file_bytes: int) -> float | None:
    """Have `start`..`end` of a memory file of `file_bytes` in huge pages, what they hold kept.

    Those that the span touches and that lie in the file whole. Seconds for each byte, None if the kernel makes none.
    """
    low, high = start - start % HUGE_BYTES, min(end + -end % HUGE_BYTES, file_bytes - file_bytes % HUGE_BYTES)
    if low >= high:
        return 0.0
    began = time.monotonic()
    for at in range(low, high, HUGE_BYTES):  # of nothing at all no huge page is made
        advise(region, at, mmap.PAGESIZE, POPULATE_WRITE)
    refused = advise(region, low, high - low, COLLAPSE) in UNKNOWN  # else some may be small: one was in use
    return None if refused else (time.monotonic() - began) / (high - low)

"""A heap that will be forked is filled up first: what a child makes then lies side by side in pages of its own.

Importing leaves thousands of small gaps among what stays. A child that puts an object into one copies the page around
it, 5 us each: an engine's start wrote to 6,000 pages, and since then to 3,900 (10 MiB of gaps filled in 15 ms, once a
host; measured). The gaps are memory that the process has anyway. Nothing here is ever given back.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    Take = Callable[[int], int]

POOL_BYTES = 16 * 1024
"""CPython takes memory for objects of one size in runs of so much."""
OBJECT_SIZES = range(48, 513, 16)
"""Its sizes; but for the two smallest, of the numbers that are counted with here."""
CHUNK_SIZES = (*(1024 << step for step in range(6, 0, -1)), *range(1024, 31, -16))
"""Of the C library's gaps the largest go first: smaller requests would be cut from them."""
TOP_BYTES = 140 * 1024
"""The C library keeps at most about so much free at the end of its heap, which is no gap."""
MOST_BYTES = 2 << 20
"""For one size: an allocator of another kind is not filled for ever."""


def fill_holes() -> int:
    """Take every gap that small objects would be put into; the bytes taken."""
    take_object: Take = ctypes.PYFUNCTYPE(ctypes.c_size_t, ctypes.c_size_t)(
        ("PyObject_Malloc", ctypes.pythonapi)
    )
    taken = sum(_fill_pools(take_object, size) for size in OBJECT_SIZES)
    library = ctypes.CDLL(None)
    library.malloc.restype = library.sbrk.restype = ctypes.c_size_t
    library.malloc.argtypes, library.sbrk.argtypes = [ctypes.c_size_t], [ctypes.c_ssize_t]
    end = library.sbrk(0) - TOP_BYTES
    return taken + sum(_fill_chunks(library.malloc, size, end) for size in CHUNK_SIZES)


def _fill_pools(take: Take, size: int) -> int:
    """Until a whole pool's objects came one after another: that pool was empty, so the others are full."""
    last = num_taken = run = 0
    while run < POOL_BYTES // size - 2 and num_taken * size < MOST_BYTES:
        place = take(size)
        run = run + 1 if place == last + size else 0
        last, num_taken = place, num_taken + 1
    return num_taken * size


def _fill_chunks(take: Take, size: int, end: int) -> int:
    """Until one comes from behind what was there."""
    num_taken = 0
    while take(size) < end and num_taken * size < MOST_BYTES:
        num_taken += 1
    return num_taken * size

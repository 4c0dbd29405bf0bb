"""Memory that a pass has freed stays with the process, for the next pass.

A chunk of a prompt makes tensors of a few MiB by the hundred. The C library gives such back to the system at once and
takes them anew, and the system clears each page: measured on one thread (an AMD EPYC, glibc 2.36, least of 8 chunks
of 512 tokens in one process, processor time), before and after:

    244 M Llama    2,749 ms, 126,480 pages    2,510 ms, none
    25 M Llama       327 ms,  20,736 pages      273 ms, none

What stays is what the largest pass so far had: that much a worker is counted for anyway. Steps of decoding are too
small to gain by it.
"""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""As `malloc.h` numbers them."""
MOST_BYTES = 32 << 20
"""Single tensors up to this come from the heap; glibc takes no larger limit everywhere."""
KEPT_BYTES = 256 << 20
"""Of free memory at the heap's end more than this goes back."""


def keep_freed() -> bool:
    """Have the C library keep what is freed; false where it has no such setting (musl, macOS)."""
    setting = getattr(ctypes.CDLL(None), "mallopt", None)
    return setting is not None and all(
        setting(*each) for each in ((M_MMAP_THRESHOLD, MOST_BYTES), (M_TRIM_THRESHOLD, KEPT_BYTES))
    )

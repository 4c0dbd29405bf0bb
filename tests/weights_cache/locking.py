"""The skip words of tests that map files: what is mapped is locked, and a host may forbid that."""

import pytest

from weights_cache.memory.file_map import can_lock, lift_lock_limit

MOST_BYTES = 32 * 1024 * 1024  # of any model that the tests map

lift_lock_limit()
needs_locking = pytest.mark.skipif(
    not can_lock(MOST_BYTES),
    reason=f"this host lets nobody lock {MOST_BYTES >> 20} MiB of memory (ulimit -l), so nothing is mapped",
)

"""Asking the kernel to begin writing what a later flush will wait for: the disk works while the rest is hashed.

A hint and no more: it makes nothing durable, and an error of the disk is still reported by the flush.
"""

import ctypes

STEP_BYTES = 8 * 1024 * 1024  # 10-20 ms of a disk: few calls, and little left for the flush to wait for
_BEGIN = 2  # SYNC_FILE_RANGE_WRITE of <fcntl.h>: start, do not wait

_SYNC_FILE_RANGE = getattr(ctypes.CDLL(None), "sync_file_range", None)  # Linux has it, others need no hint
if _SYNC_FILE_RANGE is not None:
    _SYNC_FILE_RANGE.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


class Writeback:
    """How far one descriptor's bytes were handed to the disk; they are written in order from `offset`."""

    def __init__(self, fd: int, offset: int) -> None:
        self._fd = fd
        self._begun = offset

    def reached(self, end: int) -> None:
        """Everything below `end` is written to the page cache."""
        if end - self._begun >= STEP_BYTES and _SYNC_FILE_RANGE is not None:
            _SYNC_FILE_RANGE(self._fd, self._begun, end - self._begun, _BEGIN)
            self._begun = end

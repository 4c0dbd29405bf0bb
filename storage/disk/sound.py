"""Which stored bytes are known to be what was put, so that a flipped bit on the disk is not served.

What is held, and what it costs:

- A blob written since this start was summed as it came from the client; it needs no reading.
- An extent of an earlier start is read and summed once, before the first answer that holds a byte of it; callers
  who come meanwhile wait for the same reading. The first GET of an old object so begins after one pass over its
  extents (CRC64NVME, several GB/s from memory, else the disk's own rate); that pass is also the read-ahead.
- Bytes in the index are summed on every read.
- The scrubber reads everything again, from the disk.

What is not held: a bit that flips on the disk after the check of this start, in pages that memory has dropped
since, is served until the scrubber comes by; sendfile shows its bytes to nobody, us included. A client that asks
for `x-amz-checksum-mode: ENABLED` gets the checksum and finds that out for itself.
"""

import asyncio
import os
from collections.abc import Iterable

from storage.checksum import crc64nvme
from storage.disk.blobs import Blobs
from storage.index.rows import Extent

CHUNK_BYTES = 4 * 1024 * 1024  # read at once
MAX_KNOWN = 100_000  # extents remembered, about 30 MB; beyond it the oldest are read again


class Unsound(Exception):
    """Stored bytes are not those that were put."""

    def __init__(self, extent: Extent) -> None:
        super().__init__(
            f"{extent.length} bytes of blob {extent.blob} at {extent.offset} fail their checksum"
        )
        self.extent = extent


class Soundness:
    """The memory of one start. Its methods run on the loop; the reading in threads."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._known: dict[Extent, None] = {}
        self._running: dict[Extent, asyncio.Task[bool]] = {}

    def knows(self, extent: Extent) -> bool:
        """True if these bytes need no reading."""
        return extent.blob.startswith(self._blobs.prefix) or extent in self._known

    async def demand(self, extents: Iterable[Extent]) -> None:
        """Return once all are known to be sound. Raises: Unsound, BlobMissing, OSError."""
        for extent in extents:
            if not self.knows(extent) and not await self._read_once(extent):
                raise Unsound(extent)

    def forget(self, extent: Extent) -> None:
        """Bytes that were found wrong are not known any more."""
        self._known.pop(extent, None)

    async def _read_once(self, extent: Extent) -> bool:
        task = self._running.get(extent)
        if task is None:
            task = self._running[extent] = asyncio.create_task(self._read(extent))
            task.add_done_callback(lambda _: self._running.pop(extent))
        return await asyncio.shield(task)

    async def _read(self, extent: Extent) -> bool:
        sound = await asyncio.to_thread(has_its_checksum, self._blobs, extent)
        if sound:
            self._known[extent] = None
            if len(self._known) > MAX_KNOWN:
                del self._known[next(iter(self._known))]
        return sound


def has_its_checksum(blobs: Blobs, extent: Extent) -> bool:
    """(A thread) read a run of bytes and sum it up. Raises: BlobMissing, OSError."""
    fd = blobs.open(extent.blob)
    try:
        crc = crc64nvme()
        position, end = extent.offset, extent.offset + extent.length
        while position < end and (data := os.pread(fd, min(CHUNK_BYTES, end - position), position)):
            crc.update(data)
            position += len(data)
    finally:
        os.close(fd)
    return position == end and crc.value == extent.crc64


def is_sound(data: bytes, extent: Extent) -> bool:
    """True if `data` are the bytes of the whole extent."""
    crc = crc64nvme()
    crc.update(data)
    return len(data) == extent.length and crc.value == extent.crc64

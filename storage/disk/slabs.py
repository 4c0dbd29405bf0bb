"""Which part of an upload may lie at which place of its slab.

Clients send equal parts but for the last, so part n at (n - 1) x size makes the finished object one piece
that can be mapped whole. A place is written at most once while a row or a writer has it: a part that comes
again, or does not fit, gets a blob of its own.
"""

import threading
from dataclasses import dataclass, field

from storage.disk.blobs import Blobs
from storage.disk.spare import FILES_LEAVE_BYTES, demand_room
from storage.disk.writers import BlobWriter, SlabWriter
from storage.index.database import Index
from storage.index.reads import read_parts
from storage.index.rows import UploadRow

MAX_SLAB_BYTES = 4 * 1024**4  # ext4 ends files at 16 TiB; objects are at most 5 TiB
GRAIN_BYTES = 1024 * 1024  # clients cut parts in whole MiB; another size is most likely the last part


@dataclass(slots=True)
class _Places:
    largest_bytes: int = 0  # of the parts heard of
    part_bytes: int = 0  # 0 until a part is written
    taken: set[int] = field(default_factory=set)

    def looks_last(self, number: int, size: int) -> bool:
        """True if nothing is known but this part, and it has not the look of the usual one."""
        return not self.part_bytes and number > 1 and size == self.largest_bytes and size % GRAIN_BYTES > 0

    def offset_of(self, number: int, size: int) -> int | None:
        """Where a part goes, None if nowhere; the first part that is written fixes the distance."""
        if self.looks_last(number, size):
            return None
        self.part_bytes = self.part_bytes or self.largest_bytes
        offset = (number - 1) * self.part_bytes
        fits = size <= self.part_bytes and offset + size <= MAX_SLAB_BYTES
        return offset if fits and number not in self.taken else None


class Slabs:
    """The claimed places of all unfinished uploads. Thread-safe; rebuilt from the rows after a restart."""

    def __init__(self, index: Index, blobs: Blobs) -> None:
        self._index = index
        self._blobs = blobs
        self._lock = threading.Lock()
        self._uploads: dict[str, _Places] = {}

    def announce(self, upload: UploadRow, number: int, size: int) -> bool:
        """A part of `size` bytes has begun to come: the largest of those that come at once is the usual one.

        True if this part may be the odd last one, overtaking the others: its caller should wait a moment for them.
        """
        with self._lock:
            places = self._places(upload)
            places.largest_bytes = max(places.largest_bytes, size)
            return places.looks_last(number, size)

    def writer(self, upload: UploadRow, number: int, size: int) -> BlobWriter | SlabWriter:
        """Where part `number` of `size` bytes goes; it was announced. Raises: OSError."""
        demand_room(self._blobs.root, size, FILES_LEAVE_BYTES)
        with self._lock:
            places = self._places(upload)
            offset = places.offset_of(number, size)
            if offset is not None:
                places.taken.add(number)
        if offset is None:
            return self._blobs.create(size)
        return SlabWriter(self._blobs, upload.slab, offset, lambda: self._release(upload.id, number))

    def forget(self, upload_id: str) -> None:
        """The upload is completed or aborted."""
        with self._lock:
            self._uploads.pop(upload_id, None)

    def _places(self, upload: UploadRow) -> _Places:
        """The places of an upload, from its rows if it was begun before this start."""
        found = self._uploads.get(upload.id)
        if found is None:
            found = self._uploads[upload.id] = self._restore(upload)
        return found

    def _restore(self, upload: UploadRow) -> _Places:
        parts = read_parts(self._index.reader(), upload.id).values()
        kept = {part.number: part for part in parts if part.extents and part.extents[0].blob == upload.slab}
        if not kept:
            return _Places()
        last = kept[max(kept)]
        part_bytes = last.extents[0].offset // (last.number - 1) if last.number > 1 else last.size
        return _Places(part_bytes, part_bytes, set(kept))

    def _release(self, upload_id: str, number: int) -> None:
        with self._lock:
            places = self._uploads.get(upload_id)
            if places is not None:
                places.taken.discard(number)

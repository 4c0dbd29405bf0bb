"""Which part of an upload may lie at which place of its slab.

Clients send equal parts but for the last, so part n at (n - 1) x size makes the finished object one piece
that can be mapped whole. A place is written at most once while a row or a writer has it: a part that comes
again, or does not fit, gets a blob of its own.
"""

import threading
from dataclasses import dataclass, field

from storage.blobs import Blobs, BlobWriter, SlabWriter
from storage.commits import read_parts
from storage.index import Index
from storage.rows import UploadRow

MAX_SLAB_BYTES = 4 * 1024**4  # ext4 ends files at 16 TiB; objects are at most 5 TiB


@dataclass(slots=True)
class _Places:
    part_bytes: int
    taken: set[int] = field(default_factory=set)


class Slabs:
    """The claimed places of all unfinished uploads. Thread-safe; rebuilt from the rows after a restart."""

    def __init__(self, index: Index, blobs: Blobs) -> None:
        self._index = index
        self._blobs = blobs
        self._lock = threading.Lock()
        self._uploads: dict[str, _Places] = {}

    def writer(self, upload: UploadRow, number: int, size: int) -> BlobWriter | SlabWriter:
        """Where part `number` of `size` bytes goes. Raises: OSError."""
        offset = self._claim(upload, number, size)
        if offset is None:
            return self._blobs.create(size)
        return SlabWriter(self._blobs, upload.slab, offset, lambda: self._release(upload.id, number))

    def forget(self, upload_id: str) -> None:
        """The upload is completed or aborted."""
        with self._lock:
            self._uploads.pop(upload_id, None)

    def _claim(self, upload: UploadRow, number: int, size: int) -> int | None:
        with self._lock:
            places = self._uploads.get(upload.id) or self._restore(upload) or _Places(size)
            offset = (number - 1) * places.part_bytes
            fits = size <= places.part_bytes and offset + size <= MAX_SLAB_BYTES
            if not fits or number in places.taken:
                return None
            self._uploads[upload.id] = places
            places.taken.add(number)
            return offset

    def _restore(self, upload: UploadRow) -> _Places | None:
        """What the rows of an upload that was begun before this start say."""
        parts = read_parts(self._index.reader(), upload.id).values()
        kept = {part.number: part for part in parts if part.extents and part.extents[0].blob == upload.slab}
        if not kept:
            return None
        last = kept[max(kept)]
        part_bytes = last.extents[0].offset // (last.number - 1) if last.number > 1 else last.size
        return _Places(part_bytes, set(kept))

    def _release(self, upload_id: str, number: int) -> None:
        with self._lock:
            places = self._uploads.get(upload_id)
            if places is not None:
                places.taken.discard(number)

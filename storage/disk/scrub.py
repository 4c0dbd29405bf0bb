"""The slow reader: every stored byte again and again, so that what the disk loses is found while a copy exists.

A pass goes over all versions in the order of their keys and remembers in the index how far it came. Each extent is
read from the disk (its clean pages are dropped from memory first; a page that a process has mapped is not) at a
bounded rate. An extent without its checksum is written down, its file moved aside, never deleted, and its bytes
fetched from another region that has the same version of the object, if there is one. Parts of unfinished uploads
are read when they have become an object. A very large object that a stop interrupted is begun again.
"""

import asyncio
import logging
import os
import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from storage.checksum import crc64nvme
from storage.client.answers import StoreError
from storage.disk.blobs import BlobMissing
from storage.disk.sound import CHUNK_BYTES, is_sound
from storage.fault import S3Error
from storage.index.columns import OBJECT_COLUMNS, object_of
from storage.index.damage import repair
from storage.index.database import Transaction
from storage.index.reads import read_inline
from storage.index.rows import Extent, ObjectRow
from storage.index.versions import find_version
from storage.store import Store

log = logging.getLogger("nearfield.storage")

RATE_BYTES_PER_S = 8 * 1024**2  # a terabyte in a day and a half, at a hundredth of what a disk gives
REST_S = 3600.0  # between two passes


class Source(Protocol):
    """Another copy of an object, by its name and version; `client.S3` of another region's store is one."""

    def stream(
        self, bucket: str, key: str, *, if_match: str | None = None, start: int = 0, length: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """`length` bytes from `start` of the version `if_match`. Raises: StoreError."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast to read. Pure: the time that something took is an argument."""

    bytes_per_s: float = RATE_BYTES_PER_S

    def rest_s(self, num_bytes: int, took_s: float) -> float:
        """How long to wait after reading `num_bytes` in `took_s`."""
        return max(num_bytes / self.bytes_per_s - took_s, 0.0)


class Scrubber:
    """Reads one store. `clock` gives seconds, `sleep` takes them."""

    def __init__(
        self,
        store: Store,
        sources: Sequence[Source],
        pace: Pace,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._sources = sources
        self._pace = pace
        self._clock = clock
        self._sleep = sleep

    async def run(self) -> None:
        """Pass after pass until cancelled. Raises: StoreBroken, sqlite3.Error."""
        while True:
            while await self.step():
                pass
            await self._sleep(REST_S)

    async def step(self) -> bool:
        """Read the next object; False if that was the end of a pass, and the next step begins another.

        Raises: StoreBroken, sqlite3.Error.
        """
        row = next_object(self._store.index.reader())
        if row is None:
            await self._store.commit(forget_place)
            return False
        for extent in row.extents:
            if not await self._is_sound(extent) and still_names(self._store, row, extent):
                await self._store.set_aside(extent, row)
                await self._mend(extent, row)
        await self._store.commit(lambda tx: keep_place(tx, row))
        return True

    async def _is_sound(self, extent: Extent) -> bool:
        if extent.inline:
            data = read_inline(self._store.index.reader(), extent)
            return data is None or is_sound(data, extent)
        try:
            fd = self._store.blobs.open(extent.blob)
        except BlobMissing:
            return False
        try:
            return await self._read(fd, extent)
        except OSError as error:  # a sector that cannot be read is as lost as one that is wrong
            log.warning("blob %s cannot be read: %s", extent.blob, error)
            return False
        finally:
            os.close(fd)

    async def _read(self, fd: int, extent: Extent) -> bool:
        crc = crc64nvme()
        position, end = extent.offset, extent.offset + extent.length
        os.posix_fadvise(fd, extent.offset, extent.length, os.POSIX_FADV_DONTNEED)
        while position < end:
            began_s = self._clock()
            data = await asyncio.to_thread(os.pread, fd, min(CHUNK_BYTES, end - position), position)
            if not data:
                return False
            crc.update(data)
            position += len(data)
            await self._sleep(self._pace.rest_s(len(data), self._clock() - began_s))
        return crc.value == extent.crc64

    async def _mend(self, extent: Extent, row: ObjectRow) -> None:
        """Fetch the bytes from elsewhere, from the first place that has them."""
        for source in self._sources:
            if await self._mend_from(source, extent, row):
                log.warning("%s/%s is whole again, from another copy", row.bucket, row.key)
                return

    async def _mend_from(self, source: Source, extent: Extent, row: ObjectRow) -> bool:
        """Fetch, check, and let the rows name the new file; False if that copy is no help."""
        writer = await asyncio.to_thread(self._store.blobs.create, extent.length)
        mended = False
        try:
            crc, num_bytes = crc64nvme(), 0
            async for data in _stream(source, extent, row):
                await asyncio.to_thread(writer.write, data)
                crc.update(data)
                num_bytes += len(data)
            if (num_bytes, crc.value) != (extent.length, extent.crc64):
                log.warning("the other copy of %s/%s is not the same bytes", row.bucket, row.key)
                return False
            await asyncio.to_thread(writer.publish)
            whole = Extent(writer.blob, 0, extent.length, extent.crc64)
            mended = True  # from here on a row may name it, whatever is raised
            mended = await self._store.commit(lambda tx: repair(tx, extent, whole)) > 0
        except (StoreError, S3Error, OSError) as error:
            mended = False
            log.warning("%s/%s could not be repaired: %s", row.bucket, row.key, error)
        finally:
            if not mended:
                await asyncio.to_thread(writer.abort)
        return mended


def _stream(source: Source, extent: Extent, row: ObjectRow) -> AsyncGenerator[bytes, None]:
    start = sum(each.length for each in row.extents[: row.extents.index(extent)])
    return source.stream(row.bucket, row.key, if_match=row.etag, start=start, length=extent.length)


def still_names(store: Store, row: ObjectRow, extent: Extent) -> bool:
    """False if an overwrite was quicker than the reading: its bytes are then rightly gone."""
    now = find_version(store.index.reader(), row.bucket, row.key, row.version)
    return now is not None and extent in now.extents


def next_object(db: sqlite3.Connection) -> ObjectRow | None:
    """The version after the place that was kept: by key, the newest of a key first; None at the end."""
    bucket, key, seq = db.execute("SELECT bucket, key, seq FROM scrub WHERE id = 1").fetchone() or (
        "",
        b"",
        0,
    )
    found = [_after(db, table, bucket, key, seq) for table in ("objects", "versions")]
    return min(
        (row for row in found if row is not None),
        key=lambda row: (row.bucket, row.key.encode(), -row.seq),
        default=None,
    )


def _after(db: sqlite3.Connection, table: str, bucket: str, key: bytes, seq: int) -> ObjectRow | None:
    """The first row of one table after a place: an older one of its key, else of the next key."""
    query = f"SELECT {OBJECT_COLUMNS} FROM {table} WHERE "  # noqa: S608 - constants of ours
    row = db.execute(
        query + "bucket = ? AND key = ? AND seq < ? ORDER BY seq DESC LIMIT 1", (bucket, key, seq)
    ).fetchone()
    if row is None:
        later = query + "(bucket, key) > (?, ?) ORDER BY bucket, key, seq DESC LIMIT 1"
        row = db.execute(later, (bucket, key)).fetchone()
    return None if row is None else object_of(row)


def keep_place(tx: Transaction, row: ObjectRow) -> None:
    """Go on after this version, also after a restart."""
    place = (row.bucket, row.key.encode(), row.seq)
    tx.db.execute("INSERT OR REPLACE INTO scrub (id, bucket, key, seq) VALUES (1, ?, ?, ?)", place)


def forget_place(tx: Transaction) -> None:
    """Begin at the first object."""
    tx.db.execute("DELETE FROM scrub")

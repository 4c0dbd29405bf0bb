"""Equal bytes are kept once: a task behind the commits, so that no PUT waits for it.

It follows the outbox. An object whose bytes another one has already (the same sum and length, then compared byte
by byte) is made to name those, in one commit that changes nothing anybody can see; the file that no row names any
more is deleted like every other. Whatever kills the store on the way leaves both copies, or one.

Not shared: bytes in the index (up to 16 KiB), versions that were overwritten before it came by, extents below
MIN_BYTES.
"""

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Self

from storage.auth.key import BucketName, ObjectKey
from storage.disk.blobs import BlobMissing, Blobs
from storage.fault import S3Error
from storage.index.reads import find_object
from storage.index.rows import Extent, ObjectRow
from storage.sharing.twins import find_twin, forget_dead, keep_place, keep_twin, place, share
from storage.store import Store

log = logging.getLogger("nearfield.storage")

MIN_BYTES = 64 * 1024  # a smaller file saves less than looking for its twin costs
PAGE_LINES = 200  # of the outbox, looked through in one turn
KEEP_PLACE_EVERY = 1_000  # lines of nothing large; after a crash they are looked through again
CHUNK_BYTES = 4 * 1024 * 1024  # of each file, compared at once
RATE_BYTES_PER_S = 512 * 1024**2  # of each file: most are in memory still, and serving goes first
RETRY_S = 5.0  # after a full disk
REST_S = 0.5  # before the lines since the last look: a commit of ours for many of theirs


@dataclass(frozen=True, slots=True)
class Line:
    """A change that may have brought bytes we have."""

    seq: int
    bucket: BucketName
    key: ObjectKey


class Sharer:
    """Shares within one store. `sleep` takes seconds."""

    def __init__(
        self, store: Store, bytes_per_s: float, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._store = store
        self._bytes_per_s = bytes_per_s
        self._sleep = sleep
        self._place: int | None = None  # in the outbox; None: as it is kept
        self._kept_place = 0

    async def run(self) -> None:
        """Until cancelled. Raises: StoreBroken, sqlite3.Error."""
        await self._sleep(REST_S)  # a start has better things to do
        await self._store.commit(forget_dead)
        while True:
            commit = self._store.next_commit
            try:
                if not await self.step():
                    await commit.wait()
                    await self._sleep(REST_S)
            except S3Error as error:
                log.warning("equal bytes are not shared for now: %s", error)
                await self._sleep(RETRY_S)

    async def step(self) -> bool:
        """Look through the next lines; False if there are none. Raises: S3Error, StoreBroken, sqlite3.Error."""
        if self._place is None:
            self._place = self._kept_place = place(self._store.index.reader())
        since = self._place
        head, lines = await self._store.in_thread(lambda: next_lines(self._store.index.reader(), since))
        for line in lines:
            await self._look_at(line)
        if head is None:
            return False
        self._place = head
        if lines or head - self._kept_place >= KEEP_PLACE_EVERY:
            await self._store.commit(partial(keep_place, seq=head))
            self._kept_place = head
        return True

    async def _look_at(self, line: Line) -> None:
        row = find_object(self._store.index.reader(), line.bucket, line.key)
        if row is None or row.seq != line.seq:
            return  # a later line is about it
        for extent in row.extents:
            if extent.length >= MIN_BYTES and not extent.inline:
                await self._settle(row, extent)

    async def _settle(self, row: ObjectRow, extent: Extent) -> None:
        """Share one extent, or let others share it."""
        twin = find_twin(self._store.index.reader(), extent)
        if twin == extent:
            return
        equal = None if twin is None else await self._compare(extent, twin)
        if twin is None or equal is None:
            await self._store.commit(partial(keep_twin, extent=extent))
        elif equal and await self._store.commit(partial(share, row=row, extent=extent, twin=twin)):
            log.info("%s/%s: %d bytes were here already", row.bucket, row.key, extent.length)

    async def _compare(self, extent: Extent, twin: Extent) -> bool | None:
        """Whether their bytes are the same; None if the twin's cannot be read."""
        with ExitStack() as stack:
            try:
                ours = stack.enter_context(Reading(self._store.blobs, extent))
            except BlobMissing:
                return False  # overwritten meanwhile
            try:
                theirs = stack.enter_context(Reading(self._store.blobs, twin))
            except BlobMissing:
                return None
            return await self._same(ours, theirs, extent.length)

    async def _same(self, ours: "Reading", theirs: "Reading", length: int) -> bool:
        for at in range(0, length, CHUNK_BYTES):
            began_s = time.monotonic()
            if not await asyncio.to_thread(_is_same, ours, theirs, at, min(CHUNK_BYTES, length - at)):
                return False
            rest_s = CHUNK_BYTES / self._bytes_per_s - (time.monotonic() - began_s)
            await self._sleep(max(rest_s, 0.0))
        return True


class Reading:
    """The bytes of an extent, held open: deleting the file does not disturb it."""

    def __init__(self, blobs: Blobs, extent: Extent) -> None:
        """Raises: BlobMissing, OSError."""
        self._fd = blobs.open(extent.blob)
        self._first = extent.offset

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def read(self, at: int, num_bytes: int) -> bytes:
        """Raises: OSError."""
        return os.pread(self._fd, num_bytes, self._first + at)


def _is_same(ours: Reading, theirs: Reading, at: int, num_bytes: int) -> bool:
    """(A thread) False also if one of the disks' sectors cannot be read: the scrubber deals with it."""
    try:
        mine = ours.read(at, num_bytes)
        return len(mine) == num_bytes and mine == theirs.read(at, num_bytes)
    except OSError as error:
        log.warning("stored bytes cannot be read: %s", error)
        return False


def next_lines(db: sqlite3.Connection, since: int) -> tuple[int | None, list[Line]]:
    """The last line of the outbox' page after `since`, None at its end; and those of it that put something large."""
    query = (
        "SELECT seq, bucket, key, kind = 'put' AND size >= ? FROM events WHERE seq > ? ORDER BY seq LIMIT ?"
    )
    rows = db.execute(query, (MIN_BYTES, since, PAGE_LINES)).fetchall()
    large = [Line(seq, BucketName(bucket), ObjectKey(key.decode())) for seq, bucket, key, put in rows if put]
    return (rows[-1][0] if rows else None), large

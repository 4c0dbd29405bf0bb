"""Pulling a revision's blobs from the home store: what is missing, once, verified while it streams.

A blob becomes visible only whole and after its BLAKE3 matched its key. A cut connection goes on where it was; so does
a process that was killed, for a large blob (`pieces.py`). All blobs together keep to one rate.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from blake3 import blake3

from regions.map.names import BLOBS_BUCKET
from regions.rollout import pieces
from regions.rollout.pace import Pace
from storage.client.sdk import StoreError, Unreachable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from typing import Protocol

    from regions.objects.blobs import Holdings
    from regions.objects.store import Store
    from weights_cache.model.revision import FileEntry, Revision

    class Hash(Protocol):
        """A hash that grows."""

        def update(self, data: bytes, /) -> object:
            """Takes the next bytes."""

        def hexdigest(self) -> str:
            """The hash of all bytes so far."""

    OnProgress = Callable[[float, float | None], None]  # percent, seconds left

PULLS_AT_ONCE = 4  # blobs in flight from home: fills a long link without taking it from the requests
RESUMES = 5  # cuts of one blob that are survived in a row without a byte of progress in between
RESUME_PAUSE_S = 0.2  # between a cut and going on, times the number of cuts in a row
MEASURED_BYTES = 1 << 20  # a shorter pull measures round trips, not bandwidth
NEW_SHARE = 0.5  # of a new bandwidth figure in the running one
UNBOUNDED = Pace(0.0)
HASH_INLINE_BYTES = 64 << 10  # below this a thread costs more than the hash


class CorruptError(StoreError):
    """The home store sent bytes that do not hash to their key."""

    def __init__(self, key: str) -> None:
        super().__init__("corrupt_blob", f"blob {key[:12]} from the home store does not hash to its key", 502)


class Replicator:
    """Brings blobs from `home` into `own`. One flight a blob, whoever asks and however many."""

    def __init__(
        self,
        own: Store,
        home: Store,
        holdings: Holdings,
        pace: Pace = UNBOUNDED,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._own = own
        self._home = home
        self._holdings = holdings
        self._pace = pace
        self._clock = clock
        self._sleep = sleep
        self._bringing: dict[str, asyncio.Task[int]] = {}  # by revision
        self._flights: dict[str, asyncio.Task[int]] = {}  # by blob: revisions share blobs
        self._gate = asyncio.Semaphore(PULLS_AT_ONCE)
        self._received: dict[str, int] = {}
        self._missing: dict[str, list[FileEntry]] = {}  # by revision that is being brought
        self.bytes_per_s: float | None = None  # measured, running; None before the first real pull

    async def bring(self, revision: Revision, on_progress: OnProgress) -> int:
        """Makes every blob of a revision local; who asks while that is under way waits for the same.

        Returns the bytes that crossed from home for it. `on_progress` gets percent and seconds left. Raises
        StoreError; what was brought by then stays.
        """
        bringing = self._bringing.get(revision.id)
        if bringing is None:
            bringing = asyncio.create_task(self._bring(revision, on_progress))
            self._bringing[revision.id] = bringing
            bringing.add_done_callback(lambda _: self._bringing.pop(revision.id, None))
        return await asyncio.shield(bringing)

    async def _bring(self, revision: Revision, on_progress: OnProgress) -> int:
        entries = {each.blake3: each for each in revision.files}
        with self._holdings.pinned(entries):
            missing = [
                each for each in entries.values() if not await self._holdings.has(each.blake3, each.size)
            ]
            if not missing:
                return 0
            began, self._missing[revision.id] = self._clock(), missing
            watch = asyncio.create_task(self._report(missing, began, on_progress))
            try:
                ends = await asyncio.gather(*map(self._flight, missing), return_exceptions=True)
            finally:
                watch.cancel()
                del self._missing[revision.id]
            moved = _total(ends)
            self._measure(moved, self._clock() - began)
            return moved

    def left_bytes(self, revision: str) -> int:
        """How much of a revision has not come yet; 0 unless it is being brought."""
        return sum(each.size - self._received_of(each) for each in self._missing.get(revision, ()))

    async def close(self) -> None:
        """Ends the flights under way; nothing of them is visible."""
        flights = (*self._bringing.values(), *self._flights.values())
        for each in flights:
            each.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    def _flight(self, entry: FileEntry) -> asyncio.Task[int]:
        flight = self._flights.get(entry.blake3)
        if flight is None:
            flight = asyncio.create_task(self._pull(entry))
            self._flights[entry.blake3] = flight
            flight.add_done_callback(lambda _: self._flights.pop(entry.blake3, None))
        return flight

    async def _pull(self, entry: FileEntry) -> int:
        """Brings one blob. The bytes that crossed for it."""
        with self._holdings.pinned([entry.blake3]):
            async with self._gate:
                if entry.size > pieces.PIECE_BYTES:
                    moved = await self._pull_in_pieces(entry)
                else:
                    await self._own.put_stream(BLOBS_BUCKET, entry.blake3, self._verified(entry), entry.size)
                    moved = entry.size
        self._received.pop(entry.blake3, None)
        return moved

    async def _pull_in_pieces(self, entry: FileEntry) -> int:
        """Goes on where an earlier process was. Raises CorruptError; then nothing of it is kept."""
        here, digest = pieces.Pieces(self._own, entry.blake3, entry.size), blake3()
        with self._holdings.pinned(here.keys):
            await here.find()
            async for chunk in here.read():
                await _hash(digest, chunk)
            began = here.at
            while here.next_bytes:
                await here.add(self._hashed(entry, digest, here.at, here.at + here.next_bytes))
            if digest.hexdigest() == entry.blake3:
                await here.join()
            await here.drop()
        if digest.hexdigest() != entry.blake3:
            raise CorruptError(entry.blake3)
        return entry.size - began

    async def _hashed(self, entry: FileEntry, digest: Hash, at: int, end: int) -> AsyncIterator[bytes]:
        """Bytes at..end of a blob, taken into its digest."""
        async for chunk in self._resumed(entry, at, end):
            await _hash(digest, chunk)
            yield chunk

    async def _verified(self, entry: FileEntry) -> AsyncIterator[bytes]:
        """The blob's bytes; the last ones only after all of them hashed to the key. Raises CorruptError."""
        digest, last = blake3(), b""
        async for chunk in self._hashed(entry, digest, 0, entry.size):
            if last:
                yield last
            last = chunk
        if digest.hexdigest() != entry.blake3:
            raise CorruptError(entry.blake3)
        yield last

    async def _resumed(self, entry: FileEntry, at: int, end: int) -> AsyncIterator[bytes]:
        """Bytes at..end over as many connections as it takes. Raises StoreError after too many cuts."""
        cuts = 0
        while at < end and cuts <= RESUMES:
            try:
                async for chunk in self._home.stream(BLOBS_BUCKET, entry.blake3, start=at, length=end - at):
                    at, cuts = at + len(chunk), 0
                    self._received[entry.blake3] = at
                    yield chunk
                    if wait_s := self._pace.take(len(chunk), self._clock()):
                        await self._sleep(wait_s)
            except Unreachable:
                if cuts >= RESUMES:
                    raise
            cuts += 1
            if at < end:
                await asyncio.sleep(RESUME_PAUSE_S * cuts)

    async def _report(self, missing: list[FileEntry], began: float, on_progress: OnProgress) -> None:
        """Says four times a second how far it is, until it is cancelled."""
        total = sum(each.size for each in missing)
        while True:
            done = sum(map(self._received_of, missing))
            elapsed_s = self._clock() - began
            left_s = (total - done) * elapsed_s / done if done else None
            on_progress(100.0 * done / total if total else 100.0, left_s)
            await asyncio.sleep(0.25)

    def _received_of(self, entry: FileEntry) -> int:
        return min(self._received.get(entry.blake3, 0), entry.size)

    def _measure(self, moved_bytes: int, elapsed_s: float) -> None:
        if moved_bytes < MEASURED_BYTES or elapsed_s <= 0:
            return
        now = moved_bytes / elapsed_s
        before = now if self.bytes_per_s is None else self.bytes_per_s
        self.bytes_per_s = before + NEW_SHARE * (now - before)


async def _hash(digest: Hash, chunk: bytes) -> None:
    if len(chunk) < HASH_INLINE_BYTES:
        digest.update(chunk)
    else:
        await asyncio.to_thread(digest.update, chunk)


def _total(ends: list[int | BaseException]) -> int:
    """The bytes of all flights. Raises the first flight's error."""
    for each in ends:
        if isinstance(each, BaseException):
            raise each
    return sum(each for each in ends if isinstance(each, int))

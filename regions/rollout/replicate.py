"""Pulling a revision's blobs from the home store: what is missing, once, verified while it streams.

A blob becomes visible only whole and after its BLAKE3 matched its key. A cut connection goes on where it was.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from blake3 import blake3

from regions.map import BLOBS_BUCKET
from regions.rollout.pace import Pace
from storage.client.sdk import StoreError, Unreachable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from regions.objects.blobs import Holdings
    from regions.objects.store import Store
    from weights_cache.revision import FileEntry, Revision

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
        with self._holdings.pinned([entry.blake3]):
            async with self._gate:
                await self._own.put_stream(BLOBS_BUCKET, entry.blake3, self._verified(entry), entry.size)
        self._received.pop(entry.blake3, None)
        return entry.size

    async def _verified(self, entry: FileEntry) -> AsyncIterator[bytes]:
        """The blob's bytes; the last ones only after all of them hashed to the key. Raises CorruptError."""
        digest, last = blake3(), b""
        async for chunk in self._resumed(entry):
            if len(chunk) < HASH_INLINE_BYTES:
                digest.update(chunk)
            else:
                await asyncio.to_thread(digest.update, chunk)
            if last:
                yield last
            last = chunk
        if digest.hexdigest() != entry.blake3:
            raise CorruptError(entry.blake3)
        yield last

    async def _resumed(self, entry: FileEntry) -> AsyncIterator[bytes]:
        """The blob's bytes over as many connections as it takes. Raises StoreError after too many cuts."""
        at, cuts = 0, 0
        while at < entry.size and cuts <= RESUMES:
            try:
                async for chunk in self._home.stream(BLOBS_BUCKET, entry.blake3, start=at):
                    at, cuts = at + len(chunk), 0
                    self._received[entry.blake3] = at
                    yield chunk
                    if wait_s := self._pace.take(len(chunk), self._clock()):
                        await self._sleep(wait_s)
            except Unreachable:
                if cuts >= RESUMES:
                    raise
            cuts += 1
            if at < entry.size:
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


def _total(ends: list[int | BaseException]) -> int:
    """The bytes of all flights. Raises the first flight's error."""
    for each in ends:
        if isinstance(each, BaseException):
            raise each
    return sum(each for each in ends if isinstance(each, int))

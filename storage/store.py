"""What the handlers of one store share: its index, blobs, threads and clock."""

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from storage.auth.sigv4 import Clock, Verifier
from storage.checksum import native
from storage.disk.blobs import Blobs, lock_folder
from storage.disk.leases import Leases
from storage.disk.slabs import Slabs
from storage.disk.sound import Soundness
from storage.fault import S3Error
from storage.http.ingest import Ingest
from storage.http.sinks import Sink
from storage.index.access import Accesses
from storage.index.damage import is_slab_in_use, record_damage
from storage.index.database import Index, Transaction
from storage.index.rows import Extent, ObjectRow
from wire.threads import Threads

if TYPE_CHECKING:
    from concurrent.futures import Future

log = logging.getLogger("nearfield.storage")

NUM_THREADS = 8  # hashing and flushing release the GIL; more threads than this only fight for the disk
MAX_KEPT_EVENTS = 1_000_000  # about 200 MB of outbox; a reader further behind must list

T = TypeVar("T")


class Store:
    """One open store. Made on the event loop that serves it; `close` from there too.

    Attributes:
        pool: runs what blocks or takes a while.
        beside: hashes for threads of `pool`, which wait for it; nothing in it waits for anything.
        draining: set once no new work is taken: nobody should wait for commits any more.
        domains: whose subdomains are buckets.
        webhooks: the ids that a bucket's notifications may name.
    """

    def __init__(
        self, root: Path, verifier: Verifier, region: str, min_part_bytes: int, clock: Clock
    ) -> None:
        """Raises: BlockingIOError if another process has the folder, OSError, sqlite3.Error."""
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock_fd = lock_folder(root)
        self.verifier = verifier
        self.region = region
        self.min_part_bytes = min_part_bytes
        self.clock = clock
        self.index = Index(root / "meta.db")
        self.accesses = Accesses(self.index)
        self.blobs = Blobs(root, self.index.epoch)
        self.sound = Soundness(self.blobs)
        self.slabs = Slabs(self.index, self.blobs)
        self.pool = Threads(NUM_THREADS, "store")
        self.leases = Leases(self.blobs, self.pool)
        self.beside = Threads(NUM_THREADS, "md5")
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._told: dict[str, asyncio.Event] = {}
        self.draining = False
        self.domains: Collection[str] = ()
        self.webhooks: Collection[str] = ()
        self._stop_sweep = threading.Event()
        self.blobs.on_broken = self.index.halt
        self.index.on_dead = self._discard
        self.index.on_commit = self._announce_from_thread

    async def commit(self, apply: Callable[[Transaction], T]) -> T:
        """Run one change and wait until it is durable. Raises: S3Error, StoreBroken."""
        return await asyncio.wrap_future(self.index.commit(apply))

    async def commit_body(self, ingest: Ingest | Sink, apply: Callable[[Transaction], T]) -> T:
        """The same for a change that names what `ingest` published; if it is not applied, that is undone."""
        future = self.index.commit(apply)
        future.add_done_callback(lambda done: _undo_unless_applied(done, ingest))
        return await asyncio.wrap_future(future)

    async def set_aside(self, extent: Extent, row: ObjectRow) -> None:
        """Write down that bytes of `row` are damaged, say so, and move their file out of every reader's way.

        A slab that is still written to stays where it is; its damaged part is not served either. Raises: StoreBroken.
        """
        self.sound.forget(extent)
        if await self.commit(lambda tx: record_damage(tx, extent, row.bucket, row.key)):
            log.error("%s/%s: bytes of blob %s are damaged", row.bucket, row.key, extent.blob)
        if not extent.inline and not is_slab_in_use(self.index.reader(), extent.blob):
            await asyncio.to_thread(self.blobs.set_aside, extent.blob)

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run reading work that may take a while off the loop."""
        return await self._loop.run_in_executor(self.pool, work)

    @property
    def next_commit(self) -> asyncio.Event:
        """Set at the next commit. Take it before looking, then wait: nothing is missed."""
        return self._changed

    def next_line(self, bucket: str) -> asyncio.Event:
        """Set at the next commit with a line of the outbox about that bucket; taken like `next_commit`."""
        return self._told.setdefault(bucket, asyncio.Event())

    def tidy(self) -> int:
        """(A thread) load what the first PUT needs, cut the outbox, sweep after a crash; blobs deleted."""
        native()
        self.index.commit(_shorten_outbox)
        return self.blobs.sweep(self._known_blobs, self._stop_sweep)

    def begin_close(self) -> None:
        """End `tidy` after its current batch, and the waits for a commit at once."""
        self.draining = True
        self._stop_sweep.set()
        self._announce(frozenset(self._told))

    async def close(self) -> None:
        """Finish what was begun and let go of the folder. No request may be running."""
        self._stop_sweep.set()
        await asyncio.to_thread(self.pool.shutdown, wait=True)
        self.beside.shutdown()  # whoever waits for it was in the other pool
        await asyncio.to_thread(self.index.close)
        os.close(self._lock_fd)

    def _discard(self, blobs: set[str]) -> None:
        """Delete off the writer's thread: unlinking a large file takes long, and commits wait behind it."""
        if not blobs:
            return
        try:
            self.pool.submit(self.blobs.discard, blobs)
        except RuntimeError:  # the pool is shut down: the store is closing
            self.blobs.discard(blobs)

    def _known_blobs(self, blobs: list[str]) -> set[str]:
        marks = ", ".join("?" * len(blobs))
        rows = self.index.reader().execute(f"SELECT id FROM blobs WHERE id IN ({marks})", blobs)  # noqa: S608 - marks
        return {row[0] for row in rows}

    def _announce_from_thread(self, told: frozenset[str]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._announce, told)

    def _announce(self, told: frozenset[str]) -> None:
        """Wake everybody who waits for a commit, or for lines about one of these buckets; nobody who comes later."""
        self._changed.set()
        self._changed = asyncio.Event()
        for bucket in told & self._told.keys():
            self._told.pop(bucket).set()


def _undo_unless_applied(done: "Future[T]", ingest: Ingest | Sink) -> None:
    """After StoreBroken nobody knows what is on the disk, so nothing is deleted; the next start sweeps."""
    if done.cancelled() or isinstance(done.exception(), S3Error):
        ingest.abort()


def _shorten_outbox(tx: Transaction) -> None:
    tx.db.execute("DELETE FROM events WHERE seq <= (SELECT max(seq) FROM events) - ?", (MAX_KEPT_EVENTS,))

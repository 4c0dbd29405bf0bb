"""The SQLite index: one writer thread that commits many callers at once, and a reading connection per thread.

A change is acknowledged only after the COMMIT it is in (WAL, synchronous=FULL) has returned. A change that is
refused rolls back alone. An error of the disk other than "full" stops the index for good: what is on disk is
then unknown.
"""

import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from storage.disk.blobs import fsync_folder
from storage.fault import S3Error, StoreBroken
from storage.index.schema import prepare

MAX_BATCH = 256  # changes in one commit; bounds how long the first of them waits
READ_CACHE_KIB = 8 * 1024  # pages kept by each reading connection

T = TypeVar("T")


@dataclass(slots=True)
class Transaction:
    """One change's view of the open transaction."""

    db: sqlite3.Connection
    now_ms: int
    dead: set[str] = field(default_factory=set)  # blobs that no row names any more; deleted after the commit
    access_changed: bool = False  # it changes what a bucket says about who may do what
    told: set[str] = field(default_factory=set)  # buckets that it wrote lines of the outbox about


Apply = Callable[[Transaction], Any]


@dataclass(slots=True)
class _Job:
    apply: Apply
    future: "Future[Any]"
    result: Any = None
    refusal: S3Error | None = None
    access_changed: bool = False
    told: frozenset[str] = frozenset()

    def settle(self) -> None:
        if self.refusal is not None:
            self.future.set_exception(self.refusal)
        else:
            self.future.set_result(self.result)


class Index:
    """One store's index. Thread-safe.

    Attributes:
        epoch: the number of this opening, for blob ids.
        broken: set to the reason once the index has stopped for good.
        num_access_changes: commits that changed who may do what, counted before anybody hears of them.
    """

    def __init__(self, path: Path) -> None:
        """Raises: sqlite3.Error if the file is not an index of ours or the disk fails."""
        self.broken: StoreBroken | None = None
        self.num_access_changes = 0
        self.on_commit: Callable[[frozenset[str]], None] = lambda _: None  # of the buckets with new lines
        self.on_dead: Callable[[set[str]], None] = lambda _: None
        self.on_broken: Callable[[], None] = lambda: None
        self._path = path
        self._batch: list[_Job] = []
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._local = threading.local()
        self._readers: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        self._db = self._open_writer()
        self.epoch = self._next_epoch()
        fsync_folder(path.parent)
        self._thread = threading.Thread(target=self._run, name="index-writer", daemon=True)
        self._thread.start()

    def commit(self, apply: Callable[[Transaction], T]) -> "Future[T]":
        """Run `apply` in the next transaction; the future is done when it is durable.

        The future raises the S3Error that `apply` raised, S3Error InsufficientStorage, or StoreBroken.
        A cancelled future's change is either not applied or applied whole.
        """
        future: Future[T] = Future()
        with self._lock:
            if self.broken is not None:
                future.set_exception(self.broken)
            else:
                self._jobs.put(_Job(apply, future))
        return future

    def halt(self, reason: StoreBroken) -> None:
        """Take nothing more, as if the index itself had failed: the disk under it did."""
        with self._lock:
            self.broken = self.broken or reason
        self._jobs.put(None)

    def reader(self) -> sqlite3.Connection:
        """This thread's reading connection."""
        found: sqlite3.Connection | None = getattr(self._local, "db", None)
        if found is None:
            found = self._connect()
            found.execute("PRAGMA query_only=ON")
            found.execute(f"PRAGMA cache_size=-{READ_CACHE_KIB}")
            self._local.db = found
            with self._lock:
                self._readers.append(found)
        return found

    def close(self) -> None:
        """Commit what is queued and stop; readers must have ended."""
        self._jobs.put(None)
        self._thread.join()
        for reader in self._readers:
            reader.close()
        self._db.close()

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=30)

    def _open_writer(self) -> sqlite3.Connection:
        db = self._connect()
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("PRAGMA temp_store=MEMORY")
        prepare(db)
        return db

    def _next_epoch(self) -> int:
        row = self._db.execute(
            "INSERT INTO state VALUES ('epoch', 1)"
            " ON CONFLICT (name) DO UPDATE SET value = value + 1 RETURNING value"
        ).fetchone()
        return int(row[0])

    def _run(self) -> None:
        """The writer thread. However it ends, nobody waits for ever."""
        try:
            while batch := self._take():
                self._batch = [job for job in batch if job.future.set_running_or_notify_cancel()]
                if not self._write(self._batch):
                    break
                self._batch = []
        finally:
            self._stop()

    def _take(self) -> list[_Job]:
        """What is queued, at least one job; empty when it is time to end."""
        first = self._jobs.get()
        batch = [first] if first is not None else []
        while batch and len(batch) < MAX_BATCH and not self._jobs.empty():
            job = self._jobs.get()
            if job is None:
                self._jobs.put(None)
                break
            batch.append(job)
        return batch

    def _write(self, batch: list[_Job]) -> bool:
        """One transaction for the batch; then tell everybody. False once the index is broken."""
        dead: set[str] = set()
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for job in batch:
                dead |= self._attempt(job)
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            return self._survives(error, batch)
        self.num_access_changes += any(job.access_changed for job in batch)
        for job in batch:
            job.settle()
        self.on_dead(dead)
        self.on_commit(frozenset[str]().union(*(job.told for job in batch)))
        return True

    def _attempt(self, job: _Job) -> set[str]:
        """Apply one job in a savepoint; returns the blobs it leaves dead."""
        transaction = Transaction(self._db, time.time_ns() // 1_000_000)
        self._db.execute("SAVEPOINT change")
        try:
            job.result = job.apply(transaction)
        except S3Error as refusal:
            job.refusal = refusal
            self._db.execute("ROLLBACK TO change")
            transaction.dead.clear()
            transaction.told.clear()
        self._db.execute("RELEASE change")
        job.access_changed, job.told = transaction.access_changed, frozenset(transaction.told)
        return transaction.dead

    def _survives(self, error: sqlite3.Error, batch: list[_Job]) -> bool:
        """Full is survivable: nothing of the batch was committed. Anything else is not."""
        if getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_FULL:
            self.broken = StoreBroken(f"the index failed: {error}")
            return False
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        for job in batch:
            job.future.set_exception(S3Error("InsufficientStorage", "The store's disk is full."))
        return True

    def _stop(self) -> None:
        """Refuse what was under way, what is queued and what will come."""
        with self._lock:
            reason = self.broken = self.broken or StoreBroken("the index is closed")
        left = list(self._batch)
        while not self._jobs.empty():
            job = self._jobs.get()
            if job is not None and job.future.set_running_or_notify_cancel():
                left.append(job)
        for job in left:
            if not job.future.done():
                job.future.set_exception(reason)
        self.on_broken()

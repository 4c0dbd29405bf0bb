"""Immutable content files, and the only code that calls fsync.

A blob is written under `tmp/`, flushed, renamed to `blobs/<hex>/<id>`, and its directory flushed, before a
row may name it. After a flush that failed nobody knows what is on the disk, and the next one would say that
all is well: the store stops (StoreBroken). Ids are random and begin with the number of the start that made
them, so a sweep can tell what a crash left behind from what is being written now. A slab is one sparse blob
that the equal parts of an upload share.
"""

import fcntl
import os
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from string import hexdigits

from storage.disk.spare import FILES_LEAVE_BYTES, demand_room
from storage.disk.writers import FILE_FLAGS, BlobWriter
from storage.fault import NO_ROOM, StoreBroken

SWEEP_BATCH = 512  # ids asked of the index at once


class BlobMissing(Exception):
    """There is no such blob (any more)."""


class Blobs:
    """The folder of blobs of one store. Thread-safe.

    Attributes:
        root: holds `tmp/`, `blobs/` and `aside/`.
        epoch: the number of this start; ids made now begin with it.
        on_broken: told when a flush failed; the store must take nothing more.
    """

    def __init__(self, root: Path, epoch: int) -> None:
        self.root = root
        self.epoch = epoch
        self.on_broken: Callable[[StoreBroken], None] = lambda _: None
        self._lock = threading.Lock()
        self._pins: Counter[str] = Counter()
        self._doomed: set[str] = set()
        self._prepare()

    def _prepare(self) -> None:
        """Make the folders and drop what a crash left half-written."""
        for name in ("tmp", "aside", "blobs", *(f"blobs/{digit}" for digit in hexdigits.lower()[:16])):
            (self.root / name).mkdir(mode=0o700, exist_ok=True)
        for left in (self.root / "tmp").iterdir():
            left.unlink()
        fsync_folder(self.root / "blobs")
        fsync_folder(self.root)

    def path(self, blob: str) -> Path:
        """Where a blob lies. Ids are ours, never a caller's text."""
        return self.root / "blobs" / blob[-1] / blob

    def tmp_path(self, blob: str) -> Path:
        """Where a blob lies until it is published."""
        return self.root / "tmp" / blob

    @property
    def prefix(self) -> str:
        """How the ids begin that are made now."""
        return f"{self.epoch:08x}"

    def new_id(self) -> str:
        """An id nobody has."""
        return f"{self.prefix}{secrets.token_hex(12)}"

    def set_aside(self, blob: str) -> bool:
        """Move a damaged file to `aside/`, where nothing of ours looks or deletes; False if it is not there.

        Raises: OSError, StoreBroken.
        """
        path = self.path(blob)
        try:
            path.rename(self.root / "aside" / blob)
        except FileNotFoundError:
            return False
        self.flush_folder(self.root / "aside")
        self.flush_folder(path.parent)
        return True

    def create(self, size: int | None) -> BlobWriter:
        """A new blob of `size` bytes, if known. Raises: OSError."""
        demand_room(self.root, size or 0, FILES_LEAVE_BYTES)
        return BlobWriter(self, self.new_id(), size)

    def open_slab(self, blob: str) -> int:
        """A descriptor for writing parts into a slab, made if it is not there. Raises: OSError."""
        path = self.path(blob)
        try:
            return os.open(path, os.O_WRONLY | FILE_FLAGS)
        except FileNotFoundError:
            fd = os.open(path, os.O_CREAT | os.O_WRONLY | FILE_FLAGS, 0o600)
        try:
            self.flush_folder(path.parent)
        except (OSError, StoreBroken):
            os.close(fd)
            raise
        return fd

    def flush(self, fd: int) -> None:
        """Make a file's bytes durable. Raises: OSError if there is no room, StoreBroken for any other failure."""
        try:
            os.fsync(fd)
        except OSError as error:
            self._stop_on(error)
            raise

    def flush_folder(self, folder: Path) -> None:
        """Make a folder's names durable. Raises: as `flush`."""
        try:
            fsync_folder(folder)
        except OSError as error:
            self._stop_on(error)
            raise

    def _stop_on(self, error: OSError) -> None:
        """A full disk is told before anything was lost; after anything else nobody knows what is there."""
        if error.errno not in NO_ROOM:
            broken = StoreBroken(f"a flush failed: {error}")
            self.on_broken(broken)
            raise broken from error

    def open(self, blob: str) -> int:
        """A descriptor for reading. Raises: BlobMissing, OSError."""
        try:
            return os.open(self.path(blob), os.O_RDONLY | FILE_FLAGS)
        except FileNotFoundError as error:
            raise BlobMissing(blob) from error

    def pin(self, blobs: Iterable[str]) -> None:
        """Keep these files while they are being read, even if their last row goes; `unpin` each once."""
        with self._lock:
            self._pins.update(blobs)

    def unpin(self, blobs: Iterable[str]) -> None:
        """End a `pin`, and delete what waited for it."""
        free = []
        with self._lock:
            for blob in blobs:
                self._pins[blob] -= 1
                if self._pins[blob] > 0:
                    continue
                del self._pins[blob]
                if blob in self._doomed:
                    self._doomed.remove(blob)
                    free.append(blob)
        self._unlink(free)

    def discard(self, blobs: Iterable[str]) -> None:
        """Delete files that no row names any more; pinned ones when they are let go."""
        with self._lock:
            gone = set(blobs)
            kept = {blob for blob in gone if self._pins[blob] > 0}
            self._doomed |= kept
        self._unlink(gone - kept)

    def _unlink(self, blobs: Iterable[str]) -> None:
        for blob in blobs:
            self.path(blob).unlink(missing_ok=True)

    def sweep(self, known: Callable[[list[str]], set[str]], stop: threading.Event) -> int:
        """Delete blobs of earlier starts without a row; returns how many. `known`: ids -> those with one."""
        num_deleted = 0
        for batch in self._older_blobs():
            if stop.is_set():
                break
            orphans = set(batch) - known(batch)
            self.discard(orphans)
            num_deleted += len(orphans)
        return num_deleted

    def _older_blobs(self) -> Iterator[list[str]]:
        """Ids of blobs made before this start, a batch at a time."""
        batch: list[str] = []
        for folder in (self.root / "blobs").iterdir():
            for entry in os.scandir(folder):
                if entry.name[:8] < f"{self.epoch:08x}":
                    batch.append(entry.name)
                if len(batch) == SWEEP_BATCH:
                    yield batch
                    batch = []
        yield batch


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable. Raises: OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | FILE_FLAGS)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def lock_folder(folder: Path) -> int:
    """Take the folder for this process until the returned descriptor is closed. Raises: BlockingIOError."""
    fd = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | FILE_FLAGS, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise
    return fd

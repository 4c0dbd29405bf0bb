"""The files of a revision that are not weights: config, tokenizer, templates. Read whole and verified."""

import itertools
import threading
import time
from concurrent.futures import Future
from typing import Protocol

from blake3 import blake3

from weights_cache.memory.view import LandingError
from weights_cache.model.revision import FileEntry, Revision
from weights_cache.reading.fetch import RangeReader, ReadError, blob_path
from weights_cache.reading.patience import NUM_BAD_TRIES, RETRY_FOR_S, pause_s
from weights_cache.reading.readers import Readers

MAX_SMALL_BYTES = 256 << 20  # all small files of one model; the largest tokenizers are ~35 MB
NUM_KEPT = 64  # revisions whose small files are kept; a host serves a few models, each may have an older one

Files = dict[str, bytes]


def read_small_files(revision: Revision, reader: RangeReader, retry_for_s: float = RETRY_FOR_S) -> Files:
    """{path: bytes} of every file without tensors, checked by BLAKE3; each is asked for as long as weights are.

    Raises LandingError.
    """
    entries = revision.small_files
    if sum(entry.size for entry in entries) > MAX_SMALL_BYTES:
        raise LandingError("small_files_too_large", "config and tokenizer files are over 256 MiB")
    return {entry.path: _read(entry, reader, retry_for_s) for entry in entries}


def joined(revision: Revision, files: Files) -> bytes:
    """All of a revision's small files as one run of bytes, in its order."""
    return b"".join(files[entry.path] for entry in revision.small_files)


def parted(revision: Revision, data: bytes) -> Files | None:
    """The files in such a run, checked by BLAKE3; None if it is not right to the last byte."""
    files, start = Files(), 0
    for entry in revision.small_files:
        files[entry.path] = data[start : start + entry.size]
        start += entry.size
        if blake3(files[entry.path]).hexdigest() != entry.blake3:
            return None
    return files if start == len(data) else None


def _read(entry: FileEntry, reader: RangeReader, retry_for_s: float) -> bytes:
    for attempt in range(NUM_BAD_TRIES):
        data = _fetched(entry, reader, retry_for_s)
        if blake3(data).hexdigest() == entry.blake3:
            return data
        reader.close()
        time.sleep(pause_s(attempt))
    raise LandingError("file_corrupt", f"{entry.path} is not what was committed")


def _fetched(entry: FileEntry, reader: RangeReader, retry_for_s: float) -> bytes:
    data, until = bytearray(entry.size), time.monotonic() + retry_for_s
    for attempt in itertools.count() if data else ():  # a range of no bytes cannot be asked for
        try:
            reader.read_into(blob_path(entry.blake3), 0, memoryview(data))
            break
        except ReadError as error:
            if not error.retryable or time.monotonic() > until:
                raise LandingError("store_" + error.code, f"reading {entry.path}: {error}") from error
            time.sleep(pause_s(attempt))
    return bytes(data)


class Keep(Protocol):
    """Where small files outlive the process: a folder of kept landings."""

    def small_files(self, revision: Revision) -> Files | None:
        """The revision's small files, checked; None if they are not there, or not whole."""
        ...

    def keep_small(self, revision: Revision, files: Files) -> None:
        """Write them down, if the revision's weights are there and they are not."""
        ...


class SmallFiles:
    """Small files by revision, read once however many ask; a failure is told to all and then forgotten."""

    def __init__(self, readers: Readers, keep: Keep | None, retry_for_s: float) -> None:
        self._readers, self._keep, self._retry_for_s = readers, keep, retry_for_s
        self._lock = threading.Lock()
        self._files: dict[str, Future[Files]] = {}

    def of(self, revision: Revision) -> Files:
        """The files of a revision. Blocks. Raises LandingError."""
        with self._lock:
            found = self._files.get(revision.id)
            mine = found is None
            future = self._files[revision.id] = found or Future()
            if len(self._files) > NUM_KEPT:
                del self._files[next(iter(self._files))]
        if mine:
            self._fill(revision, future)
            self.keep(revision)
        return future.result()

    def keep(self, revision: Revision) -> None:
        """Write the files down, if they are here and the folder has an entry: called when either came."""
        with self._lock:
            future = self._files.get(revision.id)
        if self._keep and future and future.done() and not future.exception():
            self._keep.keep_small(revision, future.result())

    def drop(self, revision_id: str) -> None:
        """Forget a revision's files."""
        with self._lock:
            self._files.pop(revision_id, None)

    def _fill(self, revision: Revision, future: "Future[Files]") -> None:
        try:
            kept = self._keep.small_files(revision) if self._keep else None
            future.set_result(self._fetch(revision) if kept is None else kept)
        except LandingError as error:
            future.set_exception(error)
            self.drop(revision.id)
        finally:
            if not future.done():
                future.set_exception(LandingError("reader_stopped", "reading small files was broken off"))
                self.drop(revision.id)

    def _fetch(self, revision: Revision) -> Files:
        reader = self._readers.take()
        try:
            files = read_small_files(revision, reader, self._retry_for_s)
        except LandingError:
            reader.close()
            raise
        self._readers.give(reader)
        return files

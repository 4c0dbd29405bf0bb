"""The files of a revision that are not weights: config, tokenizer, templates. Read whole and verified."""

import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from blake3 import blake3

from weights_cache.fetch import RangeReader, ReadError, blob_path
from weights_cache.patience import NUM_BAD_TRIES, RETRY_FOR_S, pause_s
from weights_cache.revision import FileEntry, Revision
from weights_cache.view import LandingError

MAX_SMALL_BYTES = 256 << 20  # all small files of one model; the largest tokenizers are ~35 MB
NUM_KEPT = 64  # revisions whose small files are kept; a host serves a few models, each may have an older one

Files = dict[str, bytes]


def read_small_files(revision: Revision, reader: RangeReader, retry_for_s: float = RETRY_FOR_S) -> Files:
    """{path: bytes} of every file without tensors, checked by BLAKE3; each is asked for as long as weights are.

    Raises LandingError.
    """
    weights = set(revision.weight_files)
    entries = [entry for number, entry in enumerate(revision.files) if number not in weights]
    if sum(entry.size for entry in entries) > MAX_SMALL_BYTES:
        raise LandingError("small_files_too_large", "config and tokenizer files are over 256 MiB")
    return {entry.path: _read(entry, reader, retry_for_s) for entry in entries}


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


class SmallFiles:
    """Small files by revision, read once however many ask; a failure is told to all and then forgotten."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: dict[str, Future[Files]] = {}

    def get(self, revision_id: str, read: Callable[[], Files]) -> Files:
        """The files of a revision; `read` is called by the first who asks. Raises what `read` raises."""
        with self._lock:
            found = self._files.get(revision_id)
            mine = found is None
            future = self._files[revision_id] = found or Future()
            if len(self._files) > NUM_KEPT:
                del self._files[next(iter(self._files))]
        if mine:
            self._fill(revision_id, future, read)
        return future.result()

    def drop(self, revision_id: str) -> None:
        """Forget a revision's files."""
        with self._lock:
            self._files.pop(revision_id, None)

    def _fill(self, revision_id: str, future: "Future[Files]", read: Callable[[], Files]) -> None:
        try:
            future.set_result(read())
        except LandingError as error:
            future.set_exception(error)
            self.drop(revision_id)
        finally:
            if not future.done():
                future.set_exception(LandingError("reader_stopped", "reading small files was broken off"))
                self.drop(revision_id)

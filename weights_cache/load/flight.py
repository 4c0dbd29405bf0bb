"""One load of one revision: threads that fill the landing in execution order and verify what they filled.

Every extent is hashed as it lands and only then marked; a bad one alone is fetched again. The first error for
good ends the load for everyone who waits: all extents that are not there yet are marked failed, so no process
sleeps on.
"""

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import cached_property

from weights_cache.load.crew import Crew
from weights_cache.load.ground import Ground
from weights_cache.load.keep import Elsewhere, Keep, NoKeep, Nowhere
from weights_cache.load.sources import Sources, Work, corrupt
from weights_cache.memory.buffers import Buffer
from weights_cache.memory.marks import Marks
from weights_cache.memory.view import LandingError
from weights_cache.model.plan import layout
from weights_cache.model.revision import Extent, Revision
from weights_cache.progress import OnProgress, Progress
from weights_cache.reading.fetch import RangeReader, ReadError, blob_path
from weights_cache.reading.handoff import Given
from weights_cache.reading.patience import NUM_BAD_TRIES, RETRY_FOR_S, pause_s
from weights_cache.reading.runs import pieces

PROGRESS_EACH_S = 0.1  # the gateway shows at most four a second

log = logging.getLogger("nearfield.weights")


class Flight:
    """The load of one revision into one buffer. Made and started by the host tier, shared by all who wait."""

    def __init__(
        self,
        revision: Revision,
        buffer: Buffer,
        take_reader: Callable[[], RangeReader],
        give_reader: Callable[[RangeReader], None],
        on_end: Callable[["Flight"], None],
        *,
        retry_for_s: float = RETRY_FOR_S,
        given: Given | None = None,
        keep: Keep | None = None,
        elsewhere: Elsewhere | None = None,
        store_bytes_per_s: float = 0.0,
    ) -> None:
        """`store_bytes_per_s`: what all readers of a load together had of this store before; 0 if unknown."""
        self.revision, self.buffer, self.given = revision, buffer, given or Given()
        self._keep, self._work = keep or NoKeep(), Work()
        self.total_bytes = sum(extent.length for extent in revision.extents)
        self.bytes_read = 0
        self.error: LandingError | None = None
        self.ended = threading.Event()
        self.watchers: list[OnProgress] = []
        self._layout = layout(revision.files, revision.tensors, self.given.mapped)
        self.here = Sources(
            revision, self._layout, self.given, self._keep, elsewhere or Nowhere(), self._work
        )
        self._take_reader, self._give_reader, self._on_end = take_reader, give_reader, on_end
        self._retry_for_s, self._store_bytes_per_s = retry_for_s, store_bytes_per_s
        self._lock = threading.Lock()
        self._done_bytes = 0
        self._ground = Ground(buffer, self._layout, revision.extents, self._work)
        self._begun, self._elapsed_s, self._told = time.monotonic(), 0.0, 0.0
        self.fd = buffer.read_only_fd()
        self._marks = Marks(len(revision.extents))
        self.ready_fd, self.event_fd = self._marks.ready_fd, self._marks.event_fd
        # Whoever still holds the flight may still send its descriptors: they close with the last holder.
        weakref.finalize(self, os.close, self.fd)
        weakref.finalize(self, self.given.close)

    def start(self, num_threads: int, most_threads: int = 0) -> None:
        """Start the readers, which end by themselves; up to `most_threads` if the link gives more than they take.

        Raises LandingError: not one could begin, and the load has ended.
        """
        # Kept by its threads alone: a circle would have the descriptors wait for the collector.
        crew = Crew(self, self._take_reader, self._give_reader, {*self.given.maps, *self.given.objects})
        crew.start(num_threads, most_threads, self._store_bytes_per_s)

    def stop(self) -> None:
        """End the load: the readers stop at their next extent."""
        self.fail(LandingError("stopped", "the load was stopped"))

    def progress(self) -> Progress:
        """Verified bytes so far; the estimate goes by this load's own rate."""
        done_bytes = self._done_bytes
        elapsed_s = self._elapsed_s or time.monotonic() - self._begun
        left = self.total_bytes - done_bytes
        eta_s = left * elapsed_s / done_bytes if done_bytes else (None if left else 0.0)
        return Progress(done_bytes, self.total_bytes, eta_s)

    def phases(self) -> dict[str, float]:
        """Milliseconds of the load's wall time, shared out by what its threads did; they sum to the wall."""
        return self._work.shares(1000 * self.seconds())

    def seconds(self) -> float:
        """Wall time of the load so far."""
        return self._elapsed_s or time.monotonic() - self._begun

    def copy_to(self, digest: str, view: memoryview) -> bool:
        """Copy the extent with this BLAKE3 into `view` if it has landed here; False if not. To be checked again.

        Any thread may call it, at any time: memory that was meanwhile given away gives bytes that do not check.
        """
        number = self._by_digest.get(digest, -1)
        if (
            number < 0
            or not self._marks.has_landed(number)
            or self.revision.extents[number].length != len(view)
        ):
            return False
        fd, at = self._where(self.revision.extents[number])
        try:
            return os.preadv(fd, [view], at) == len(view)
        except OSError as error:
            log.warning("weights of %s cannot be read for another: %s", self.revision.model, error)
            return False

    @property
    def kept_bytes(self) -> int:
        """Bytes of an earlier life; while the load runs, as many as are to be expected."""
        here, is_over = self.here, self.ended.is_set()
        return here.kept_bytes if is_over else max(here.kept_bytes, here.expected_kept_bytes)

    @property
    def shared_bytes(self) -> int:
        """Bytes that another revision had; while the load runs, as many as are to be expected."""
        here, is_over = self.here, self.ended.is_set()
        return here.shared_bytes if is_over else max(here.shared_bytes, here.expected_shared_bytes)

    def landed_digests(self) -> set[str]:
        """BLAKE3 of the extents that are here by now."""
        return {each for each, number in self._by_digest.items() if self._marks.has_landed(number)}

    @cached_property
    def _by_digest(self) -> dict[str, int]:
        return {extent.blake3: number for number, extent in enumerate(self.revision.extents)}

    def _where(self, extent: Extent) -> tuple[int, int]:
        """The open file that holds a landed extent, and where in it."""
        for each, fd in zip(self.given.mapped, self.given.fds, strict=True):
            if each.file == extent.file:
                return fd, each.data_at + extent.offset - self._layout.data_starts[extent.file]
        return self.fd, self._layout.place(extent)

    def lacks(self, numbers: Sequence[int]) -> list[int]:
        """Those of these extents that have not landed."""
        return [number for number in numbers if not self._marks.has_landed(number)]

    def over(self) -> None:
        """The last reader has left: tell whoever waits. It has failed unless everything is here."""
        self._elapsed_s = max(time.monotonic() - self._begun, 1e-9)
        if self._done_bytes != self.total_bytes:
            self.fail(LandingError("reader_stopped", "no reader of the weights is left: see the log"))
        else:
            self.buffer.populated_bytes = self.buffer.num_bytes
        self.given.close_copied()
        self._on_end(self)
        self.ended.set()

    def num_bytes(self, run: range) -> int:
        """Of these extents together."""
        return sum(self.revision.extents[number].length for number in run)

    def land_run(self, reader: RangeReader, run: range) -> None:
        """Have these extents, from this host or the store, verified and marked. Raises LandingError."""
        for missing in pieces([number for number in run if not self._land_here(number)]):
            since = time.monotonic()
            if len(missing) > 1:
                self._land_together(reader, missing)
            for number in missing:
                if not self._marks.has_landed(number):
                    self._land(reader, number, since)
                    since = time.monotonic()

    def _land_here(self, number: int) -> bool:
        """Have an extent without the store, if this host has it. Raises LandingError."""
        found = self.here.land(number, self._ground.memory, self._ground.view)
        if found:
            self._mark(number, self.revision.extents[number])
        return found

    def _land_together(self, reader: RangeReader, run: range) -> None:
        """Ask for all of them at once; those that are there and right are marked, and told."""
        first = self.revision.extents[run.start]
        path = blob_path(self.revision.files[first.file].blake3)
        with closing(self._views(run)) as views:
            try:
                reader.read_run(path, first.offset, self.num_bytes(run), views)
            except ReadError as error:
                log.info("reading weights, what is missing is asked for again: %s", error)

    def _views(self, run: range) -> Generator[memoryview]:
        """The memory of each extent in turn; the one before is verified, and marked, when the next is asked for."""
        for number in run:
            extent = self.revision.extents[number]
            with self._ground.memory(number) as view:
                started = time.monotonic()
                yield view
                self._note_fetched(extent, started)
                right = self._work.verified(extent, view)
            if right:
                self._mark(number, extent)
            if self.error:
                raise LandingError(self.error.code, self.error.message)

    def _land(self, reader: RangeReader, number: int, since: float) -> None:
        """Fetch, verify and mark one extent; some times over if it is wrong. Raises LandingError.

        `since`: when it was asked for first, alone or in a run.
        """
        extent = self.revision.extents[number]
        with self._ground.memory(number) as view:
            for attempt in range(NUM_BAD_TRIES):
                self._fetch(reader, extent, view, since)
                if self._work.verified(extent, view):
                    break
                reader.close()  # whatever garbled it may sit on this connection
                time.sleep(pause_s(attempt))
                since = time.monotonic()
            else:
                raise corrupt(self.revision, extent)
        self._mark(number, extent)

    def _fetch(self, reader: RangeReader, extent: Extent, view: memoryview, since: float) -> None:
        path = blob_path(self.revision.files[extent.file].blake3)
        started, attempt = time.monotonic(), 0
        while True:
            try:
                reader.read_into(path, extent.offset, view)
            except ReadError as error:
                late = time.monotonic() - since > self._retry_for_s
                if late or not error.retryable or self.error:
                    raise LandingError("store_" + error.code, f"reading weights: {error}") from error
                time.sleep(pause_s(attempt))
                attempt += 1
            else:
                self._note_fetched(extent, started)
                return

    def _note_fetched(self, extent: Extent, started: float) -> None:
        self._work.spend("fetch", started)
        with self._lock:
            self.bytes_read += extent.length

    def _mark(self, number: int, extent: Extent) -> None:
        now = time.monotonic()
        with self._lock:
            if self.error:
                return
            self._marks.land(number)
            self._done_bytes += extent.length
            tell = now - self._told >= PROGRESS_EACH_S or self._done_bytes == self.total_bytes
            self._told = now if tell else self._told
        self._marks.wake()
        self._keep.note(number)
        if tell:
            self._tell()

    def _tell(self) -> None:
        progress = self.progress()
        for watcher in tuple(self.watchers):
            watcher(progress)

    def fail(self, error: LandingError) -> None:
        """Remember the first error and mark what has not landed, so that every waiter wakes and knows."""
        with self._lock:
            if self.error or self.ended.is_set():
                return
            self.error = error
            self._marks.fail_rest()
        self._marks.wake()

"""The threads of one load: who reads which run next, when one more is worth it, and who goes on where one dies."""

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from weights_cache.memory.view import LandingError
from weights_cache.model.revision import Revision
from weights_cache.reading.fetch import RangeReader
from weights_cache.reading.runs import Runs

NUM_HANDOVERS = 2  # readers of one load that may die and be replaced; a fault that kills every reader ends it
LEAST_S = 1e-6  # a clock's tick: nothing takes no time
BUSY_BYTES_PER_S = (
    0.5e9  # such a reader is held up by its processor more than by the link (1.7e9 at most, measured)
)

log = logging.getLogger("nearfield.weights")


class Load(Protocol):
    """What is to be read. Any thread of the crew may call anything."""

    revision: Revision
    error: LandingError | None

    def num_bytes(self, run: range) -> int:
        """Of these extents together."""

    def land_run(self, reader: RangeReader, run: range) -> None:
        """Have these extents, verified and marked. Raises LandingError."""

    def lacks(self, numbers: Sequence[int]) -> list[int]:
        """Those of these extents that have not landed."""

    def fail(self, error: LandingError) -> None:
        """The load ends; the first error counts."""

    def over(self) -> None:
        """The last reader has left."""


class Crew:
    """Its threads end by themselves, when everything is given out or the load has an error."""

    def __init__(
        self,
        load: Load,
        take_reader: Callable[[], RangeReader],
        give_reader: Callable[[RangeReader], None],
        alone: Collection[int],
    ) -> None:
        """`alone`: files that are not read from the store, as for `Runs`."""
        self._load, self._alone = load, alone
        self._take_reader, self._give_reader = take_reader, give_reader
        self._lock = threading.Lock()
        self._runs = Runs(load.revision, 1)
        self._running, self._most_running, self._usual_bytes_per_s = 0, 0, 0.0
        self._returned: list[int] = []
        self._num_deaths = 0

    def start(self, num_threads: int, most_threads: int, store_bytes_per_s: float) -> None:
        """Start the readers; up to `most_threads` if the link gives more than they take.

        All of those at once if it did so before: on 16 cores 18.7 GB/s in place of 16.2 (measured).
        Raises LandingError: not one could begin, and the load has ended.
        """
        if store_bytes_per_s >= num_threads * BUSY_BYTES_PER_S:
            num_threads = max(num_threads, most_threads)
        revision = self._load.revision
        num_threads = max(1, min(num_threads, len(revision.extents)))
        self._most_running = most_threads
        self._running, self._usual_bytes_per_s = num_threads, store_bytes_per_s / num_threads
        self._runs = Runs(revision, num_threads, self._alone)
        if not sum(self._start_reader(str(number)) for number in range(num_threads)):
            raise LandingError("no_threads", "this host has no thread left to read weights with")

    def _start_reader(self, name: str) -> bool:
        """Start one that is counted already; where the host has no thread left, those that run go on without it."""
        revision = self._load.revision
        thread = threading.Thread(target=self._read, name=f"land-{revision.id[:8]}-{name}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            log.warning("one reader less for the weights of %s: %s", revision.model, error)
            self._most_running = 0  # and no more are asked for
            self._leave(None)
            return False
        return True

    def _read(self) -> None:
        reader: RangeReader | None = None
        run, ended = range(0), False
        try:
            reader, bytes_per_s = self._take_reader(), self._usual_bytes_per_s
            while run := self._take_run(bytes_per_s):
                started = time.monotonic()
                self._load.land_run(reader, run)
                bytes_per_s = self._load.num_bytes(run) / max(time.monotonic() - started, LEAST_S)
                self._widen(bytes_per_s)
            self._give_reader(reader)
            ended = True
        except LandingError as error:
            if reader:
                reader.close()
            self._load.fail(LandingError(error.code, error.message))  # a fresh one: no frames are kept alive
            ended = True
        finally:
            self._leave(None if ended else run)

    def _widen(self, bytes_per_s: float) -> None:
        """Have one more reader where this one's rate says that the link has more to give."""
        with self._lock:
            wanted = bytes_per_s >= BUSY_BYTES_PER_S and self._running < self._most_running
            if not wanted or self._load.error or self._runs.are_out:
                return
            self._running += 1
            self._runs.num_readers = max(self._runs.num_readers, self._running)
            name = str(self._running - 1)
        self._start_reader(name)

    def _take_run(self, bytes_per_s: float) -> range:
        with self._lock:
            if self._load.error:
                return range(0)
            if self._returned:
                number = self._returned.pop()
                return range(number, number + 1)
            return self._runs.take(bytes_per_s)

    def _hand_over(self, run: Sequence[int]) -> bool:
        """A reader dies over a run: have a new one go on with what is missing of it, unless too many have died."""
        with self._lock:
            self._num_deaths += 1
            self._returned += self._load.lacks(run)
            if self._load.error or self._num_deaths > NUM_HANDOVERS:
                return False
        log.error("a reader of %s died and is replaced", self._load.revision.model)
        self._start_reader(f"again-{self._num_deaths}")
        return True

    def _leave(self, unfinished: Sequence[int] | None) -> None:
        """The last thing a reader does; `unfinished` is the run over which it dies of a fault of ours."""
        if unfinished is not None and self._hand_over(unfinished):
            return
        with self._lock:
            self._running -= 1
            if self._running:
                return
        self._load.over()

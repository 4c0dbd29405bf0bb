"""The host tier: one copy of a revision's weights in the memory of a host, for every process that maps it.

Single flight: however many ask for a revision, each of its bytes is read once; who comes later shares the
load that runs, and what another revision has too is copied from there. Older revisions of a model, then the least
recently used, make room under the cap; pinned ones and loads never. A load that failed tells everyone who waited and
is forgotten, so the next ask starts afresh. With a folder all of it outlives the process.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial

from storage.client.sdk import Endpoint
from weights_cache.kept.folder import CacheFolder, Rested
from weights_cache.keyed_locks import KeyedLocks
from weights_cache.landing import Landing, Source
from weights_cache.load.flight import Flight
from weights_cache.memory.buffers import BufferPool
from weights_cache.memory.view import LandingError
from weights_cache.model.plan import Held, eviction_order, evictions, layout
from weights_cache.model.revision import Revision
from weights_cache.others import Others
from weights_cache.progress import OnProgress
from weights_cache.reading.fetch import HttpReader, RangeReader
from weights_cache.reading.handoff import Given, Handoff, NoHandoff
from weights_cache.reading.patience import RETRY_FOR_S, STALL_S
from weights_cache.reading.rate import Rate
from weights_cache.reading.readers import Readers
from weights_cache.reading.small import Files, SmallFiles
from weights_cache.seat import Entry, Seat, rested_entry, rested_held

NUM_READERS = 4  # connections a load; measured best on 2 cores, 2-8 are within noise
MOST_READERS = (
    12  # where a store gives more: 16 cores had 6.9 GB/s of one by 4, 12.2 by 8, 12.9 by 12 (measured)
)
CLOSE_S = 2.0  # a reader notices a stop at its next extent; one that is stuck dies with the process


class HostTier:
    """The weights of this host. Threads may call anything at any time."""

    def __init__(
        self,
        store: Endpoint,
        cap_bytes: int,
        num_readers: int | None = None,
        pool_bytes: int = 0,
        *,
        make_reader: Callable[[], RangeReader] | None = None,
        handoff: Handoff | None = None,
        stall_s: float = STALL_S,
        retry_for_s: float = RETRY_FOR_S,
        folder: CacheFolder | None = None,
    ) -> None:
        """`folder` is closed with the tier. None for `num_readers`: as many as the store's rate is worth."""
        self._etags: dict[str, str] = {}
        own_reader = partial(HttpReader, store, self._etags, stall_s=stall_s)
        self._num_readers, self._most_readers = (num_readers,) * 2 if num_readers else _usual_readers()
        self._readers = Readers(make_reader or own_reader, self._most_readers)
        self._handoff, self._asking = handoff or NoHandoff(), KeyedLocks()
        self._cap_bytes, self._retry_for_s = cap_bytes, retry_for_s
        self._lock, self._folder = threading.RLock(), folder
        self._seats: dict[str, Seat] = {}
        self._pool, self._rate = BufferPool(pool_bytes), Rate()
        self._small = SmallFiles(self._readers, folder, retry_for_s)
        self._closing = threading.Event()
        self._drop(evictions(self._held(), 0, cap_bytes) or ())
        self._refill()

    def land(
        self, revision: Revision, on_progress: OnProgress | None = None, *, pin: bool = False
    ) -> Landing:
        """The landing of a revision; it fills in the background unless it is here already.

        At once, but for the asking of a store on this host, which may check an old file first.

        `on_progress` is called from reader threads, at most each 0.1 s and at the end; it must not raise.
        With `pin` it is never evicted until `release`. Raises LandingError("host_full") when there is no
        room.
        """
        with self._asking.of(revision.id):
            with self._lock:
                found = self._found(revision.id)
            given = None if found else self._handoff.give(revision)
            with self._lock:
                hit = (found := self._found(revision.id)) is not None and found.landed
                seat = self._seat(revision, given)
                source: Source = "host" if hit or (seat.kept and seat.kept.is_whole) else "region"
                self._used(seat)
                seat.num_pins += pin
                if on_progress and not seat.landed:
                    seat.flight.watchers.append(on_progress)
        self._small.keep(revision)
        return Landing(seat.flight, source, partial(self._unpin, seat) if pin else _nothing, hit=hit)

    def small_files(self, revision: Revision) -> Files:
        """{path: bytes} of the revision's other files, verified; read once, then from memory or the folder.

        Raises LandingError. Blocks: call it in a thread.
        """
        return self._small.of(revision)

    def evict(self, revision_id: str) -> int:
        """Drop a revision that is landed and not pinned. The bytes freed, 0 if there was nothing to drop."""
        with self._lock:
            found = [each for each in self._held() if each.revision_id == revision_id and not each.pinned]
            gone = self._drop(each.revision_id for each in found)
        gone.clear()  # the last to hold them: a gigabyte takes the kernel a moment, and nobody waits for it
        return sum(each.num_bytes for each in found)

    def pin(self, revision_id: str) -> bool:
        """Keep a revision from eviction; False when it is not here. Pins count."""
        with self._lock:
            seat = self._seats.get(revision_id)
            if seat:
                seat.num_pins += 1
            return seat is not None

    def unpin(self, revision_id: str) -> None:
        """Undo one `pin`; nothing happens when the revision is not here."""
        with self._lock:
            seat = self._seats.get(revision_id)
        if seat:
            self._unpin(seat)

    def entries(self) -> tuple[Entry, ...]:
        """What is here or on its way, least recently used first."""
        now = time.monotonic()
        with self._lock:
            found = [seat.entry(now) for seat in self._seats.values()]
            found += [rested_entry(each, now) for each in self._rested()]
        return tuple(sorted(found, key=lambda entry: -entry.idle_s))

    def holds(self, revision_id: str) -> bool:
        """Whether all of a revision's weights are here."""
        with self._lock:
            seat = self._seats.get(revision_id)
            return seat is not None and seat.landed

    @property
    def store_bytes_per_s(self) -> float | None:
        """Measured bandwidth from the region's store into this host, over the last loads; None before any."""
        return self._rate.bytes_per_s

    @property
    def pooled_bytes(self) -> int:
        """Memory that is there already for the next landing."""
        return self._pool.ready_bytes

    def close(self) -> None:
        """Stop every load, free all memory. Landings are of no use afterwards."""
        self._closing.set()
        with self._lock:
            seats = list(self._seats.values())
        for seat in seats:
            seat.flight.stop()
        for seat in seats:
            seat.flight.ended.wait(CLOSE_S)
        with self._lock:
            left, self._seats = list(self._seats.values()), {}
        for seat in left:
            self._let_go(seat, forget=not seat.landed)
        if self._folder is not None:
            self._folder.close()
        self._pool.close()
        self._readers.close()

    def _found(self, revision_id: str) -> Seat | None:
        """Under the lock: the seat of a revision whose load has not failed."""
        seat = self._seats.get(revision_id)
        return None if seat is None or seat.flight.error else seat

    def _seat(self, revision: Revision, given: Given | None) -> Seat:
        """Under the lock: the seat of a revision, made with what was handed over if it has none (any more)."""
        seat = self._found(revision.id)
        if seat is None:
            seat = self._seats[revision.id] = self._new_seat(revision, given or Given())
        elif given is not None:
            given.give_back()
        return seat

    def _new_seat(self, revision: Revision, given: Given) -> Seat:
        """Under the lock: make room and start a load. Raises LandingError, and `given` is given back."""
        try:
            seat = self._made_seat(revision, given)
        except (LandingError, OSError) as error:
            given.give_back()
            if isinstance(error, LandingError):
                raise
            raise LandingError(
                "host_memory_full", f"no room for {revision.model} on this host: {error.strerror or error}"
            ) from error
        seat.flight.start(self._num_readers, self._most_readers)
        return seat

    def _made_seat(self, revision: Revision, given: Given) -> Seat:
        if self._closing.is_set():
            raise LandingError("stopped", "this host is shutting down")
        places = layout(revision.files, revision.tensors, given.mapped)
        folder = self._folder if places.fresh_bytes and not given.mapped else None
        num_bytes = places.total_bytes if folder is None else folder.num_bytes(revision, places)
        # Freed first, so that the memory of what goes is the landing of what comes.
        self._drop(self._room_for(revision, num_bytes))
        if folder is not None and revision.id in self._seats:
            folder.drop(revision.id)  # a load that failed may still write to it: the next one takes new files
        kept = None if folder is None else folder.open(revision, places, self._make_room)
        flight = Flight(
            revision,
            self._pool.take(places.fresh_bytes) if kept is None else kept.buffer,
            self._readers.take,
            self._readers.give,
            self._ended,
            retry_for_s=self._retry_for_s,
            given=given,
            keep=kept,
            elsewhere=Others(revision.id, self._seats_now, self._folder),
            store_bytes_per_s=self._rate.bytes_per_s or 0.0,
        )
        return Seat(flight, num_bytes, time.monotonic(), kept=kept)

    def _seats_now(self) -> dict[str, Seat]:
        with self._lock:
            return dict(self._seats)

    def _rested(self) -> list[Rested]:
        return [] if self._folder is None else self._folder.rested(tuple(self._seats))

    def _held(self) -> list[Held]:
        return [*(seat.held() for seat in self._seats.values()), *map(rested_held, self._rested())]

    def _room_for(self, revision: Revision, need_bytes: int) -> tuple[str, ...]:
        """What is to go; the revision's own files of an earlier load are room, not in the way."""
        own = None if revision.id in self._seats else revision.id
        held = [each for each in self._held() if each.revision_id != own]
        chosen = evictions(held, need_bytes, self._cap_bytes)
        if chosen is None:
            raise LandingError(
                "host_full",
                f"{revision.model} needs {need_bytes:,} bytes of host memory; the cap is {self._cap_bytes:,} "
                "and what is in use cannot go",
            )
        return chosen

    def _make_room(self) -> bool:
        """The folder's disk is full below the cap: delete the entry that matters least. False if none may go."""
        with self._lock:
            kept = [
                each
                for each in self._held()
                if (seat := self._seats.get(each.revision_id)) is None or seat.kept
            ]
            order = eviction_order(kept)
            self._drop(each.revision_id for each in order[:1])
        return bool(order)

    def _drop(self, revision_ids: Iterable[str]) -> list[Seat]:
        """Under the lock: forget these, wherever their bytes are. Memory that is not pooled goes with the seats."""
        gone = list[Seat]()
        for revision_id in revision_ids:
            seat = self._seats.pop(revision_id, None)
            if seat is not None:
                self._let_go(seat, forget=True)
                gone.append(seat)
            elif self._folder is not None:
                self._folder.drop(revision_id)
        return gone

    def _let_go(self, seat: Seat, *, forget: bool) -> None:
        """Give back what a load took; with `forget` also its files in the folder."""
        revision_id = seat.flight.revision.id
        self._small.drop(revision_id)
        if seat.kept is None:
            self._pool.give(seat.flight.buffer)
        else:
            seat.flight.buffer.close()
        if seat.kept is not None and self._folder is not None and forget:
            self._folder.drop(revision_id)
        seat.flight.given.let_go()

    def _ended(self, flight: Flight) -> None:
        """Called by a load's last reader, before anyone who waits is woken."""
        if flight.error:
            with self._lock:
                seat = self._seats.get(flight.revision.id)
                if seat and seat.flight is flight:
                    del self._seats[flight.revision.id]
            flight.buffer.close()
            flight.given.let_go()
        else:
            if not flight.here.is_some:  # else it says nothing of the store
                self._rate.observe(flight.total_bytes, flight.seconds())
            self._refill()

    def _unpin(self, seat: Seat) -> None:
        with self._lock:
            seat.num_pins = max(0, seat.num_pins - 1)
            self._used(seat)

    def _used(self, seat: Seat) -> None:
        seat.used_s = time.monotonic()
        if seat.kept is not None and self._folder is not None:
            self._folder.touch(seat.flight.revision.id)

    def _refill(self) -> None:
        if self._pool.pool_bytes and not self._closing.is_set():
            run = partial(self._pool.refill, self._closing)
            with suppress(RuntimeError):  # no thread is left: it only saves the next load time
                threading.Thread(target=run, name="prefault", daemon=True).start()


def _nothing() -> None:
    """A landing that was not pinned has nothing to release."""


def _usual_readers() -> tuple[int, int]:
    """How many a load begins with, and may come to: three in four cores, since the rest serve meanwhile."""
    return NUM_READERS, max(NUM_READERS, min(MOST_READERS, len(os.sched_getaffinity(0)) * 3 // 4))

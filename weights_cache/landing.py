"""What a caller of the host tier holds: one revision's weights in host memory, there or on their way."""

from collections.abc import Callable
from typing import Literal

from weights_cache.load.flight import Flight
from weights_cache.memory.view import LandingError
from weights_cache.progress import Progress

Source = Literal["region", "host"]


class Landing:
    """A handle on a load that is running, done or failed. Several handles may share one load.

    `fd` (weights), `ready_fd` (one byte an extent) and `event_fd` (wake-ups) are for `weights_cache.memory.view`
    in another process; the first two cannot write. They stay valid until `release`, after which the
    weights may be evicted and their memory used again: release only when every process that maps them has
    exited. `mapped` and `mapped_fds` say which files are not in `fd` but mapped where the store has them.
    """

    def __init__(self, flight: Flight, source: Source, release: Callable[[], None], *, hit: bool) -> None:
        """With `hit` the load had ended before this handle was asked for, and none of its work counts."""
        self._flight, self._release, self._is_hit = flight, release, hit
        self.revision_id = flight.revision.id
        self.source = source
        self.fd, self.ready_fd, self.event_fd = flight.fd, flight.ready_fd, flight.event_fd
        self.mapped, self.mapped_fds = flight.given.mapped, flight.given.fds

    @property
    def total_bytes(self) -> int:
        """Bytes of weights, as they count in progress and receipts."""
        return self._flight.total_bytes

    @property
    def bytes_read(self) -> int:
        """Bytes this load has read from the region's store, repeats included; 0 when they were here."""
        return 0 if self._is_hit else self._flight.bytes_read

    @property
    def mapped_bytes(self) -> int:
        """Bytes of this load that are mapped from the store's own files, with no copy; 0 when they were here."""
        return 0 if self._is_hit else self._flight.here.mapped_bytes

    @property
    def copied_bytes(self) -> int:
        """Bytes of this load that are copied from files the store handed over; 0 when they were here."""
        return 0 if self._is_hit else self._flight.here.copied_bytes

    @property
    def shared_bytes(self) -> int:
        """Bytes of this load that another revision of this host has too and that are copied from there.

        While it runs those that are to be expected count already.
        """
        return 0 if self._is_hit else self._flight.shared_bytes

    @property
    def host_bytes(self) -> int:
        """Bytes of this load that were on this host: shared ones, those of a kept entry, or all of them on a hit."""
        flight = self._flight
        return flight.total_bytes if self._is_hit else flight.kept_bytes + flight.shared_bytes

    @property
    def phases(self) -> dict[str, float]:
        """Milliseconds spent on allocate, fetch and verify; they sum to the load's wall. Empty on a hit."""
        return {} if self._is_hit else self._flight.phases()

    @property
    def done(self) -> bool:
        """Whether the load has ended, well or not."""
        return self._flight.ended.is_set()

    @property
    def error(self) -> LandingError | None:
        """Why the load failed; None while it runs and when it is whole."""
        return self._flight.error

    def progress(self) -> Progress:
        """Verified bytes and the estimate for the rest."""
        return self._flight.progress()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the whole; False when `timeout_s` passed. Raises LandingError, the same to everybody."""
        if not self._flight.ended.wait(timeout_s):
            return False
        if self._flight.error:
            raise LandingError(self._flight.error.code, self._flight.error.message)
        return True

    def release(self) -> None:
        """Undo the pin that `land(pin=True)` gave. May be called twice."""
        release, self._release = self._release, _nothing
        release()


def _nothing() -> None:
    """A pin is given back once."""

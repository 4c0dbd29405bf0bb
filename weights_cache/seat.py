"""One revision's place in the host tier, and what the tier tells of it."""

from dataclasses import dataclass

from weights_cache.flight import Flight


@dataclass(frozen=True, slots=True)
class Entry:
    """One revision in the tier. `num_bytes` is the memory it holds; `done_bytes` what has landed of it.

    Of that memory `mapped_bytes` are locked pages of the store's own files, not a copy of them.
    """

    revision_id: str
    model: str
    num_bytes: int
    mapped_bytes: int
    done_bytes: int
    landed: bool
    num_pins: int
    idle_s: float


@dataclass(slots=True)
class Seat:
    """A revision's load and what it takes; the tier's lock guards it."""

    flight: Flight
    num_bytes: int
    used_s: float
    num_pins: int = 0

    @property
    def landed(self) -> bool:
        """Whether the load has ended."""
        return self.flight.ended.is_set()

    def entry(self, now: float) -> Entry:
        """This seat as a caller sees it."""
        flight = self.flight
        return Entry(
            flight.revision.id,
            flight.revision.model,
            self.num_bytes,
            flight.mapped_bytes,
            flight.progress().done_bytes,
            self.landed,
            self.num_pins,
            now - self.used_s,
        )

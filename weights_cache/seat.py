"""One revision's place in the host tier, and what the tier tells of it."""

from dataclasses import dataclass

from weights_cache.kept.folder import Rested, age_to_monotonic
from weights_cache.kept.open_entry import OpenEntry
from weights_cache.load.flight import Flight
from weights_cache.model.plan import Held


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
    kept: OpenEntry | None = None

    @property
    def landed(self) -> bool:
        """Whether the load has ended."""
        return self.flight.ended.is_set()

    def held(self) -> Held:
        """This seat as the choice of what to evict sees it."""
        revision, pinned = self.flight.revision, bool(self.num_pins) or not self.landed
        return Held(revision.id, self.num_bytes, self.used_s, pinned, revision.model)

    def entry(self, now: float) -> Entry:
        """This seat as a caller sees it."""
        flight = self.flight
        return Entry(
            flight.revision.id,
            flight.revision.model,
            self.num_bytes,
            flight.here.mapped_bytes,
            flight.progress().done_bytes,
            self.landed,
            self.num_pins,
            now - self.used_s,
        )


def rested_held(rested: Rested) -> Held:
    """What only lies in the folder, as the choice of what to evict sees it."""
    used_s = age_to_monotonic(rested.used_s)
    return Held(rested.revision_id, rested.num_bytes, used_s, pinned=False, model=rested.file.model)


def rested_entry(rested: Rested, now: float) -> Entry:
    """What only lies in the folder, as a caller sees it."""
    return Entry(
        rested.revision_id,
        rested.file.model,
        rested.num_bytes,
        0,
        rested.landed_bytes,
        rested.is_whole,
        0,
        now - age_to_monotonic(rested.used_s),
    )

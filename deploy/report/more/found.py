"""What the further arms of a report found: frozen values, each with the requests that it rests on. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from deploy.report.arms import Start
from deploy.report.sample import Sample
from deploy.report.stats import middle


def middle_of(values: Sequence[float]) -> float | None:
    """The middle one of a few measured values, of two the larger; None if there are none."""
    ordered = sorted(values)
    return ordered[middle(len(ordered))] if ordered else None


def answered(samples: Sequence[Sample]) -> list[Sample]:
    """Those with a time to first token."""
    return [sample for sample in samples if sample.failure is None and sample.ttft_ms is not None]


def middle_ttft(samples: Sequence[Sample]) -> float | None:
    """Their middle time to first token, in ms."""
    return middle_of([sample.ttft_ms for sample in answered(samples) if sample.ttft_ms is not None])


@dataclass(frozen=True, slots=True)
class Place:
    """Warm requests of a client that stands in `client`, `added_ms` (simulated) from where it enters, to `region`."""

    client: str
    region: str
    added_ms: float
    samples: tuple[Sample, ...]

    @property
    def ttft_ms(self) -> float | None:
        """The middle request's."""
        return middle_ttft(self.samples)


@dataclass(frozen=True, slots=True)
class Herd:
    """Requests that were all sent at once to one region which had the model in its store only."""

    region: str
    samples: tuple[Sample, ...]

    @property
    def starts(self) -> tuple[Sample, ...]:
        """One request of each start that they waited for.

        Those that share one were told the same phases, to the microsecond; each has waited a time of its own.
        """
        waited = [sample for sample in answered(self.samples) if sample.start_ms]
        return tuple({tuple(sorted(sample.start_ms.items())): sample for sample in waited}.values())

    @property
    def num_bytes(self) -> Mapping[str, int]:
        """Bytes by source, those of one start counted once."""
        total: Counter[str] = Counter()
        for sample in self.starts:
            total.update(sample.num_bytes)
        return total


@dataclass(frozen=True, slots=True)
class Gap:
    """Requests after a model was left alone for `gap_s` in one region."""

    region: str
    gap_s: float
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class Load:
    """One model's starts from one region's store: how many bytes, and how long until it could run."""

    model: str
    region: str
    num_bytes: int
    samples: tuple[Sample, ...]

    @property
    def took_ms(self) -> float | None:
        """The middle start's wall time, as the gateway saw it."""
        return middle_of([s.eta.took_ms for s in answered(self.samples) if s.eta is not None])


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What a plain client reads from a store: one connection, nothing checked, nothing kept, the best of some reads."""

    source: str
    region: str
    num_bytes: int
    bytes_per_s: float


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two designs: its cold and warm requests."""

    name: str
    samples: tuple[Sample, ...]

    def of(self, start: Start) -> list[Sample]:
        """Its answered requests that found one start state."""
        return [sample for sample in answered(self.samples) if sample.start is start]


@dataclass(frozen=True, slots=True)
class Split:
    """The same model, served beside its store and with the store `rtt_ms` away over a simulated link.

    `bytes_per_s` is that link's rate, `near_bytes_per_s` what was measured from a store of the same region.
    """

    rtt_ms: float
    bytes_per_s: float
    near_bytes_per_s: float
    weight_bytes: int
    together: Side
    apart: Side


@dataclass(frozen=True, slots=True)
class Found:
    """All that was asked for beyond the rows; `failures` are arms that could not be run, with the reason."""

    places: tuple[Place, ...] = ()
    herd: Herd | None = None
    gaps: tuple[Gap, ...] = ()
    loads: tuple[Load, ...] = ()
    ceilings: tuple[Ceiling, ...] = ()
    split: Split | None = None
    failures: Mapping[str, str] = field(default_factory=dict)

    @property
    def samples(self) -> tuple[Sample, ...]:
        """Every request of every further arm."""
        herd = self.herd.samples if self.herd else ()
        sides = (self.split.together, self.split.apart) if self.split else ()
        groups = (*self.places, *self.gaps, *self.loads, *sides)
        return (*herd, *(sample for group in groups for sample in group.samples))

"""The measured report: rows by region and start state, and every request. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from deploy.report.arms import STARTS, Start
from deploy.report.more.found import Found, middle_of
from deploy.report.more.terms import Terms
from deploy.report.phases import TOLERANCE, Breakdown, Family, shown
from deploy.report.sample import Sample
from deploy.report.stats import Summary, middle, quantile, summary

MOVING = frozenset({Family.PULL, Family.FETCH})


@dataclass(frozen=True, slots=True)
class Settings:
    """What was asked of the run, when and where it ran; `home_regions` cannot be at `origin`.

    `warm_per_s` are the warm requests that each region was offered in a second.
    """

    model: str
    kind: str
    regions: tuple[str, ...]
    num_cold: int
    num_warm: int
    seed: int
    prompt: str
    max_tokens: int
    made_at: str
    took_s: float
    machine: Mapping[str, str | int]
    simulated: tuple[str, ...] = ()
    home_regions: tuple[str, ...] = ()
    warm_per_s: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tiers:
    """What one region measured of itself in the same run: bytes a second by source, the weights' size."""

    bytes_per_s: Mapping[str, float] = field(default_factory=dict)
    weight_bytes: int | None = None
    attach_s: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One region in one start state. By time to first token `typical` is the median request, `slow` the one at p99.

    With fewer than a hundred requests `slow` is the slowest of them.

    `floor_ms` is the typical request's bytes over the bandwidth measured in the same run, `moving_ms` the time its
    bytes took. Of the starts that the gateway had estimated: the middle estimate, the middle wall time, and the median
    error. None where a figure is not known.
    """

    region: str
    start: Start
    num_asked: int
    failures: Mapping[str, int]
    ttft_ms: Summary
    e2e_ms: Summary
    tokens_per_s: Summary
    unattributed_share: float | None
    typical: Sample | None
    slow: Sample | None
    most_remote_bytes: int
    floor_ms: float | None
    moving_ms: float | None
    predicted_ms: float | None
    took_ms: float | None
    took_n: int
    eta_error: float | None

    @property
    def num_failed(self) -> int:
        """Requests without figures."""
        return sum(self.failures.values())


@dataclass(frozen=True, slots=True)
class Report:
    """The whole of it; `rows` in the regions' order, coldest first."""

    settings: Settings
    tiers: Mapping[str, Tiers]
    rows: tuple[Row, ...]
    samples: tuple[Sample, ...]
    more: Found = field(default_factory=Found)
    terms: Terms | None = None

    @property
    def revision(self) -> str | None:
        """The revision that answered; None if several did, or none said so."""
        said = {sample.revision for sample in self.samples if sample.revision}
        return said.pop() if len(said) == 1 else None

    @property
    def num_asked(self) -> int:
        """All requests, those of further arms too."""
        return len(self.samples) + len(self.more.samples)

    @property
    def num_failed(self) -> int:
        """Of those, the ones without figures."""
        return self.num_asked - len(good(self.samples)) - len(good(self.more.samples))

    @property
    def worst_share(self) -> float | None:
        """The largest share of a median request that is not attributed, over all rows."""
        shares = [row.unattributed_share for row in self.rows if row.unattributed_share is not None]
        return max(shares, default=None)

    @property
    def num_estimates(self) -> int:
        """Requests that waited for a start, whose time the gateway had estimated."""
        return len(_eta_errors(self.samples))

    @property
    def eta_error(self) -> float | None:
        """How far those estimates were off, as a share of what the start took: the median; None if there are none."""
        errors = _eta_errors(self.samples)
        return quantile(errors, 0.5) if errors else None

    @property
    def sums(self) -> bool:
        """Whether the phases of every row account for its wall time within the tolerance."""
        return self.worst_share is not None and self.worst_share <= TOLERANCE

    @property
    def at_hand(self) -> tuple[str, ...]:
        """Regions in which a start from `origin` read nothing from home: bytes are shared between models."""
        found = {s.region for s in self.of(Start.ORIGIN) if not s.num_bytes.get("remote")}
        return tuple(region for region in self.settings.regions if region in found)

    def row(self, region: str, start: Start) -> Row | None:
        """One row, or None if nothing was found in that state."""
        return next((row for row in self.rows if (row.region, row.start) == (region, start)), None)

    def nearest(self, start: Start) -> Row | None:
        """The row of the region that gave its first token soonest from a start state."""
        rows = [row for row in self.rows if row.start is start and row.typical is not None]
        return min(
            rows,
            key=lambda row: row.typical.ttft_ms if row.typical and row.typical.ttft_ms else 0.0,
            default=None,
        )

    def of(self, start: Start, region: str | None = None) -> list[Sample]:
        """The samples with figures in one start state, of one region or all."""
        return [s for s in good(self.samples) if s.start is start and region in {None, s.region}]


def good(samples: Iterable[Sample]) -> list[Sample]:
    """The samples that have figures."""
    return [sample for sample in samples if sample.failure is None and sample.ttft_ms is not None]


def document(
    settings: Settings,
    tiers: Mapping[str, Tiers],
    samples: Sequence[Sample],
    more: Found | None = None,
    terms: Terms | None = None,
) -> Report:
    """The report of these samples."""
    rows = [
        _row(region, start, mine, tiers.get(region, Tiers()), settings.seed)
        for region in settings.regions
        for start in STARTS
        if (mine := [s for s in samples if s.region == region and s.start is start])
    ]
    return Report(settings, tiers, tuple(rows), tuple(samples), more or Found(), terms)


def _row(region: str, start: Start, samples: Sequence[Sample], tiers: Tiers, seed: int) -> Row:
    answered = sorted(good(samples), key=lambda sample: sample.ttft_ms or 0.0)
    typical = answered[middle(len(answered))] if answered else None
    shares = sorted(s.before_first.unattributed_share for s in answered if s.before_first is not None)
    errors = _eta_errors(answered)
    num_failed = len(samples) - len(answered)
    return Row(
        region=region,
        start=start,
        num_asked=len(samples),
        failures=Counter(s.failure for s in samples if s.failure is not None),
        ttft_ms=_figures([s.ttft_ms for s in answered], seed, num_failed),
        e2e_ms=_figures([s.e2e_ms for s in answered], seed, num_failed),
        tokens_per_s=_figures([s.tokens_per_s for s in answered], seed),
        unattributed_share=quantile(shares, 0.5) if shares else None,
        typical=typical,
        slow=quantile(answered, 0.99) if answered else None,
        most_remote_bytes=max((s.num_bytes.get("remote", 0) for s in answered), default=0),
        floor_ms=_floor_ms(typical, tiers),
        moving_ms=moving_ms(typical.before_first) if typical else None,
        predicted_ms=middle_of([s.eta.expected_ms for s in answered if s.eta]),
        took_ms=middle_of([s.eta.took_ms for s in answered if s.eta]),
        took_n=len(errors),
        eta_error=quantile(errors, 0.5) if errors else None,
    )


def _eta_errors(samples: Iterable[Sample]) -> list[float]:
    return sorted(sample.eta.error for sample in good(samples) if sample.eta is not None)


def _figures(values: Iterable[float | None], seed: int, num_failed: int = 0) -> Summary:
    return summary([value for value in values if value is not None], seed, num_failed)


def _floor_ms(sample: Sample | None, tiers: Tiers) -> float | None:
    """The bytes that moved over the bandwidth of where they came from; None if a bandwidth is not known.

    What is in the host's memory is mapped, not moved.
    """
    moved = {
        source: n for source, n in (sample.num_bytes if sample else {}).items() if n and source != "host"
    }
    if not moved or any(source not in tiers.bytes_per_s for source in moved):
        return None
    return sum(n / tiers.bytes_per_s[source] for source, n in moved.items()) * 1000


def moving_ms(breakdown: Breakdown | None) -> float | None:
    """The time in which bytes were moved and checked; None if there was none."""
    if breakdown is None:
        return None
    total = sum(ms for name, ms in breakdown.phases_ms.items() if shown(name).family in MOVING)
    return total or None

"""The measured document, `nearfield.report/1`: rows by region and start state, and every request. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from deploy.report.arms import MEANING, STARTS, Start
from deploy.report.method import METHOD
from deploy.report.phases import TOLERANCE, Breakdown, Family, shown
from deploy.report.sample import SOURCES, Sample
from deploy.report.stats import Summary, middle, quantile, summary

SCHEMA = "nearfield.report/1"
MOVING = frozenset({Family.PULL, Family.FETCH})


@dataclass(frozen=True, slots=True)
class Settings:
    """What was asked of the run, when and where it ran; `home_regions` cannot be at `origin`."""

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


@dataclass(frozen=True, slots=True)
class Tiers:
    """What one region measured of itself in the same run: bytes a second by source, the weights' size."""

    bytes_per_s: Mapping[str, float] = field(default_factory=dict)
    weight_bytes: int | None = None
    attach_s: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One region in one start state. `typical` is the median request by time to first token.

    `floor_ms` is the typical request's bytes over the bandwidth measured in the same run, `moving_ms` the time its
    bytes took, `eta_error` the median error of the gateway's estimates; None where a figure is not known.
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
    most_remote_bytes: int
    floor_ms: float | None
    moving_ms: float | None
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

    @property
    def revision(self) -> str | None:
        """The revision that answered; None if several did, or none said so."""
        said = {sample.revision for sample in self.samples if sample.revision}
        return said.pop() if len(said) == 1 else None

    @property
    def num_failed(self) -> int:
        """Requests without figures."""
        return sum(row.num_failed for row in self.rows)

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


def document(settings: Settings, tiers: Mapping[str, Tiers], samples: Sequence[Sample]) -> Report:
    """The report of these samples."""
    rows = [
        _row(region, start, mine, tiers.get(region, Tiers()), settings.seed)
        for region in settings.regions
        for start in STARTS
        if (mine := [s for s in samples if s.region == region and s.start is start])
    ]
    return Report(settings, tiers, tuple(rows), tuple(samples))


def _row(region: str, start: Start, samples: Sequence[Sample], tiers: Tiers, seed: int) -> Row:
    answered = sorted(good(samples), key=lambda sample: sample.ttft_ms or 0.0)
    typical = answered[middle(len(answered))] if answered else None
    shares = sorted(s.before_first.unattributed_share for s in answered if s.before_first is not None)
    errors = _eta_errors(answered)
    return Row(
        region=region,
        start=start,
        num_asked=len(samples),
        failures=Counter(s.failure for s in samples if s.failure is not None),
        ttft_ms=_figures([s.ttft_ms for s in answered], seed),
        e2e_ms=_figures([s.e2e_ms for s in answered], seed),
        tokens_per_s=_figures([s.tokens_per_s for s in answered], seed),
        unattributed_share=quantile(shares, 0.5) if shares else None,
        typical=typical,
        most_remote_bytes=max((s.num_bytes.get("remote", 0) for s in answered), default=0),
        floor_ms=_floor_ms(typical, tiers),
        moving_ms=moving_ms(typical.before_first) if typical else None,
        eta_error=quantile(errors, 0.5) if errors else None,
    )


def _eta_errors(samples: Iterable[Sample]) -> list[float]:
    return sorted(sample.eta.error for sample in good(samples) if sample.eta is not None)


def _figures(values: Iterable[float | None], seed: int) -> Summary:
    return summary([value for value in values if value is not None], seed)


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


def as_json_document(report: Report) -> dict[str, Any]:
    """The report as plain JSON values."""
    return {
        "schema": SCHEMA,
        **asdict(report.settings),
        "revision": report.revision,
        "method": list(METHOD),
        "start_states": {start.value: MEANING[start] for start in STARTS},
        "checks": {
            "phases_sum_to_wall": report.sums,
            "tolerance": TOLERANCE,
            "worst_unattributed_share": report.worst_share,
            "num_failed": report.num_failed,
        },
        "estimates": {"num": report.num_estimates, "median_error": report.eta_error},
        "regions": {region: asdict(tiers) for region, tiers in report.tiers.items()},
        "rows": [_row_value(row) for row in report.rows],
        "requests": [_sample_value(sample) for sample in report.samples],
    }


def _row_value(row: Row) -> dict[str, Any]:
    typical = row.typical
    return {
        "region": row.region,
        "start": row.start.value,
        "num_asked": row.num_asked,
        "num_failed": row.num_failed,
        "failures": dict(row.failures),
        "ttft_ms": asdict(row.ttft_ms),
        "e2e_ms": asdict(row.e2e_ms),
        "tokens_per_s": asdict(row.tokens_per_s),
        "unattributed_share": row.unattributed_share,
        "typical_before_first_token": _breakdown_value(typical.before_first if typical else None),
        "typical_whole": _breakdown_value(typical.whole if typical else None),
        "bytes": {source: typical.num_bytes.get(source) if typical else None for source in SOURCES},
        "most_remote_bytes": row.most_remote_bytes,
        "bytes_over_bandwidth_ms": row.floor_ms,
        "bytes_moving_ms": row.moving_ms,
        "eta_error": row.eta_error,
    }


def _breakdown_value(breakdown: Breakdown | None) -> dict[str, Any] | None:
    if breakdown is None:
        return None
    phases = {name: round(ms, 3) for name, ms in breakdown.phases_ms.items()}
    return {
        "wall_ms": round(breakdown.wall_ms, 3),
        "phases_ms": phases,
        "unattributed_share": round(breakdown.unattributed_share, 5),
        "overlap_scaled": breakdown.scaled,
    }


def _sample_value(sample: Sample) -> dict[str, Any]:
    return {
        "region": sample.region,
        "wanted": sample.wanted.value,
        "found": sample.found.value if sample.found else None,
        "failure": sample.failure,
        "ttft_ms": sample.ttft_ms,
        "e2e_ms": sample.e2e_ms,
        "prompt_tokens": sample.num_prompt_tokens,
        "completion_tokens": sample.num_tokens,
        "tokens_per_s": sample.tokens_per_s,
        "bytes": dict(sample.num_bytes),
        "eta_ms": None if sample.eta is None else asdict(sample.eta),
        "request_id": sample.request_id,
        "before_first_token": _breakdown_value(sample.before_first),
    }

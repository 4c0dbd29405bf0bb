"""Figures from raw samples, and the rule that a percentile needs enough of them. Pure.

Quantiles are by nearest rank on the raw samples: every figure shown was measured. Percentiles are never averaged.
"""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
BEYOND = 10  # samples that must be expected beyond a percentile before it says more than the worst one does


def samples_for(share: float) -> int:
    """How many samples the percentile `share` needs: 20 for p50, 100 for p90, 1,000 for p99."""
    return math.ceil(round(BEYOND / (1 - share), 6))


MIN_SAMPLES_P50 = samples_for(0.50)
MIN_SAMPLES_P90 = samples_for(0.90)
MIN_SAMPLES_P95 = samples_for(0.95)
MIN_SAMPLES_P99 = samples_for(0.99)
NUM_RESAMPLES = 1000  # enough for two digits of a 95 % interval
INTERVAL = 0.95


@dataclass(frozen=True, slots=True)
class Summary:
    """One figure over ``n`` samples, in the samples' unit; what their number does not allow is None.

    Percentiles are over failed requests too, and None where they fall among those. ``interval`` is the bootstrap 95 %
    interval of the median, None if it ends among them.
    """

    n: int
    least: float | None = None
    most: float | None = None
    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    interval: tuple[float, float] | None = None


def quantile(ordered: Sequence[T], share: float) -> T:
    """The nearest-rank quantile of ascending samples, ``0 < share <= 1``. Raises ValueError if there are none."""
    if not ordered:
        raise ValueError("no samples")
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def middle(count: int) -> int:
    """The place of the median among ``count`` ordered samples, by nearest rank; of two, the slower."""
    return 1 if count == 2 else max(0, math.ceil(count / 2) - 1)


def resampled_medians(
    ordered: Sequence[float], rng: random.Random, num: int = NUM_RESAMPLES
) -> Iterator[float]:
    """Medians of ``num`` resamples with replacement, each in one draw.

    A resample's k-th smallest of n is the sample at rank ceil(n U), U the k-th smallest of n uniform draws, which is
    Beta(k, n - k + 1): the law of the ordinary bootstrap without making the resample (Efron 1979, section 3).
    """
    n = len(ordered)
    k = math.ceil(n / 2)
    for _ in range(num):
        yield ordered[max(1, math.ceil(n * rng.betavariate(k, n - k + 1))) - 1]


def bootstrap(ordered: Sequence[float], seed: int) -> tuple[float, float]:
    """The 95 % interval of the median by the percentile bootstrap; the same seed gives the same interval."""
    rng = random.Random(seed)  # noqa: S311 - statistics, not secrets
    return inner(sorted(resampled_medians(ordered, rng)))


def ratio_interval(before: Sequence[float], after: Sequence[float], seed: int) -> tuple[float, float]:
    """The 95 % bootstrap interval of the medians' ratio, after over before; both ascending and above zero."""
    rng = random.Random(seed)  # noqa: S311 - statistics, not secrets
    pairs = zip(resampled_medians(before, rng), resampled_medians(after, rng), strict=True)
    return inner(sorted(late / early for early, late in pairs))


def inner(ordered: Sequence[float]) -> tuple[float, float]:
    """The ends between which 95 % of ascending values lie."""
    tail = (1 - INTERVAL) / 2
    return quantile(ordered, tail), quantile(ordered, 1 - tail)


def summary(samples: Sequence[float], seed: int = 0, num_failed: int = 0) -> Summary:
    """What these samples allow to be said; `num_failed` more requests gave none, and were slower than any that did.

    Left out they would flatter: of ten requests that time out and ten that take 1 s, 1 s is not the median.
    """
    if not samples:
        return Summary(0)
    ordered = sorted(samples)
    asked = [*ordered, *[math.inf] * num_failed]

    def allowed(share: float) -> float | None:
        return _answered(quantile(asked, share)) if len(asked) >= samples_for(share) else None

    low, high = bootstrap(asked, seed) if len(asked) >= MIN_SAMPLES_P50 else (math.inf, math.inf)
    return Summary(
        len(ordered),
        ordered[0],
        ordered[-1],
        allowed(0.50),
        allowed(0.90),
        allowed(0.95),
        allowed(0.99),
        (low, high) if math.isfinite(high) else None,
    )


def _answered(value: float) -> float | None:
    return value if math.isfinite(value) else None


def ecdf(samples: Sequence[float], max_points: int = 200) -> list[tuple[float, float]]:
    """The empirical distribution as (value, share of samples <= value), thinned to ``max_points``, ends kept."""
    ordered = sorted(samples)
    n = len(ordered)
    if n <= max_points:
        places: Sequence[int] = range(n)
    else:
        places = sorted({round(i * (n - 1) / (max_points - 1)) for i in range(max_points)})
    return [(ordered[i], (i + 1) / n) for i in places]

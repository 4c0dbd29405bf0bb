"""Figures from raw samples, and the rule that a percentile needs enough of them. Pure.

Quantiles are by nearest rank on the raw samples: every figure shown was measured. Percentiles are never averaged.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

MIN_SAMPLES_P50 = 3  # with fewer the median is just one of the two ends: the range is said instead
MIN_SAMPLES_P90 = 20
MIN_SAMPLES_P99 = 100  # below, the 99th percentile is the worst sample under another name
MIN_SAMPLES_INTERVAL = 5  # a bootstrap of fewer only repeats their range
NUM_RESAMPLES = 1000  # enough for two digits of a 95 % interval
INTERVAL = 0.95
MAX_RESAMPLED = 2000  # samples; a bootstrap of more costs seconds and tells nothing new


@dataclass(frozen=True, slots=True)
class Summary:
    """One figure over ``n`` samples, in the samples' unit; what ``n`` does not allow is None.

    ``interval`` is the bootstrap 95 % interval of the median.
    """

    n: int
    least: float | None = None
    most: float | None = None
    p50: float | None = None
    p90: float | None = None
    p99: float | None = None
    interval: tuple[float, float] | None = None


def quantile(ordered: Sequence[float], share: float) -> float:
    """The nearest-rank quantile of ascending samples, ``0 < share <= 1``. Raises ValueError if there are none."""
    if not ordered:
        raise ValueError("no samples")
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def middle(count: int) -> int:
    """The place of the median among ``count`` ordered samples, by nearest rank; of two, the slower."""
    return 1 if count == 2 else max(0, math.ceil(count / 2) - 1)


def bootstrap(ordered: Sequence[float], seed: int) -> tuple[float, float]:
    """The 95 % interval of the median by the percentile bootstrap; the same seed gives the same interval."""
    rng = random.Random(seed)  # noqa: S311 - statistics, not secrets
    n = len(ordered)
    medians = sorted(quantile(sorted(rng.choices(ordered, k=n)), 0.5) for _ in range(NUM_RESAMPLES))
    tail = (1 - INTERVAL) / 2
    return quantile(medians, tail), quantile(medians, 1 - tail)


def summary(samples: Sequence[float], seed: int = 0) -> Summary:
    """What these samples allow to be said."""
    if not samples:
        return Summary(0)
    ordered = sorted(samples)
    n = len(ordered)
    resampled = ordered if n <= MAX_RESAMPLED else ordered[:: math.ceil(n / MAX_RESAMPLED)]
    return Summary(
        n,
        ordered[0],
        ordered[-1],
        quantile(ordered, 0.5) if n >= MIN_SAMPLES_P50 else None,
        quantile(ordered, 0.9) if n >= MIN_SAMPLES_P90 else None,
        quantile(ordered, 0.99) if n >= MIN_SAMPLES_P99 else None,
        bootstrap(resampled, seed) if n >= MIN_SAMPLES_INTERVAL else None,
    )


def ecdf(samples: Sequence[float], max_points: int = 200) -> list[tuple[float, float]]:
    """The empirical distribution as (value, share of samples <= value), thinned to ``max_points``, ends kept."""
    ordered = sorted(samples)
    n = len(ordered)
    if n <= max_points:
        places: Sequence[int] = range(n)
    else:
        places = sorted({round(i * (n - 1) / (max_points - 1)) for i in range(max_points)})
    return [(ordered[i], (i + 1) / n) for i in places]

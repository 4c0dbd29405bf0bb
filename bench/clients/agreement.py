"""Do two clients that took turns say the same? Runs are what is counted, not requests. Pure.

Requests of one run share their minute of the machine, so a thousand of them say no more of the next minute than ten:
the spread is that of the runs' medians, by Student's t ("The Probable Error of a Mean", 1908).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Two-sided 95 % points of Student's t for 1 to 9 degrees of freedom."""
MIN_RUNS, MAX_RUNS = 2, len(T_95) + 1


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean of runs and its 95 % interval, in the runs' unit."""

    mean: float
    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Whether the value is one that the runs allow."""
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.mean:.1f} [{self.low:.1f}, {self.high:.1f}] ms"


def over_runs(values: Sequence[float]) -> Interval:
    """The mean of 2 to 10 runs, each given by one value. Raises: ValueError with fewer or more."""
    if not MIN_RUNS <= len(values) <= MAX_RUNS:
        raise ValueError(f"an interval takes {MIN_RUNS} to {MAX_RUNS} runs, not {len(values)}")
    half = T_95[len(values) - 2] * stdev(values) / len(values) ** 0.5
    mean = fmean(values)
    return Interval(mean, mean - half, mean + half)


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two clients in turn: each one's interval over runs, and that of the second minus the first, run by run.

    A run's two medians lie seconds apart, so what the machine did for minutes is in both and leaves the difference.
    """

    ours: Interval
    theirs: Interval
    apart: Interval

    @classmethod
    def of(cls, pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> "Agreement":
        """Of each run's samples, ours and theirs. Raises: ValueError with too few runs or an empty one."""
        medians = [(median(ours), median(theirs)) for ours, theirs in pairs]
        ours, theirs = zip(*medians, strict=True)
        return cls(over_runs(ours), over_runs(theirs), over_runs([b - a for a, b in medians]))

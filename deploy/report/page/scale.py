"""Axes: where a value lies between 0 and 1, and at which round values ticks stand. Pure."""

import math
from dataclasses import dataclass

BETWEEN: tuple[tuple[float, tuple[int, ...]], ...] = (  # up to so many decades, these steps in each
    (1.2, (1, 2, 5)),
    (2.2, (1, 3)),
    (math.inf, (1,)),
)
STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Linear:
    """From zero to `most`, with at most `num_ticks` round values besides zero."""

    most: float
    num_ticks: int = 5

    def at(self, value: float) -> float:
        """The place of a value as a share of the axis."""
        return min(1.0, max(0.0, value / self.most)) if self.most > 0 else 0.0

    def ticks(self) -> list[float]:
        """Round values, zero included."""
        if self.most <= 0:
            return [0.0]
        rough = self.most / self.num_ticks
        magnitude = 10.0 ** math.floor(math.log10(rough))
        step = next(step * magnitude for step in STEPS if step * magnitude >= rough * 0.999)
        return [i * step for i in range(int(self.most / step + 1e-9) + 1)]


@dataclass(frozen=True, slots=True)
class Logarithmic:
    """From `least` to `most`, both above zero."""

    least: float
    most: float

    @classmethod
    def over(cls, least: float, most: float) -> "Logarithmic":
        """The axis over these values, widened to whole 1-2-5 steps and at least one decade."""
        floor = max(least, 1e-3)
        low, high = _step_below(floor), _step_above(max(most, floor * 10))
        return cls(low, high)

    def at(self, value: float) -> float:
        """The place of a value as a share of the axis."""
        span = math.log(self.most / self.least)
        return min(1.0, max(0.0, math.log(max(value, self.least) / self.least) / span))

    def ticks(self) -> list[float]:
        """The powers of ten in it, and steps between them where there is room for their words."""
        first, last = math.floor(math.log10(self.least)), math.ceil(math.log10(self.most))
        decades = math.log10(self.most / self.least)
        factors = next(factors for most, factors in BETWEEN if decades <= most)
        made = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
        return [tick for tick in made if self.least * 0.999 <= tick <= self.most * 1.001]


def _step_below(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value))
    return max(factor * power for factor in (1, 2, 5) if factor * power <= value * 1.0001)


def _step_above(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value))
    return min(factor * power for factor in (1, 2, 5, 10) if factor * power >= value * 0.9999)

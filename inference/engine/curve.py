"""Seconds by size, measured as it goes: averages for parts of powers of two, joined by lines. Plain Python."""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise

LEAST_SHARE = 0.5
"""Of the smallest measured size's time: a still smaller one is not taken to cost less than this."""
MOST_CHANGE = 2.0
"""One measure counts for at most this many times what was expected: what took longer was cut short by others."""


class Curve:
    """What sizes cost.

    One size alone says that all costs grow with it, a smaller one will soon tell more. Beyond the largest nothing is
    cheaper than it was until there: two noisy measures must not say that five hundred cost what fifty do.
    """

    __slots__ = ("_parts", "_points", "_shared")

    def __init__(self, shared: float = 0.0, parts: int = 1) -> None:
        """`shared`: how far a change of one size's cost is taken to be one of all sizes, 0 to 1 (as an exponent).

        `parts`: of each power of two, with an average of its own.
        """
        self._points: dict[int, tuple[float, float]] = {}
        self._shared = shared
        self._parts = parts

    @property
    def is_known(self) -> bool:
        """Whether anything was measured."""
        return bool(self._points)

    def at(self, size: float) -> float:
        """Seconds on the line through measured points; never less for more, whatever one outlier says."""
        points = self._joined()
        seconds, slope, left = points[0][1], 0.0, points[-1][0]
        for (first, _), (right, after) in pairwise(points):
            slope = (max(seconds, after) - seconds) / (right - first)
            if size <= right:
                left = first
                break
            seconds += slope * (right - first)
        else:
            slope = max(slope, seconds / left)
        return max(points[0][1] * LEAST_SHARE, seconds + slope * (size - left))

    def most_within(self, seconds: float, least: int, most: int) -> int:
        """The largest size of `least` to `most` that takes at most so long; `least` if none does."""
        sizes = range(most + 1)
        return max(least, bisect_right(sizes, seconds, lo=least + 1, key=self.at) - 1)

    def learn(self, size: int, seconds: float, weight: float) -> None:
        """Something of this size took `seconds`, which counts `weight` against all before."""
        octave = size.bit_length()
        place = octave * self._parts + ((size * self._parts * 2 >> octave) - self._parts)
        mean_size, mean_s = self._points.get(place, (size, seconds))
        new_s = mean_s + weight * (seconds - mean_s)
        if self._shared and self._points and (expected := self.at(size)) > 0:
            change = min(MOST_CHANGE, max(1 / MOST_CHANGE, seconds / expected))
            if place in self._points:
                new_s = mean_s + weight * (min(seconds, MOST_CHANGE * expected) - mean_s)
            for other, (its_size, its_s) in self._points.items():
                self._points[other] = (its_size, its_s * change ** (weight * self._shared))
        self._points[place] = (mean_size + weight * (size - mean_size), new_s)

    def _joined(self) -> list[tuple[float, float]]:
        points = [self._points[place] for place in sorted(self._points)]
        return points if len(points) > 1 else [(0.0, 0.0), *points]

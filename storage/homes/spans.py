"""Sets of byte ranges, pure: which bytes of an object are here."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class Spans:
    """Half-open ranges [start, end), sorted and disjoint; neighbours are joined."""

    def __init__(self, spans: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self.num_bytes = 0
        for start, end in spans:
            self.add(start, end)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(list(zip(self._starts, self._ends, strict=True)))

    def add(self, start: int, end: int) -> None:
        """Take in a range; what it overlaps or touches becomes one with it."""
        if start >= end:
            return
        low = bisect_left(self._ends, start)
        high = bisect_right(self._starts, end)
        before = sum(self._ends[i] - self._starts[i] for i in range(low, high))
        if low < high:
            start, end = min(start, self._starts[low]), max(end, self._ends[high - 1])
        self._starts[low:high] = [start]
        self._ends[low:high] = [end]
        self.num_bytes += end - start - before

    def end_of(self, at: int) -> int:
        """How far the set goes on without a hole from byte `at`; `at` itself if that byte is not in it."""
        index = bisect_right(self._starts, at) - 1
        return max(at, self._ends[index]) if index >= 0 else at

    def next_after(self, at: int) -> int | None:
        """Where the first range begins that begins behind `at`."""
        index = bisect_right(self._starts, at)
        return self._starts[index] if index < len(self._starts) else None

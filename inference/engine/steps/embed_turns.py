"""Rows to embed, in the turns of their tenants: by virtual token counters, as in `engine.steps.tenants`. Plain.

A row costs its tokens, divided by its tenant's weight; of those who have rows the least served goes next, with its rows
in the order that they came. Who comes is lifted to the least counter of those who are here.
"""

from __future__ import annotations

from collections import deque
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable


class Place(NamedTuple):
    """One row of one order."""

    id: str
    row: int
    tokens: tuple[int, ...]
    segments: tuple[int, ...] = ()


class Line:
    """One tenant's rows that wait."""

    __slots__ = ("counter", "rows", "weight")

    def __init__(self, counter: float) -> None:
        self.counter, self.weight = counter, 1
        self.rows: deque[Place] = deque()


class Lines:
    """Every row that waits; a tenant is remembered while any other has rows."""

    def __init__(self) -> None:
        self._lines: dict[str, Line] = {}
        self.num_rows = 0

    def add(self, tenant: str, weight: int, rows: Iterable[Place]) -> None:
        """More rows of a tenant, behind its own."""
        line = self._line(tenant)
        line.weight = weight
        before = len(line.rows)
        line.rows.extend(rows)
        self.num_rows += len(line.rows) - before

    def next(self) -> Line | None:
        """Whose turn it is."""
        return min((line for line in self._lines.values() if line.rows), key=_COUNTER, default=None)

    def take(self, line: Line) -> Place:
        """Its first row, which it pays for."""
        place = line.rows.popleft()
        self.num_rows -= 1
        line.counter += len(place.tokens) / line.weight
        return place

    def drop(self, order_id: str) -> None:
        """The rows of an order are not wanted any more."""
        for line in self._lines.values():
            line.rows = deque(place for place in line.rows if place.id != order_id)
        self.num_rows = sum(len(line.rows) for line in self._lines.values())

    def _line(self, tenant: str) -> Line:
        if not self.num_rows:
            self._lines.clear()  # what anyone owed was a part of one pass, and nobody waited for it
        line = self._lines.get(tenant)
        if line is not None and line.rows:
            return line
        least = min((each.counter for each in self._lines.values() if each.rows), default=0.0)
        line = self._lines[tenant] = line or Line(least)
        line.counter = max(line.counter, least)
        return line


_COUNTER = attrgetter("counter")

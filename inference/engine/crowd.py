"""How much of a step goes to a tenant that wants more than its share, while others are here. Plain Python.

A batch that is fuller makes each step longer, so one tenant with sixty streams would slow everyone's down, whatever
the order of admission. Tenants with no more requests than the mean, by weight, are modest: all of their rows are in
each step. The others get as many rows as the fullest of the modest has, and beyond that those that make the step at
most `CROWD_FACTOR` times what it takes for the modest alone; their rows take turns. Where a fuller step costs nothing,
as on a device, everybody is in each.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING

from inference.engine.tenants import ANSWER_COST

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from inference.engine.pace import Pace
    from inference.engine.rows import Row
    from inference.engine.tenants import Tenants

CROWD_FACTOR = 1.25
"""Of a step's time: rows of the greedy beside the modest, and as much again for a chunk of the greedy's prompts."""


@dataclass(frozen=True, slots=True)
class Crowd:
    """Who wants more than its share at this moment, and how many rows one unit of weight has a right to."""

    greedy: frozenset[str]
    rows_each: float

    def is_greedy(self, row: Row) -> bool:
        """Whether its tenant is one of them."""
        return row.order.tenant in self.greedy


NOBODY = Crowd(frozenset(), 0.0)


def crowd(tenants: Tenants) -> Crowd:
    """The tenants whose level is above the mean."""
    here = list(tenants.here)
    weights, requests = sum(each.weight for each in here), sum(each.num_requests for each in here)
    greedy = frozenset(each.name for each in here if each.num_requests * weights > requests * each.weight)
    return (
        Crowd(greedy, max(each.num_requests / each.weight for each in here if each.name not in greedy))
        if greedy
        else NOBODY
    )


def in_step(rows: Sequence[Row], now: Crowd, pace: Pace, turn: int) -> list[Row]:
    """Of the rows that have a token to compute those that this step, number `turn`, computes."""
    greedy = [row for row in rows if now.is_greedy(row)]
    modest = [row for row in rows if not now.is_greedy(row)]
    fitting = pace.rows_within(max(1, len(modest)), CROWD_FACTOR)
    if not greedy or fitting is None:
        return list(rows)
    least = sum(max(1, int(now.rows_each * row.account.weight)) for row in _one_each(greedy))
    chosen = _least_recent(greedy, max(least, fitting - len(modest)))
    for row in chosen:
        row.turn = turn
    return [*modest, *chosen]


def _one_each(rows: Iterable[Row]) -> Iterable[Row]:
    return {row.order.tenant: row for row in rows}.values()


def _least_recent(rows: Sequence[Row], most: int) -> list[Row]:
    """So many rows: by their tenants' counters, and of one tenant those whose turn is longest ago."""
    counters = {row.order.tenant: row.account.counter for row in _one_each(rows)}
    order: list[tuple[float, Row]] = []
    for row in sorted(rows, key=attrgetter("turn", "rank")):
        order.append((counters[row.order.tenant], row))
        counters[row.order.tenant] += ANSWER_COST / row.account.weight
    order.sort(key=lambda each: each[0])
    return [row for _, row in order[:most]]

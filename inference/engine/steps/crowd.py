"""How much of a step goes to a tenant that wants more than its share, while others are here. Plain Python.

A batch that is fuller makes each step longer, so one tenant with sixty streams would slow everyone's down, whatever
the order of admission. Who has `FAR` times as many requests as the fullest of those up to the mean, by weight, is a
crowd: of its streams only the oldest are in each step, as many as that one has. The rest, and its prompts, are
surplus: as much of it as makes the step `CROWD_FACTOR` times as long, in turns. Where a fuller step costs nothing, as
on a device, everybody is in each.

A tenant whose requests had to wait outside (`inference.workers.entry.turnstile`, or for a place of its key's quota at
an edge) is given fewer places than that, and wants more. If it has twice as many as the others, its streams are in
every second step only, all of them together: on a CPU the first rows more cost a step more than those after them do,
so this costs the others less than half as many in each step would, and it still has as many tokens as they have.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Protocol, TypeVar

from inference.engine.steps.rows import State
from inference.engine.steps.tenants import ANSWER_COST, RANK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inference.engine.steps.pace import Pace
    from inference.engine.steps.rows import Row
    from inference.engine.steps.tenants import Tenant, Tenants

FAR = 4
"""Below that it is one of the tenants that are busy just now, and nobody is to wait for a turn."""
CROWD_FACTOR = 1.25
"""Of a step's time: surplus rows beside the others, and as much again for a chunk of surplus prompts."""
TURNS = 2
"""Of so many steps one has the streams of who waits outside."""
FREE_FACTOR = 1.1
"""Nobody rests for a step that would be longer by no more than this."""


class Asker(Protocol):
    """A tenant, as far as its wishes go."""

    weight: int

    @property
    def num_requests(self) -> int:
        """All that it wants to have computed."""


A = TypeVar("A", bound=Asker)


def crowds(here: Sequence[A]) -> tuple[list[A], float]:
    """Those who want far more than the others, and what these want for each unit of weight: one request at least.

    Who asks for less than its weight leaves turns to others: it makes no crowd of who takes them.
    """
    weights, requests = sum(each.weight for each in here), sum(each.num_requests for each in here)
    modest = (each for each in here if each.num_requests * weights <= requests * each.weight)
    level = max(1.0, *(each.num_requests / each.weight for each in modest))
    return [each for each in here if each.num_requests > FAR * level * each.weight], level


def surplus(rows: Sequence[Row], tenants: Tenants) -> set[Row]:
    """Of the rows that could be in a step those of crowds beyond what others have, while others' are there too."""
    many, level = crowds(list(tenants.here))
    if not many or all(row.account in many for row in rows):
        return set()
    found: set[Row] = set()
    for tenant in many:
        own = [row for row in rows if row.account is tenant]
        streams = sorted((row for row in own if row.state is State.DECODE), key=RANK)
        most = level * tenant.weight * (TURNS if tenant.has_waited else 1)
        usual = streams[: max(1, int(most))]
        found.update(row for row in own if row not in usual)
    return found


def awake(
    decoding: Sequence[Row], prompts: Sequence[Row], tenants: Tenants, pace: Pace, turn: int
) -> list[Row]:
    """Of the rows that have a token to compute those that step number `turn` may; all, if no others are in it."""
    here = {row.account for row in decoding if row.account.has_waited} if turn % TURNS else set()
    resting = {each for each in here if _has_many(each, tenants)}
    others = [row for row in decoding if row.account not in resting]
    if not resting or (not others and all(row.account in resting for row in prompts)):
        return list(decoding)
    fitting = pace.rows_within(max(1, len(others)), FREE_FACTOR)
    return list(decoding) if fitting is None or fitting >= len(decoding) else others


def _has_many(tenant: Tenant, tenants: Tenants) -> bool:
    """Whether in one of `TURNS` steps it still has as much as the fullest of those up to the mean."""
    _, level = crowds(list(tenants.here))
    return tenant.num_requests >= TURNS * level * tenant.weight


def in_step(rows: Sequence[Row], extra: set[Row], pace: Pace, turn: int) -> list[Row]:
    """Of the rows that have a token to compute those that this step, number `turn`, computes."""
    usual = [row for row in rows if row not in extra]
    fitting = pace.rows_within(max(1, len(usual)), CROWD_FACTOR)
    if fitting is None or fitting >= len(rows):
        return list(rows)
    chosen = _least_recent([row for row in rows if row in extra], max(0, fitting - len(usual)))
    for row in chosen:
        row.turn = turn
    return [*usual, *chosen]


def _least_recent(rows: Sequence[Row], most: int) -> list[Row]:
    """So many rows: by their tenants' counters, and of one tenant those whose turn is longest ago."""
    counters = {row.account: row.account.counter for row in rows}
    order: list[tuple[float, Row]] = []
    for row in sorted(rows, key=attrgetter("turn", "rank")):
        order.append((counters[row.account], row))
        counters[row.account] += ANSWER_COST / row.account.weight
    order.sort(key=lambda each: each[0])
    return [row for _, row in order[:most]]

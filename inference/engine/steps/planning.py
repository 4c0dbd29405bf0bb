"""Which tokens the next step computes: of each running row one, of some a few guesses, and of prompts what else fits.

Plain Python: no torch, no clock, no I/O. Who waits, runs and leaves is the scheduler's (`engine.steps.scheduler`).
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from inference.engine.steps.crowd import CROWD_FACTOR, awake, crowds, in_step, surplus
from inference.engine.steps.pace import MAX_PREFILL_TOKENS, Pace
from inference.engine.steps.rows import Row, State

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from inference.engine.steps.drafts import Drafter
    from inference.engine.steps.events import Segment, Step
    from inference.engine.steps.prefixes import Prefixes
    from inference.engine.steps.seats import Seats
    from inference.engine.steps.tenants import Tenant, Tenants

SAVED_UP_TOKENS = 16
"""Of a surplus prompt at once: a chunk has attention calls of its own, so small ones are dear."""


class Planner:
    """Plans over the rows in `seats` and those that wait in `tenants`. `stop_ids`: what ends a request, by its id."""

    def __init__(
        self,
        pace: Pace,
        seats: Seats,
        tenants: Tenants,
        prefixes: Prefixes,
        drafter: Drafter | None,
        stop_ids: Callable[[str], Collection[int]],
    ) -> None:
        self._pace, self._seats, self._tenants, self._prefixes = pace, seats, tenants, prefixes
        self._drafter, self._stop_ids = drafter, stop_ids
        self._turn = 0
        self._spare = 0.0
        """Tokens of surplus prompts that steps had time for."""

    def plan(self, now: float) -> Step:
        """The next step: decode rows by slot first, then prompt chunks in their turn."""
        decoding = [row for row in self._seats.rows if row.state is State.DECODE]
        prompts = [row for row in self._seats.rows if row.state is State.PREFILL]
        prompts += itertools.islice(self._tenants.in_turn(), self.num_ready)
        if self._tenants.is_shared:
            self._turn += 1
            decoding = awake(decoding, prompts, self._tenants, self._pace, self._turn)
            if extra := surplus([*decoding, *prompts], self._tenants):
                return self._plan_crowded(decoding, prompts, extra, now)
        patience_s = min((row.token_s(now) for row in decoding), default=0.0) if prompts else 0.0
        budget = self._pace.prefill_tokens(len(decoding), len(prompts), patience_s)
        if self._drafter is not None and not prompts:
            return self._with_drafts(decoding, self._drafter)
        return (*_by_slot(decoding), *self._chunks(prompts, budget, now))

    def _with_drafts(self, decoding: list[Row], drafter: Drafter) -> Step:
        """A step without prompts, and the drafts that make it give more tokens in its time."""
        drafts = drafter.drafts(decoding, self._pace, self._stop_ids, self._seats.has_room_beyond)
        rows = sorted(decoding, key=lambda row: row.slot)
        return tuple(row.drafted(drafts[row]) if row in drafts else row.segment(1) for row in rows)

    def _plan_crowded(self, decoding: list[Row], prompts: list[Row], extra: set[Row], now: float) -> Step:
        """As if the surplus rows were not here, with as much of them as lengthens the step by a bounded part."""
        chosen = in_step(decoding, extra, self._pace, self._turn)
        num_usual = sum(row not in extra for row in decoding)
        self._spare = min(MAX_PREFILL_TOKENS, self._spare + self._pace.beside(num_usual, CROWD_FACTOR))
        beside = int(self._spare) if self._spare >= SAVED_UP_TOKENS else 0
        if not beside and extra.issuperset(prompts):  # and nobody else waits for that
            prompts = self._ready_but(crowds(list(self._tenants.here))[0])
        num_new = sum(row not in extra for row in prompts)
        budget = self._pace.prefill_tokens(num_usual, num_new) if num_new else beside
        chunks = tuple(self._chunks(prompts, budget, now, extra, beside))
        ids = {row.order.id for row in extra}
        self._spare -= sum(len(part.tokens) for part in chunks if part.id in ids)
        return (*_by_slot(chosen), *chunks)

    @property
    def num_ready(self) -> int:
        """How many of those who wait have room now."""
        return self._seats.num_fitting(self._tenants.in_turn())

    def _ready_but(self, those: list[Tenant]) -> list[Row]:
        """Who has room now of all who wait but the requests of `those`."""
        rows = [row for row in self._tenants.in_turn() if row.account not in those]
        return rows[: self._seats.num_fitting(rows)]

    def _chunks(
        self, rows: list[Row], budget: int, now: float, extra: Collection[Row] = (), beside: int = 0
    ) -> Iterator[Segment]:
        """The next tokens of prompts, in their turn; of the `extra` ones not more than `beside`."""
        ahead: set[bytes] = set()
        for row in self._tenants.ordered(rows):
            most = min(budget, beside) if (is_extra := row in extra) else budget
            if budget <= 0:
                return
            if most <= 0:
                continue
            self._admit(row, now)
            if (pages := self._prefixes.before(row, ahead)) is not None:
                yield (chunk := row.segment(most, pages))
                budget -= len(chunk.tokens)
                beside -= len(chunk.tokens) * is_extra

    def _admit(self, row: Row, now: float) -> None:
        """Its slot, if it has none yet."""
        if row.state is State.WAITING and self._seats.take(row, now):
            self._tenants.start(row)


def _by_slot(rows: list[Row]) -> Iterator[Segment]:
    """Their next token each, in the order of their slots."""
    return (row.segment(1) for row in sorted(rows, key=lambda row: row.slot))

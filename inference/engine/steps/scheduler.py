"""Which tokens of which requests the next step computes. Plain Python: no torch, no clock, no I/O.

`plan` says what to compute, `commit` takes the sampled tokens and says what happened. In every step each
running row gives a token at least, and prompts fill the rest of the budget by rank: by priority, and first come, first
served within one (`Row.rank`). `preempt` takes slots from rows of lower priority; they wait and go on later.

Rank orders the requests of one tenant. Between tenants it is the least served one's turn
(`tenants.py`), one that has less than its share of the slots takes one from who has most beyond it, and
a tenant with far more rows than the others does not have all of them in each step (`inference.engine.steps.crowd`).

A request is in one of three states, WAITING (no slot), PREFILL (a slot, tokens not yet computed), DECODE (one
token to compute), and leaves by `commit`, `cancel` or `fail`, which free its slot at once.

Who has a slot is in `seats.py`, what a step has in it in `planning.py`, and where a prompt
begins in `inference.engine.steps.prefixes`.
"""

from __future__ import annotations

import itertools
from types import MappingProxyType
from typing import TYPE_CHECKING

from inference.engine.steps.drain import Drain
from inference.engine.steps.events import Emitted, Ended, Event, Failed, Preempted, Step
from inference.engine.steps.pace import Pace
from inference.engine.steps.planning import Planner
from inference.engine.steps.prefixes import Prefixes
from inference.engine.steps.rows import Row, State
from inference.engine.steps.seats import Seats
from inference.engine.steps.slots import SlotPool
from inference.engine.steps.tenants import ANSWER_COST, PROMPT_COST, RANK, Tenants
from wire.counted import counted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inference.engine.orders.asked import Generate
    from inference.engine.steps.drafts import Drafter

NONE: Mapping[str, int] = MappingProxyType({})
MAX_WAITING = 256
"""Requests without a slot. One more is refused, or the last of them by rank of the tenant that has most of them."""


class Scheduler:
    """The requests of one engine. `eos_ids` end an answer unless its order says otherwise."""

    def __init__(
        self,
        num_slots: int,
        eos_ids: frozenset[int],
        *,
        max_waiting: int = MAX_WAITING,
        pace: Pace | None = None,
        num_pages: int = 0,
        pool: SlotPool | None = None,
        drafter: Drafter | None = None,
    ) -> None:
        self.pace = pace or Pace()
        self.prefixes = Prefixes(num_pages)
        self._seats = Seats(pool or SlotPool(num_slots))
        self._eos_ids = eos_ids
        self._max_waiting = max_waiting
        self._rows: dict[str, Row] = {}
        self._tenants = Tenants()
        """Who waits is there, by tenant."""
        self._serials = itertools.count()
        self._drain = Drain()
        self._drafter = drafter
        self._planner = Planner(self.pace, self._seats, self._tenants, self.prefixes, drafter, self.stop_ids)
        self.num_preempted = 0

    @property
    def eos_ids(self) -> frozenset[int]:
        """The ids that end an answer unless its order says otherwise."""
        return self._eos_ids

    @property
    def num_waiting(self) -> int:
        """Requests without a slot."""
        return self._tenants.num_waiting

    @property
    def num_running(self) -> int:
        """Requests with a slot."""
        return len(self._seats.rows)

    @property
    def is_idle(self) -> bool:
        """Nothing to compute."""
        return not self._rows

    def stop_ids(self, order_id: str) -> frozenset[int]:
        """The ids that end this request's answer; not to be sampled before its `min_tokens`."""
        order = self._rows[order_id].order
        return order.stop_ids if order.ignore_eos else order.stop_ids | self._eos_ids

    def num_output(self, order_id: str) -> int:
        """Tokens sampled so far for this request."""
        return self._rows[order_id].num_output

    def add(self, order: Generate, now: float) -> list[Event]:
        """Let a request in; it waits for a slot. `now` in seconds of any one clock."""
        self._drain.pass_time(now, is_busy=self.num_waiting > 0)
        if order.id in self._rows:
            return [Failed(order.id, "bad_request", "a request with this id is running")]
        row = Row(order, now, next(self._serials))
        is_full = self.num_waiting >= self._max_waiting + self._seats.num_free
        unlucky = self._last_of(row) if is_full else None
        events: list[Event] = [] if unlucky is None else [self._turned_away(unlucky)]
        if unlucky is not row:
            self._rows[order.id] = row
            self._tenants.join(row)
        if unlucky is not None and unlucky is not row:
            self._leave(unlucky.order.id)
        return events

    def cancel(self, order_id: str, now: float) -> list[Event]:
        """Drop a request in whatever state; one that is not here is no error (it may have ended just now)."""
        if order_id not in self._rows:
            return []
        return self._end(order_id, "cancelled", now)

    def fail(self, order_id: str, code: str, message: str) -> list[Event]:
        """Drop a request that cannot go on."""
        slot = self._leave(order_id)
        return [Failed(order_id, code, message, slot)]

    def preempt(self, now: float) -> list[Event]:
        """Take slots: for tenants below their share, for requests of a higher priority, and for rows that must grow.

        To be called before `plan`. A row gives way to its tenant's only if they came within its own bonus for waiting,
        so it is preempted for a bounded time and then stays.
        """
        self._drain.pass_time(now, is_busy=self.num_waiting > 0)
        events: list[Event] = []
        while self.num_waiting > (num_ready := self._planner.num_ready):
            *ready, row = itertools.islice(self._tenants.in_turn(), num_ready + 1)
            last = self._giving_way_to(row, ready)
            if last is None:
                break
            events += self._suspend(last)
        return events + (self._make_room() if self._seats.grows else [])

    def plan(self, now: float) -> Step:
        """The next step."""
        self._drain.pass_time(now, is_busy=self.num_waiting > 0)
        return self._planner.plan(now)

    def commit(
        self,
        step: Step,
        tokens: Mapping[str, int],
        now: float,
        took_s: float,
        num_right: Mapping[str, int] = NONE,
    ) -> list[Event]:
        """The step was computed in `took_s`; `tokens` has the last sampled token of each segment that samples.

        It comes behind those of its drafts that were right, of which `num_right` has the number. A row that failed
        meanwhile is simply no longer here; a sampling segment without a token is an error.

        Raises:
            KeyError: a row that samples got no token.
        """
        self._observe(step, took_s)
        events: list[Event] = []
        for part in step:
            if (row := self._rows.get(part.id)) is not None:
                if row.state is State.PREFILL:
                    row.account.serve(row.charge(part) * PROMPT_COST)
                count = num_right.get(part.id, 0)
                row.receive(part, count)
                said = (*part.drafts[:count], tokens[part.id]) if part.samples else ()
                if said and self._drafter is not None:
                    self._drafter.hear(row, part.num_drafts, said)
                for token in said:
                    row.account.serve(ANSWER_COST)
                    events += self._take(row, token, now)
        return events

    def draft_figures(self) -> dict[str, int]:
        """Tokens that were computed as guesses, and of those the ones that were right; nothing where none are made."""
        made = self._drafter
        return {"drafts": made.num_drafted, "drafts_right": made.num_right} if made else {}

    def check(self) -> None:
        """The invariants, cheap enough to look at whenever the engine is idle.

        Raises:
            RuntimeError: a slot is leaked or shared, or a request is lost.
        """
        self._seats.check()
        if set(self._rows) != {row.order.id for row in (*self._tenants.waiting, *self._seats.rows)}:
            raise RuntimeError("a request is neither waiting nor running")
        self._tenants.check(self.num_running)
        self.prefixes.pages.check()

    def _observe(self, step: Step, took_s: float) -> None:
        """Let the pace learn from a step; one that copied pages says nothing of what its tokens cost."""
        if any(part.pages for part in step):
            return
        decoding = (part for part in step if (row := self._rows.get(part.id)) and row.state is State.DECODE)
        num_decode = sum(len(part.tokens) for part in decoding)
        self.pace.observe(sum(len(part.tokens) for part in step) - num_decode, num_decode, took_s)

    def _giving_way_to(self, row: Row, ready: list[Row]) -> Row | None:
        """Who gives its slot to this one, that waits behind those who are `ready`; None if it goes on waiting.

        While there is no more room, the slots in use are all that there are.
        """
        tenant, num_slots = row.account, self.num_running + len(ready)
        if self._tenants.is_shared:
            num_own = tenant.num_running + sum(each.account is tenant for each in ready)
            greediest = self._tenants.greediest(num_slots, tenant.counter)
            if greediest is not None and num_own < self._tenants.share(tenant, num_slots):
                return self._seats.last(greediest.name)
        last = self._seats.last(row.order.tenant) if tenant.num_running else None
        return last if last is not None and last.gives_way_to(row) else None

    def _make_room(self) -> list[Event]:
        """Room for each running row's next token and the one behind it, the most urgent first."""
        events: list[Event] = []
        for row in sorted(self._seats.rows, key=RANK):
            while row.state is not State.WAITING and not self._seats.has_room(row):
                greediest = self._tenants.greediest(self.num_running) if self._tenants.is_shared else None
                events += self._suspend(self._seats.last(greediest.name if greediest else None))
        return events

    def _suspend(self, row: Row) -> list[Event]:
        """Its slot is free, and it waits again."""
        events = [*self.prefixes.stored(row), Preempted(row.order.id, row.slot, row.state is State.DECODE)]
        self._seats.give(row)
        row.suspend()
        self._tenants.stop(row)
        self.num_preempted += 1
        return events

    def _last_of(self, new: Row) -> Row:
        """Who is turned away from a full queue: of the tenant with most there the last that has not begun to answer."""
        tenant = self._tenants.fullest(new)
        rows = (row for row in (new, *self._tenants.waiting) if row.order.tenant == tenant)
        return max((row for row in rows if not row.num_own), key=RANK)

    def _turned_away(self, row: Row) -> Failed:
        retry_after_s = self._drain.wait_s(self.num_waiting)
        message = (
            f"{counted(self.num_waiting, 'request')} waiting already; try again in {retry_after_s:.0f} s"
        )
        return Failed(row.order.id, "overloaded", message, retry_after_s=retry_after_s)

    def _take(self, row: Row, token: int, now: float) -> list[Event]:
        row.tokens.append(token)
        events: list[Event] = []
        emitted = Emitted(row.order.id, token)
        if row.state is State.PREFILL:
            row.state = State.DECODE
            events += self.prefixes.stored(row)
        if row.num_own == 1:
            row.first_s, row.num_cached = now, min(row.num_copied, len(row.order.tokens))
            emitted = Emitted(row.order.id, token, *row.first_times_ms(), row.num_cached)
        order = row.order
        if token in self.stop_ids(order.id) and row.num_output >= order.min_tokens:
            return [*events, *self._end(order.id, "stop", now, token)]
        if row.num_output >= order.max_tokens:
            return [*events, emitted, *self._end(order.id, "length", now)]
        return [*events, emitted]

    def _end(self, order_id: str, reason: str, now: float, stop_id: int | None = None) -> list[Event]:
        row = self._rows[order_id]
        decode_ms = (now - row.first_s) * 1000 if row.num_own else 0.0
        counts = len(row.order.tokens), row.num_output
        stored = self.prefixes.stored(row)
        slot = self._leave(order_id)
        return [*stored, Ended(order_id, reason, *counts, decode_ms, slot, stop_id, row.num_cached)]

    def _leave(self, order_id: str) -> int | None:
        row = self._rows.pop(order_id)
        self._tenants.leave(row, is_waiting=row.state is State.WAITING)
        if row.state is State.WAITING:
            return None
        if self.num_waiting:
            self._drain.depart()
        self._seats.give(row)
        return row.slot

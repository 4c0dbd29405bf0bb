"""Which tokens of which requests the next step computes. Plain Python: no torch, no clock, no I/O.

`plan` says what to compute, `commit` takes the sampled tokens and says what happened. In every step each
running row gives one token, and prompts fill the rest of the budget by rank: by priority, and first come, first
served within one (`Row.rank`). `preempt` takes slots from rows of lower priority; they wait and go on later.

Rank orders the requests of one tenant. Between tenants it is the least served one's turn
(`inference.engine.tenants`), one that has less than its share of the slots takes one from who has most beyond it, and
a tenant with far more rows than the others does not have all of them in each step (`inference.engine.crowd`).

A request is in one of three states, WAITING (no slot), PREFILL (a slot, tokens not yet computed), DECODE (one
token to compute), and leaves by `commit`, `cancel` or `fail`, which free its slot at once.

Who has a slot is in `inference.engine.seats`, and where a prompt begins in `inference.engine.prefixes`.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from inference.engine.crowd import CROWD_FACTOR, awake, crowds, in_step, surplus
from inference.engine.drain import Drain
from inference.engine.events import Emitted, Ended, Event, Failed, Preempted, Segment, Step
from inference.engine.pace import MAX_PREFILL_TOKENS, MIN_PREFILL_TOKENS, Pace
from inference.engine.prefixes import Prefixes
from inference.engine.rows import Row, State
from inference.engine.seats import Seats
from inference.engine.slots import SlotPool
from inference.engine.tenants import ANSWER_COST, PROMPT_COST, RANK, Tenants
from wire.counted import counted

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from inference.engine.orders import Generate
    from inference.engine.tenants import Tenant

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
        self._turn = 0
        self._spare = 0.0
        """Tokens of surplus prompts that steps had time for."""
        self._drain = Drain()
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
        while self.num_waiting > (num_ready := self._num_ready):
            *ready, row = itertools.islice(self._tenants.in_turn(), num_ready + 1)
            last = self._giving_way_to(row, ready)
            if last is None:
                break
            events += self._suspend(last)
        return events + (self._make_room() if self._seats.grows else [])

    def plan(self, now: float) -> Step:
        """The next step: decode rows by slot first, then prompt chunks in their turn."""
        self._drain.pass_time(now, is_busy=self.num_waiting > 0)
        decoding = [row for row in self._seats.rows if row.state is State.DECODE]
        prompts = [row for row in self._seats.rows if row.state is State.PREFILL]
        prompts += itertools.islice(self._tenants.in_turn(), self._num_ready)
        if self._tenants.is_shared:
            self._turn += 1
            decoding = awake(decoding, prompts, self._tenants, self.pace, self._turn)
            if extra := surplus([*decoding, *prompts], self._tenants):
                return self._plan_crowded(decoding, prompts, extra, now)
        patience_s = min((row.token_s(now) for row in decoding), default=0.0) if prompts else 0.0
        budget = self.pace.prefill_tokens(len(decoding), len(prompts), patience_s)
        return (*_by_slot(decoding), *self._chunks(prompts, budget, now))

    def _plan_crowded(self, decoding: list[Row], prompts: list[Row], extra: set[Row], now: float) -> Step:
        """As if the surplus rows were not here, with as much of them as lengthens the step by a bounded part."""
        chosen = in_step(decoding, extra, self.pace, self._turn)
        num_usual = sum(row not in extra for row in decoding)
        self._spare = min(MAX_PREFILL_TOKENS, self._spare + self.pace.beside(num_usual, CROWD_FACTOR))
        beside = (
            int(self._spare) if self._spare >= MIN_PREFILL_TOKENS else 0
        )  # small chunks are dear: saved up
        if not beside and extra.issuperset(prompts):  # and nobody else waits for that
            prompts = self._ready_but(crowds(list(self._tenants.here))[0])
        num_new = sum(row not in extra for row in prompts)
        budget = self.pace.prefill_tokens(num_usual, num_new) if num_new else beside
        chunks = tuple(self._chunks(prompts, budget, now, extra, beside))
        self._spare -= sum(len(part.tokens) for part in chunks if self._rows[part.id] in extra)
        return (*_by_slot(chosen), *chunks)

    def commit(self, step: Step, tokens: Mapping[str, int], now: float, took_s: float) -> list[Event]:
        """The step was computed in `took_s`; `tokens` has the sampled token of each segment that samples.

        A row that failed meanwhile is simply no longer here; a sampling segment without a token is an
        error.

        Raises:
            KeyError: a row that samples got no token.
        """
        self._observe(step, took_s)
        events: list[Event] = []
        for part in step:
            if (row := self._rows.get(part.id)) is not None:
                if row.state is State.PREFILL:
                    row.account.serve(row.charge(part) * PROMPT_COST)
                row.receive(part)
                if part.samples:
                    row.account.serve(ANSWER_COST)
                    events += self._take(row, tokens[part.id], now)
        return events

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
        decoding = [row for part in step if (row := self._rows.get(part.id)) and row.state is State.DECODE]
        self.pace.observe(sum(len(part.tokens) for part in step) - len(decoding), len(decoding), took_s)

    @property
    def _num_ready(self) -> int:
        """How many of those who wait have room now."""
        return self._seats.num_fitting(self._tenants.in_turn())

    def _ready_but(self, those: list[Tenant]) -> list[Row]:
        """Who has room now of all who wait but the requests of `those`."""
        rows = [row for row in self._tenants.in_turn() if row.account not in those]
        return rows[: self._seats.num_fitting(rows)]

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
            if (pages := self.prefixes.before(row, ahead)) is not None:
                yield (chunk := row.segment(most, pages))
                budget -= len(chunk.tokens)
                beside -= len(chunk.tokens) * is_extra

    def _admit(self, row: Row, now: float) -> None:
        """Its slot, if it has none yet."""
        if row.state is State.WAITING and self._seats.take(row, now):
            self._tenants.start(row)

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


def _by_slot(rows: list[Row]) -> Iterator[Segment]:
    """Their next token each, in the order of their slots."""
    return (row.segment(1) for row in sorted(rows, key=lambda row: row.slot))

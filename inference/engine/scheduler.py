"""Which tokens of which requests the next step computes. Plain Python: no torch, no clock, no I/O.

`plan` says what to compute, `commit` takes the sampled tokens and says what happened. In every step each
running row gives one token, and prompts fill the rest of the budget in the order they came. A request is
in one of three states, WAITING (no slot), PREFILL (a slot, prompt not yet computed), DECODE (one token to
compute), and leaves by `commit`, `cancel` or `fail`, which free its slot at once.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from inference.engine.pace import Pace
from inference.engine.slots import SlotPool

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from inference.engine.orders import Generate

MAX_WAITING = 256
"""Requests without a slot; the node refuses earlier, with a Retry-After, by the figures in `stats`."""


class State(enum.Enum):
    """Where a request is."""

    WAITING = "waiting"
    PREFILL = "prefill"
    DECODE = "decode"


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive tokens of one row to compute: positions `start` to `start + len(tokens)` of its slot."""

    id: str
    slot: int
    start: int
    tokens: tuple[int, ...]
    samples: bool
    """The last token's logits give the row's next token."""


Step = tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class Emitted:
    """One new token of a request; the times are on its first token only."""

    id: str
    token: int
    queue_ms: float | None = None
    prefill_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """A request left and freed `slot`. `stop_id` ended it: counted in `num_output`, not emitted."""

    id: str
    reason: str
    num_prompt: int
    num_output: int
    decode_ms: float
    slot: int | None
    stop_id: int | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """A request left without an answer, or was never let in (`slot` is None)."""

    id: str
    code: str
    message: str
    slot: int | None = None


Event = Emitted | Ended | Failed


@dataclass(slots=True)
class _Row:
    order: Generate
    added_s: float
    state: State = State.WAITING
    slot: int = -1
    num_cached: int = 0
    output: list[int] = field(default_factory=list)
    admitted_s: float = 0.0
    first_s: float = 0.0

    def segment(self, most: int) -> Segment:
        pending = (
            (self.output[-1],) if self.state is State.DECODE else self.order.tokens[self.num_cached :][:most]
        )
        end = self.num_cached + len(pending)
        samples = self.state is State.DECODE or end == len(self.order.tokens)
        return Segment(self.order.id, self.slot, self.num_cached, pending, samples)


class Scheduler:
    """The requests of one engine. `eos_ids` end an answer unless its order says otherwise."""

    def __init__(
        self,
        num_slots: int,
        eos_ids: frozenset[int],
        *,
        max_waiting: int = MAX_WAITING,
        pace: Pace | None = None,
    ) -> None:
        self.pace = pace or Pace()
        self._slots = SlotPool(num_slots)
        self._eos_ids = eos_ids
        self._max_waiting = max_waiting
        self._rows: dict[str, _Row] = {}
        self._waiting: deque[str] = deque()
        self._running: list[str] = []  # in the order of admission

    @property
    def eos_ids(self) -> frozenset[int]:
        """The ids that end an answer unless its order says otherwise."""
        return self._eos_ids

    @property
    def num_waiting(self) -> int:
        """Requests without a slot."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Requests with a slot."""
        return len(self._running)

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
        return len(self._rows[order_id].output)

    def add(self, order: Generate, now: float) -> list[Event]:
        """Let a request in; it waits for a slot. `now` in seconds of any one clock."""
        if order.id in self._rows:
            return [Failed(order.id, "bad_request", "a request with this id is running")]
        if self.num_waiting >= self._max_waiting + self._slots.num_free:
            return [Failed(order.id, "overloaded", f"{self.num_waiting} requests are waiting already")]
        self._rows[order.id] = _Row(order, now)
        self._waiting.append(order.id)
        return []

    def cancel(self, order_id: str, now: float) -> list[Event]:
        """Drop a request in whatever state; one that is not here is no error (it may have ended just now)."""
        if order_id not in self._rows:
            return []
        return [self._end(order_id, "cancelled", now)]

    def fail(self, order_id: str, code: str, message: str) -> list[Event]:
        """Drop a request that cannot go on."""
        slot = self._leave(order_id)
        return [Failed(order_id, code, message, slot)]

    def plan(self, now: float) -> Step:
        """The next step: decode rows by slot first, then prompt chunks in the order the requests came."""
        decoding = [row for row in self._running_rows() if row.state is State.DECODE]
        segments = [row.segment(1) for row in sorted(decoding, key=lambda row: row.slot)]
        budget = self.pace.prefill_tokens(len(decoding))
        for row in self._prefilling(now):
            if budget <= 0:
                break
            segments.append(chunk := row.segment(budget))
            budget -= len(chunk.tokens)
        return tuple(segments)

    def commit(self, step: Step, tokens: Mapping[str, int], now: float, took_s: float) -> list[Event]:
        """The step was computed in `took_s`; `tokens` has the sampled token of each segment that samples.

        A row that failed meanwhile is simply no longer here; a sampling segment without a token is an
        error.

        Raises:
            KeyError: a row that samples got no token.
        """
        num_prefill = sum(len(part.tokens) for part in step if part.start < self._num_prompt(part.id))
        self.pace.observe(num_prefill, sum(len(part.tokens) for part in step) - num_prefill, took_s)
        events: list[Event] = []
        for part in step:
            if (row := self._rows.get(part.id)) is not None:
                row.num_cached = part.start + len(part.tokens)
                if part.samples:
                    events += self._take(row, tokens[part.id], now)
        return events

    def check(self) -> None:
        """The invariants, cheap enough to look at whenever the engine is idle.

        Raises:
            RuntimeError: a slot is leaked or shared, or a request is lost.
        """
        held = {self._rows[order_id].slot for order_id in self._running}
        if len(held) != len(self._running) or len(held) + self._slots.num_free != self._slots.num_slots:
            raise RuntimeError(
                f"slots held {sorted(held)}, free {self._slots.num_free} of {self._slots.num_slots}"
            )
        if set(self._rows) != {*self._waiting, *self._running}:
            raise RuntimeError("a request is neither waiting nor running")

    def _num_prompt(self, order_id: str) -> int:
        row = self._rows.get(order_id)
        return len(row.order.tokens) if row else 0

    def _running_rows(self) -> Iterator[_Row]:
        return (self._rows[order_id] for order_id in self._running)

    def _prefilling(self, now: float) -> Iterator[_Row]:
        yield from (row for row in list(self._running_rows()) if row.state is State.PREFILL)
        while self._waiting and (slot := self._slots.take()) is not None:
            row = self._rows[self._waiting.popleft()]
            row.slot, row.state, row.admitted_s = slot, State.PREFILL, now
            self._running.append(row.order.id)
            yield row

    def _take(self, row: _Row, token: int, now: float) -> list[Event]:
        row.output.append(token)
        is_first = row.state is State.PREFILL
        if is_first:
            row.state, row.first_s = State.DECODE, now
        order = row.order
        if token in self.stop_ids(order.id) and len(row.output) >= order.min_tokens:
            return [self._end(order.id, "stop", now, token)]
        emitted = Emitted(order.id, token, *self._first_times(row) if is_first else ())
        if len(row.output) >= order.max_tokens:
            return [emitted, self._end(order.id, "length", now)]
        return [emitted]

    @staticmethod
    def _first_times(row: _Row) -> tuple[float, float]:
        return (row.admitted_s - row.added_s) * 1000, (row.first_s - row.admitted_s) * 1000

    def _end(self, order_id: str, reason: str, now: float, stop_id: int | None = None) -> Ended:
        row = self._rows[order_id]
        decode_ms = (now - row.first_s) * 1000 if row.output else 0.0
        slot = self._leave(order_id)
        return Ended(order_id, reason, len(row.order.tokens), len(row.output), decode_ms, slot, stop_id)

    def _leave(self, order_id: str) -> int | None:
        row = self._rows.pop(order_id)
        if row.state is State.WAITING:
            self._waiting.remove(order_id)
            return None
        self._running.remove(order_id)
        self._slots.give(row.slot)
        return row.slot

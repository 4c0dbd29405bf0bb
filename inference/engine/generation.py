"""The step loop of a generating engine: orders, one step, messages."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from inference.engine.choose.grammar import PENDING_S, GrammarFault, Grammars
from inference.engine.choose.sample import Sampled, Sampler
from inference.engine.computing import Computing
from inference.engine.orders.asked import (
    PONG,
    Cancel,
    Embed,
    Generate,
    OrderRefused,
    Ping,
    Stop,
    Vocabulary,
)
from inference.engine.orders.reading import parse_order
from inference.engine.orders.telling import done_message, failed_message, stats_message, token_message
from inference.engine.steps.events import Emitted, Ended, Event, Failed, Preempted, Stored
from inference.usage.meter import Meter, cost_fields

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from inference.engine.attach.gates import Waits
    from inference.engine.choose.grammar import Follower
    from inference.engine.linear.packing import Packing
    from inference.engine.model import StepModel
    from inference.engine.orders.asked import Bounds
    from inference.engine.steps.gather import Gather
    from inference.engine.steps.scheduler import Scheduler
    from inference.engine.steps.slots import SlotPlan
    from inference.link import EngineLink, Message

STATS_S = 1.0
"""Between two `stats` messages while there is something to tell."""


class GenerateLoop:
    """Serves generation orders of one link until it is told to stop."""

    def __init__(
        self,
        link: EngineLink,
        scheduler: Scheduler,
        model: StepModel,
        gates: Waits | None,
        bounds: Bounds,
        room: SlotPlan,
        gather: Gather | None = None,
        meter: Meter | None = None,
        packing: Packing | None = None,
    ) -> None:
        """`gather`: until when the first step waits for those who come with the first request.

        `packing`: what to do while nobody asks, and a little of it between two tokens.
        """
        self._link = link
        self._gather = gather
        self._meter = meter or Meter()
        self._packing = packing
        self._scheduler = scheduler
        self._model = model
        self._gates = gates
        self._bounds = bounds
        self._room = room
        self._computing = Computing(model, scheduler)
        self._samplers = self._computing.samplers
        self._grammars = Grammars(bounds.vocab_size, scheduler.eos_ids)
        self._stopping = False
        self._stats_at_s = 0.0
        self._told: Message = {}

    def serve(self, ready: Message) -> None:
        """Say ready, then step until stopped and idle, or until the node is gone.

        Raises:
            EngineBroken: no request can be computed any more.
            LandingError: bytes of the weights will not land.
        """
        room = {
            "pongs": True,
            "slots": self._room.num_slots,
            "kv_bytes": self._room.kv_bytes,
            "max_len": self._room.max_len,
        }
        self._link.send([{**ready, **room}])
        while not self._link.closed and not (self._stopping and self._is_idle):
            for message in self._link.poll(self._patience_s()):
                self._hear(message)
            self._admit_compiled()
            if not self._scheduler.is_idle and not self._gathering_s:
                self._step()
            elif self._packing_s == 0:
                self._pack()
            self._tell_stats()

    @property
    def _is_idle(self) -> bool:
        return self._scheduler.is_idle and not self._grammars.num_pending

    def _patience_s(self) -> float | None:
        if not self._scheduler.is_idle:
            return self._gathering_s
        if self._grammars.num_pending:
            return PENDING_S
        if (packing_s := self._packing_s) is not None:
            return packing_s
        self._scheduler.check()
        return STATS_S if self._stats() != self._told else None

    @property
    def _gathering_s(self) -> float:
        return self._gather.patience_s(time.perf_counter()) if self._gather else 0.0

    @property
    def _packing_s(self) -> float | None:
        """Seconds until an idle engine packs; None if it need not."""
        wanted = self._packing if self._packing and self._packing.is_wanted else None
        return wanted.patience_s(time.perf_counter()) if wanted else None

    def _pack(self) -> None:
        if self._packing:
            self._packing.go_on(time.perf_counter())

    def _hear(self, message: Message) -> None:
        try:
            order = parse_order(message, self._bounds)
        except OrderRefused as refused:
            self._tell([Failed(refused.id, refused.code, refused.message)])
            return
        match order:
            case Generate():
                if self._gather:
                    self._gather.heard(time.perf_counter())
                self._add(order)
            case Vocabulary():
                self._grammars.learn(order)
            case Cancel():
                if (pending := self._grammars.cancel(order.id)) is not None:
                    self._tell([Ended(order.id, "cancelled", len(pending.tokens), 0, 0.0, None)])
                self._tell(self._scheduler.cancel(order.id, time.perf_counter()))
            case Ping():
                self._link.send([PONG])
            case Stop():
                self._stopping = True
            case Embed():
                self._tell(
                    [Failed(order.id, "bad_request", "this model generates text; it has no embeddings")]
                )

    def _add(self, order: Generate) -> None:
        if self._stopping:
            self._tell([Failed(order.id, "stopping", "this engine is stopping")])
            return
        if order.grammar is not None:
            self._grammars.begin(order)
            return
        self._admit(order, None)

    def _admit_compiled(self) -> None:
        for order, found in self._grammars.finished() if self._grammars.num_pending else ():
            if isinstance(found, GrammarFault):
                self._tell([Failed(order.id, "bad_grammar", str(found))])
            else:
                self._admit(order, found)

    def _admit(self, order: Generate, grammar: Follower | None) -> None:
        events = self._scheduler.add(order, time.perf_counter())
        if order.id in self._samplers:  # the other request of this id goes on
            self._link.send([failed_message(event) for event in events if isinstance(event, Failed)])
            return
        if order.id not in {event.id for event in events}:
            events += self._prepare(order, grammar)
        self._tell(events)

    def _prepare(self, order: Generate, grammar: Follower | None) -> list[Event]:
        """The order's sampler; its failure, if what it resumes cannot be."""
        try:
            self._samplers[order.id] = Sampler.of(order, self._scheduler.stop_ids(order.id), grammar)
        except GrammarFault as fault:
            return self._computing.fail(order.id, "bad_grammar", str(fault))
        return []

    def _step(self) -> None:
        started_ns, waited_before_ms = time.perf_counter_ns(), self._waited_ms
        started = started_ns / 1e9
        self._tell(self._scheduler.preempt(started))
        step = self._scheduler.plan(started)
        said, failed = self._computing.step(step)
        ended_ns, waited_ms = time.perf_counter_ns(), self._waited_ms - waited_before_ms
        took_ns = ended_ns - started_ns - int(waited_ms * 1e6)
        self._meter.step(((part.id, len(part.tokens), len(said.get(part.id, ()))) for part in step), took_ns)
        tokens = {order_id: sampled[-1].token for order_id, sampled in said.items()}
        num_right = {order_id: len(sampled) - 1 for order_id, sampled in said.items()}
        events = self._scheduler.commit(step, tokens, ended_ns / 1e9, took_ns / 1e9, num_right)
        self._tell([*failed, *events], said, waited_ms)
        self._between_passes()

    def _between_passes(self) -> None:
        """The tokens have left: who waits for the next ones waits a little longer for a copy, but nobody for these."""
        if self._packing and self._packing.is_wanted:
            self._packing.answered(time.perf_counter())
            if not self._scheduler.is_idle:
                self._pack()

    @property
    def _waited_ms(self) -> float:
        return self._gates.waited_ms if self._gates else 0.0

    def _tell(
        self, events: list[Event], said: Mapping[str, Sequence[Sampled]] | None = None, waited_ms: float = 0.0
    ) -> None:
        """Say what happened, then do what it asks of the model.

        Keeping a prompt's pages, the first ones above all, takes milliseconds of fresh memory: no token waits for it.
        """
        messages = self._newly_copied()
        tokens = {order_id: [*sampled] for order_id, sampled in (said or {}).items()}
        for event in events:
            match event:
                case Emitted():
                    sampled = tokens[event.id].pop(0)
                    was_guessed = bool(tokens[event.id])  # it stood before another one of the same step
                    messages.append(token_message(event, sampled, waited_ms, was_guessed=was_guessed))
                case Ended():
                    messages.append(done_message(event) | self._cost(event.id))
                case Failed():
                    messages.append(failed_message(event) | self._cost(event.id))
                case _:
                    pass
        if messages:
            self._link.send(messages)
        for event in events:
            self._keep(event)

    def _newly_copied(self) -> list[Message]:
        """What a gated start's copies took, before the end of the request whose receipt has it."""
        copied = self._gates.figures() if self._gates else {}
        if copied.keys() <= self._told.keys():
            return []
        self._told = self._stats()
        return [self._told]

    def _keep(self, event: Event) -> None:
        """What an event asks of slots and samplers, in the events' order; before anything else is computed."""
        match event:
            case Stored():
                self._model.store(event.slot, event.start, event.pages)
            case Ended():
                self._forget(event.id, event.slot, scrub=event.reason == "cancelled")
            case Failed():
                self._forget(event.id, event.slot, scrub=True)
            case Preempted():
                self._model.release(event.slot, scrub=not event.is_proven)
            case _:
                pass

    def _forget(self, order_id: str, slot: int | None, *, scrub: bool) -> None:
        if slot is not None:
            self._model.release(slot, scrub=scrub)
        self._samplers.pop(order_id, None)

    def _cost(self, order_id: str) -> Message:
        return cost_fields(self._meter.close(order_id))

    def _stats(self) -> Message:
        return stats_message(self._scheduler, self._gates)

    def _tell_stats(self) -> None:
        now = time.perf_counter()
        if now >= self._stats_at_s + STATS_S and (stats := self._stats()) != self._told:
            self._link.send([stats])
            self._told, self._stats_at_s = stats, now

"""An inference request at the edge: read, sent where its first token is soonest, and noted.

`edge/relay/lane.py` takes requests by a shorter way, and decides by the functions here.
"""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edge.choice.route import Asker, unknown_model
from edge.numbers import Numbers
from edge.refusals import refuse
from edge.relay import resume
from edge.relay.journey import Journey
from edge.relay.lane import EdgeLane, Judged
from edge.relay.told import Told
from regions.ask import MAX_BODY_BYTES, read_ask
from regions.map.headers import RESUME
from wire.refused.refusal import Refusal
from wire.timing import Phases
from wire.trace.context import TRACEPARENT

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from edge.admission.admit import Admission
    from edge.admission.quota import Use
    from edge.admission.rate import Buckets
    from edge.bounds import Bounds
    from edge.choice.route import Chooser, Decision
    from edge.orders import Orders
    from edge.relay.passing import Passing
    from edge.relay.relay import Relay
    from edge.rows.feed import Feed
    from regions.ask import Ask
    from wire.http.http1 import Headers, RequestHead
    from wire.listener.exchange import Exchange
    from wire.trace.tracer import Tracer

OK: Final = 200
PRIORITY: Final = b'"priority"'  # looked for in a body's bytes; a word too many sends one request too many
_UNTOLD: Final = nullcontext()


@dataclass(frozen=True, slots=True)
class Visit:
    """One request that was admitted and read."""

    exchange: Exchange
    admission: Admission
    ask: Ask
    body: bytes
    request_id: str
    phases: Phases
    told: Told | None


class Inference:
    """`serve` answers one request, `go_on` one that began on a lane and turned out unusual.

    With `pinned` they go to that region alone. `says` are headers of every answer.
    """

    def __init__(
        self,
        feed: Feed,
        buckets: Buckets,
        chooser: Chooser,
        relay: Relay,
        orders: Orders,
        bounds: Bounds,
        pinned: str | None,
        says: Headers = (),
        tracer: Tracer | None = None,
    ) -> None:
        self.feed = feed
        self.buckets = buckets
        self.chooser = chooser
        self.relay = relay
        self._orders = orders
        self.patiences, self.budgets, self.room = bounds.patiences, bounds.budgets, bounds.room
        self._quotas, self._figures, self.receipts = bounds.quotas, bounds.figures, bounds.receipts
        self._pinned = pinned
        self.numbers = Numbers()
        self.says = says
        self.tracer = tracer

    async def serve(
        self, exchange: Exchange, admission: Admission, request_id: str, now: float, *, may_leave: bool = True
    ) -> None:
        """Within the edge's room, which the body takes from before it is read until the answer is over.

        With `may_leave` a lane may be left with the connection. Raises Refusal.
        """
        num_bytes, model = _body_bytes(exchange.head), ""
        phases = Phases("edge", started=exchange.started)
        lasting = self._lasting(exchange, admission) if may_leave else None
        try:
            self.room.enter(num_bytes)
            try:
                with self._told(exchange, request_id) as told:
                    body = await exchange.read_body(MAX_BODY_BYTES)
                    ask = self._read(exchange.head, admission, body)
                    phases.mark("read")
                    model = ask.model
                    await self._within(Visit(exchange, admission, ask, body, request_id, phases, told), now)
                is_usual = not exchange.head.get(RESUME) and (
                    told is None or not exchange.head.get(TRACEPARENT)
                )
                if lasting is not None and exchange.status == OK and is_usual:
                    exchange.leave(EdgeLane(lasting, self))
            finally:
                self.room.leave(num_bytes, asyncio.get_running_loop().time() - now)
        except Refusal as refusal:
            if not exchange.status:
                path, total_ms = exchange.head.path, phases.total_ms()
                self.receipts.refused(admission, path, request_id, model, total_ms, refusal)
            raise

    async def go_on(self, exchange: Exchange, passing: Passing) -> None:
        """Raises Refusal inside an answer."""
        now, number = asyncio.get_running_loop().time(), passing.number.decode()
        journey = Journey(
            exchange,
            passing.lane.admission,
            passing.ask,
            passing.body,
            passing.decision,
            number,
            passing.phases(),
            passing.deadline,
            passing.patience,
            self.budgets.of(passing.ask.model, now, is_new=False),
            self.room,
            self.says,
            passed_on=passing.passed_on,
        )
        try:
            if passing.is_sent:
                await self.relay.serve(journey, _nothing, passing.upstream)
            else:
                await self.relay.serve(
                    journey, lambda: self.wake_near(passing.decision, passing.ask.model, now)
                )
        except Refusal as refusal:
            await refuse(exchange, refusal, number, self._figures, self.says, exchange.head.path)
        finally:
            self.receipts.travelled(journey)
            passing.leave(asyncio.get_running_loop().time())

    # also for a lane ----------------------------------------------------------------------------------------

    def refuse_unnamed(self, admission: Admission, ask: Ask) -> None:
        """Raises Refusal 404 for a model that the key does not name."""
        if not admission.grant.names(ask.model):
            raise unknown_model(ask.model, None if self._pinned is None else frozenset({self._pinned}))

    def choose(self, head: RequestHead, admission: Admission, ask: Ask, body: bytes, now: float) -> Decision:
        """Where it goes. Raises Refusal 404, 503."""
        return self.chooser.choose(ask, self._pinned, now, Asker(admission.grant.tenant, head, body))

    def wake_near(self, decision: Decision, model: str, now: float) -> None:
        """Order the near cold region to wake, if that is worth it."""
        if len(decision.choices) > 1 and (region := decision.prewarm()) is not None:
            self._orders.prewarm(region, model, now)

    # inside -------------------------------------------------------------------------------------------------

    def _read(self, head: RequestHead, admission: Admission, body: bytes) -> Ask:
        """What is asked for, by a key that may. Raises Refusal 400, 404."""
        ask = read_ask(head.path, body, self.feed.rules.aliases)
        self.refuse_unnamed(admission, ask)
        return ask

    def _told(self, exchange: Exchange, request_id: str) -> AbstractContextManager[Told | None]:
        """What will be told of a request, if it is one that is recorded."""
        trace = None if self.tracer is None else self.tracer.begin(exchange.head, exchange.started)
        return _UNTOLD if trace is None else Told(trace, exchange, request_id)

    def _lasting(self, exchange: Exchange, admission: Admission) -> Judged | None:
        """What lets requests of the same head go the short way from here on, while this policy is in force."""
        familiar = None if admission.grant.quota.is_bounded else exchange.familiar()
        return None if familiar is None else Judged(familiar, admission, self.feed.snapshot.policy)

    async def _within(self, visit: Visit, now: float) -> None:
        """Within its key's quota, if that has one."""
        quota = visit.admission.grant.quota
        if not quota.is_bounded:
            await self._sent(visit, now)
            return
        use = await self._quotas.enter(visit.admission.digest, quota, visit.ask, now)
        visit.phases.mark("quota")
        loop = asyncio.get_running_loop()
        try:
            await self._sent(visit, loop.time(), use)
        finally:
            use.end(visit.exchange.status or 0, loop.time())

    async def _sent(self, visit: Visit, now: float, use: Use | None = None) -> None:
        """To where it is answered soonest, which is decided `now`, in loop time."""
        head = visit.exchange.head
        decision = self.choose(head, visit.admission, visit.ask, visit.body, now)
        self._refuse_shut(visit, decision, now)
        visit.phases.mark("route")
        journey = self._journey(visit, decision, now, use)
        if visit.told is not None:
            visit.told.journey = journey
        if decision.start is not None:
            decision.start.enter()
        try:
            await self.relay.serve(journey, lambda: self.wake_near(decision, visit.ask.model, now))
        finally:
            self.receipts.travelled(journey)
            if decision.start is not None:
                decision.start.leave()

    def _refuse_shut(self, visit: Visit, decision: Decision, now: float) -> None:
        """Raises Refusal 429 where every region that could serve has as many of the tenant's requests as it takes.

        Not to one with a `priority`: the node may turn a less urgent one away for it.
        """
        who = visit.ask.model, visit.admission.grant.tenant
        wait_s = self.relay.holdoffs.shut_s(decision.choices[0].region, *who, now)
        if wait_s is not None and PRIORITY not in visit.body:
            text = f"{visit.ask.model} has as many of your requests as it takes; try again in {wait_s:.0f} s."
            raise Refusal(429, "overloaded", text, "rate_limit_error", retry_after_s=wait_s)

    def _journey(self, visit: Visit, decision: Decision, now: float, use: Use | None) -> Journey:
        ask, head = visit.ask, visit.exchange.head
        patience = self.patiences.of(ask, head.path)
        return Journey(
            visit.exchange,
            visit.admission,
            ask,
            visit.body,
            decision,
            visit.request_id,
            visit.phases,
            now + patience.total_s,
            patience,
            self.budgets.of(ask.model, now),
            self.room,
            self.says if use is None else (*self.says, *use.headers),
            use,
            resume.wanted(head, stream=ask.stream),
            told=visit.told,
        )


def _nothing() -> None:
    """It was done when the request was sent."""


def _body_bytes(head: RequestHead) -> int:
    """What a body may take: what its head says, or the most there may be."""
    said = MAX_BODY_BYTES if head.chunked else head.content_length or 0
    return min(said, MAX_BODY_BYTES)

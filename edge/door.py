"""The handler of the edge's listeners: admit, then do the one thing that was asked for."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final

from edge import models
from edge.admission.admit import USERS, Action, Admission, Admissions, Routes
from edge.choice.route import Asker, unknown_model
from edge.relay import resume
from edge.relay.journey import Journey
from edge.relay.lane import EdgeLane, Judged
from edge.told import Told
from regions.ask import MAX_BODY_BYTES, read_ask
from regions.map import REGION, REQUEST_ID, RESUME
from wire.dialect import error_body, id_headers
from wire.metrics import CONTENT_TYPE
from wire.refusal import Refusal
from wire.timing import Phases
from wire.trace.context import TRACEPARENT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from edge.admission.quota import Use
    from edge.admission.rate import Buckets
    from edge.bounds import Bounds
    from edge.choice.route import Chooser, Decision
    from edge.orders import Orders
    from edge.relay.passing import Passing
    from edge.relay.relay import Relay
    from edge.rows.feed import Feed
    from regions.ask import Ask
    from wire.exchange import Exchange
    from wire.http1 import Headers, RequestHead
    from wire.trace.tracer import Tracer

OK: Final = 200
_UNTOLD: Final = nullcontext()
JSON: Final = (("content-type", "application/json"),)
ORDER_PATHS: Final[Mapping[Action, str]] = {Action.COOL: "/control/cool", Action.PREWARM: "/control/prewarm"}

KEY_PATHS: Final[Mapping[Action, str]] = {
    Action.KEYS: "/control/keys/list",
    Action.MAKE_KEY: "/control/keys/make",
    Action.ROTATE_KEY: "/control/keys/rotate",
    Action.REVOKE_KEY: "/control/keys/revoke",
}


class Door:
    """`serve` is the handler of one listener: of its `routes`, and with `pinned` of that region alone.

    `says` are headers of every answer.
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
        routes: Routes = USERS,
        tracer: Tracer | None = None,
    ) -> None:
        self.feed = feed
        self.buckets = buckets
        self.chooser = chooser
        self.relay = relay
        self._orders = orders
        self.patiences, self.budgets, self.room = bounds.patiences, bounds.budgets, bounds.room
        self._quotas, self._siblings = bounds.quotas, bounds.siblings
        self.figures, self.receipts = bounds.figures, bounds.receipts
        self._pinned = pinned
        self.says = says
        self._admissions = Admissions(routes)
        self.tracer = tracer

    async def serve(self, exchange: Exchange) -> None:
        """Answer one request; a refusal carries the request id like every answer. Raises Refusal inside an answer."""
        request_id = f"req_{os.urandom(16).hex()}"
        try:
            admission = self._admissions.admit(exchange.head, self.feed.snapshot.policy)
            now = asyncio.get_running_loop().time()
            self._take_turn(admission, now)
            if admission.action is Action.INFER:
                await self._infer(exchange, admission, request_id, now)
            else:
                await self._do(exchange, admission, request_id)
        except Refusal as refusal:
            await self._refuse(exchange, refusal, request_id)

    async def serve_admitted(self, exchange: Exchange, admission: Admission, request_id: str) -> None:
        """The same for whoever admits by rules of its own; nothing is left with the connection. Raises Refusal."""
        now = asyncio.get_running_loop().time()
        self._take_turn(admission, now)
        if admission.action is Action.INFER:
            await self._infer(exchange, admission, request_id, now, may_leave=False)
        else:
            await self._do(exchange, admission, request_id)

    async def go_on(self, exchange: Exchange, passing: Passing) -> None:
        """The same for a request that began on a lane and turned out unusual. Raises Refusal inside an answer."""
        now = asyncio.get_running_loop().time()
        journey = Journey(
            exchange,
            passing.lane.admission,
            passing.ask,
            passing.body,
            passing.decision,
            passing.number.decode(),
            passing.phases(),
            passing.deadline,
            passing.patience,
            self.budgets.of(passing.ask.model, now, is_new=False),
            self.room,
            self.says,
            passed_on=passing.passed_on,
        )
        try:
            await self.relay.serve(journey, _nothing, passing.upstream)
        except Refusal as refusal:
            await self._refuse(exchange, refusal, passing.number.decode())
        finally:
            self.receipts.travelled(journey)
            passing.leave()

    async def _refuse(self, exchange: Exchange, refusal: Refusal, request_id: str) -> None:
        if exchange.status:
            raise refusal
        path = exchange.head.path
        self.figures.refusals.note(refusal, request_id, self._called(path))
        headers = (*refusal.headers(), *id_headers(path, request_id), *self.says)
        await exchange.respond(refusal.status, headers, error_body(path, refusal))

    def _called(self, path: str) -> str:
        """A path of ours; another's words are not repeated."""
        return path if self._admissions.routes.knows(path) else "an unknown path"

    def _take_turn(self, admission: Admission, now: float) -> None:
        wait_s = self.buckets.take(admission.digest, now) if admission.digest else None
        if wait_s is not None:
            text = "This key asks too often; wait as Retry-After says."
            raise Refusal(429, "rate_limit_exceeded", text, "requests", retry_after_s=wait_s)

    async def _do(self, exchange: Exchange, admission: Admission, request_id: str) -> None:
        snapshot, values, own = self.feed.snapshot, admission.values, (*self.says, (REQUEST_ID, request_id))
        match admission.action:
            case Action.HEALTH:
                await _say(exchange, {"status": "ok"}, own)
            case Action.MODELS:
                aliases = self.feed.rules.aliases
                await _say(exchange, models.listing(snapshot, self._pinned, admission.grant, aliases), own)
            case Action.MODEL:
                name = values["model"].replace("%2F", "/").replace("%2f", "/")
                name = self.feed.rules.aliases.get(name, name)
                await _say(exchange, models.one(snapshot, self._pinned, admission.grant, name), own)
            case Action.STATUS:
                await _say(exchange, self._orders.status(asyncio.get_running_loop().time()), own)
            case Action.METRICS:
                await exchange.respond(
                    200, (("content-type", CONTENT_TYPE), *own), await self._siblings.page()
                )
            case Action.FREEZE | Action.THAW:
                await self._siblings.freeze(frozen=admission.action is Action.FREEZE)
                await _say(exchange, self.feed.status(), own)
            case Action.COOL | Action.PREWARM:
                headers = (*own, (REGION, values["region"]))
                await self._orders.hand_on(exchange, values["region"], ORDER_PATHS[admission.action], headers)
            case Action.KEYS | Action.MAKE_KEY | Action.ROTATE_KEY | Action.REVOKE_KEY:
                await self._orders.about_keys(exchange, KEY_PATHS[admission.action], values, own)

    async def _infer(
        self, exchange: Exchange, admission: Admission, request_id: str, now: float, *, may_leave: bool = True
    ) -> None:
        """Within the edge's room, which the body takes from before it is read until the answer is over."""
        num_bytes, model = _body_bytes(exchange.head), ""
        phases = Phases("edge", started=exchange.started)
        lasting = self._lasting(exchange, admission) if may_leave else None
        try:
            self.room.enter(num_bytes)
            try:
                with self._told(exchange, request_id) as told:
                    body = await exchange.read_body(MAX_BODY_BYTES)
                    ask = self.read(exchange.head, admission, body)
                    phases.mark("read")
                    model = ask.model
                    await self._relayed(exchange, admission, ask, body, request_id, phases, now, told)
                is_usual = not exchange.head.get(RESUME) and (
                    told is None or not exchange.head.get(TRACEPARENT)
                )
                if lasting is not None and exchange.status == OK and is_usual:
                    exchange.leave(EdgeLane(lasting, exchange.line, self))
            finally:
                self.room.leave(num_bytes, asyncio.get_running_loop().time() - now)
        except Refusal as refusal:
            if not exchange.status:
                path, total_ms = exchange.head.path, phases.total_ms()
                self.receipts.refused(admission, path, request_id, model, total_ms, refusal)
            raise

    def _told(self, exchange: Exchange, request_id: str) -> AbstractContextManager[Told | None]:
        """What will be told of a request, if it is one that is recorded."""
        trace = None if self.tracer is None else self.tracer.begin(exchange.head, exchange.started)
        return _UNTOLD if trace is None else Told(trace, exchange, request_id)

    def _lasting(self, exchange: Exchange, admission: Admission) -> Judged | None:
        """What lets requests of the same head go the short way from here on, while this policy is in force."""
        familiar = None if admission.grant.quota.is_bounded else exchange.familiar()
        return None if familiar is None else Judged(familiar, admission, self.feed.snapshot.policy)

    async def _relayed(
        self,
        exchange: Exchange,
        admission: Admission,
        ask: Ask,
        body: bytes,
        request_id: str,
        phases: Phases,
        now: float,
        told: Told | None,
    ) -> None:
        quota = admission.grant.quota
        if not quota.is_bounded:
            await self._sent(exchange, admission, ask, body, request_id, phases, now, told=told)
            return
        use = await self._quotas.enter(admission.digest, quota, ask, now)
        phases.mark("quota")
        loop = asyncio.get_running_loop()
        try:
            await self._sent(exchange, admission, ask, body, request_id, phases, loop.time(), use, told)
        finally:
            use.end(exchange.status or 0, loop.time())

    async def _sent(
        self,
        exchange: Exchange,
        admission: Admission,
        ask: Ask,
        body: bytes,
        request_id: str,
        phases: Phases,
        now: float,
        use: Use | None = None,
        told: Told | None = None,
    ) -> None:
        decision = self.choose(exchange.head, admission, ask, body, now)
        phases.mark("route")
        patience = self.patiences.of(ask, exchange.head.path)
        journey = Journey(
            exchange,
            admission,
            ask,
            body,
            decision,
            request_id,
            phases,
            now + patience.total_s,
            patience,
            self.budgets.of(ask.model, now),
            self.room,
            self.says if use is None else (*self.says, *use.headers),
            use,
            resume.wanted(exchange.head, stream=ask.stream),
            told=told,
        )
        if told is not None:
            told.journey = journey
        if decision.start is not None:
            decision.start.enter()
        try:
            await self.relay.serve(journey, lambda: self.wake_near(decision, ask.model, now))
        finally:
            self.receipts.travelled(journey)
            if decision.start is not None:
                decision.start.leave()

    # also for a lane ----------------------------------------------------------------------------------------

    def read(self, head: RequestHead, admission: Admission, body: bytes) -> Ask:
        """What is asked for, by a key that may. Raises Refusal 400, 404."""
        ask = read_ask(head.path, body, self.feed.rules.aliases)
        self.refuse_unnamed(admission, ask)
        return ask

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


def _nothing() -> None:
    """It was done when the request was sent."""


def _body_bytes(head: RequestHead) -> int:
    """What a body may take: what its head says, or the most there may be."""
    said = MAX_BODY_BYTES if head.chunked else head.content_length or 0
    return min(said, MAX_BODY_BYTES)


async def _say(exchange: Exchange, value: Any, own: Headers) -> None:
    await exchange.respond(200, (*JSON, *own), json.dumps(value).encode())

"""The handler of the edge's listeners: admit, then do the one thing that was asked for."""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from edge import models, resume
from edge.admit import USERS, Action, Admission, Admissions, Routes
from edge.journey import Journey
from edge.route import Asker, unknown_model
from regions.ask import MAX_BODY_BYTES, read_ask
from regions.map import REGION, REQUEST_ID
from wire.dialect import error_body, id_headers
from wire.metrics import CONTENT_TYPE
from wire.refusal import Refusal
from wire.timing import Phases

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edge.budget import Budgets
    from edge.feed import Feed
    from edge.orders import Orders
    from edge.patience import Patiences
    from edge.quota import Quotas, Use
    from edge.rate import Buckets
    from edge.relay import Relay
    from edge.room import Room
    from edge.route import Chooser
    from regions.ask import Ask
    from wire.exchange import Exchange
    from wire.http1 import Headers, RequestHead
    from wire.metrics import Metrics

JSON: Final = (("content-type", "application/json"),)
ORDER_PATHS: Final[Mapping[Action, str]] = {Action.COOL: "/control/cool", Action.PREWARM: "/control/prewarm"}

KEY_PATHS: Final[Mapping[Action, str]] = {
    Action.KEYS: "/control/keys/list",
    Action.MAKE_KEY: "/control/keys/make",
    Action.ROTATE_KEY: "/control/keys/rotate",
    Action.REVOKE_KEY: "/control/keys/revoke",
}


class Bounds(NamedTuple):
    """What all listeners of one edge share: patience, repeats, what is held, what keys may use, and what is counted."""

    patiences: Patiences
    budgets: Budgets
    room: Room
    quotas: Quotas
    metrics: Metrics


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
    ) -> None:
        self._feed = feed
        self._buckets = buckets
        self._chooser = chooser
        self._relay = relay
        self._orders = orders
        self._patiences, self._budgets, self._room, self._quotas, self._metrics = bounds
        self._pinned = pinned
        self._says = says
        self._admissions = Admissions(routes)

    async def serve(self, exchange: Exchange) -> None:
        """Answer one request; a refusal carries the request id like every answer. Raises Refusal inside an answer."""
        request_id = f"req_{os.urandom(16).hex()}"
        try:
            admission = self._admissions.admit(exchange.head, self._feed.snapshot.policy)
            now = asyncio.get_running_loop().time()
            self._take_turn(admission, now)
            if admission.action is Action.INFER:
                await self._infer(exchange, admission, request_id, now)
            else:
                await self._do(exchange, admission, request_id)
        except Refusal as refusal:
            if exchange.status:
                raise
            path = exchange.head.path
            headers = (*refusal.headers(), *id_headers(path, request_id), *self._says)
            await exchange.respond(refusal.status, headers, error_body(path, refusal))

    def _take_turn(self, admission: Admission, now: float) -> None:
        wait_s = self._buckets.take(admission.digest, now) if admission.digest else None
        if wait_s is not None:
            text = "This key asks too often; wait as Retry-After says."
            raise Refusal(429, "rate_limit_exceeded", text, "requests", retry_after_s=wait_s)

    async def _do(self, exchange: Exchange, admission: Admission, request_id: str) -> None:
        snapshot, values, own = self._feed.snapshot, admission.values, (*self._says, (REQUEST_ID, request_id))
        match admission.action:
            case Action.HEALTH:
                await _say(exchange, {"status": "ok"}, own)
            case Action.MODELS:
                aliases = self._feed.rules.aliases
                await _say(exchange, models.listing(snapshot, self._pinned, admission.grant, aliases), own)
            case Action.MODEL:
                name = values["model"].replace("%2F", "/").replace("%2f", "/")
                name = self._feed.rules.aliases.get(name, name)
                await _say(exchange, models.one(snapshot, self._pinned, admission.grant, name), own)
            case Action.STATUS:
                await _say(exchange, self._orders.status(asyncio.get_running_loop().time()), own)
            case Action.METRICS:
                await exchange.respond(200, (("content-type", CONTENT_TYPE), *own), self._metrics.page())
            case Action.FREEZE | Action.THAW:
                await self._feed.freeze(frozen=admission.action is Action.FREEZE)
                await _say(exchange, self._feed.status(), own)
            case Action.COOL | Action.PREWARM:
                headers = (*own, (REGION, values["region"]))
                await self._orders.hand_on(exchange, values["region"], ORDER_PATHS[admission.action], headers)
            case Action.KEYS | Action.MAKE_KEY | Action.ROTATE_KEY | Action.REVOKE_KEY:
                await self._orders.about_keys(exchange, KEY_PATHS[admission.action], values, own)

    async def _infer(self, exchange: Exchange, admission: Admission, request_id: str, now: float) -> None:
        """Within the edge's room, which the body takes from before it is read until the answer is over."""
        num_bytes = _body_bytes(exchange.head)
        self._room.enter(num_bytes)
        try:
            await self._relayed(exchange, admission, request_id, now)
        finally:
            self._room.leave(num_bytes, asyncio.get_running_loop().time() - now)

    async def _relayed(self, exchange: Exchange, admission: Admission, request_id: str, now: float) -> None:
        phases = Phases("edge", started=exchange.started)
        body = await exchange.read_body(MAX_BODY_BYTES)
        ask = read_ask(exchange.head.path, body, self._feed.rules.aliases)
        if not admission.grant.names(ask.model):
            raise unknown_model(ask.model, None if self._pinned is None else frozenset({self._pinned}))
        phases.mark("read")
        quota = admission.grant.quota
        if not quota.is_bounded:
            await self._sent(exchange, admission, ask, body, request_id, phases, now)
            return
        use = await self._quotas.enter(admission.digest, quota, ask, now)
        phases.mark("quota")
        loop = asyncio.get_running_loop()
        try:
            await self._sent(exchange, admission, ask, body, request_id, phases, loop.time(), use)
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
    ) -> None:
        asker = Asker(admission.grant.tenant, exchange.head, body)
        decision = self._chooser.choose(ask, self._pinned, now, asker)
        phases.mark("route")
        patience = self._patiences.of(ask, exchange.head.path)
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
            self._budgets.of(ask.model, now),
            self._room,
            self._says if use is None else (*self._says, *use.headers),
            use,
            resume.wanted(exchange.head, stream=ask.stream),
        )

        def aside() -> None:
            if (region := decision.prewarm()) is not None:
                self._orders.prewarm(region, ask.model, now)

        await self._relay.serve(journey, aside)


def _body_bytes(head: RequestHead) -> int:
    """What a body may take: what its head says, or the most there may be."""
    said = MAX_BODY_BYTES if head.chunked else head.content_length or 0
    return min(said, MAX_BODY_BYTES)


async def _say(exchange: Exchange, value: Any, own: Headers) -> None:
    await exchange.respond(200, (*JSON, *own), json.dumps(value).encode())

"""The handler of the edge's listeners: admit, then do the one thing that was asked for."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final

from edge import anthropic, models
from edge.admission.admit import USERS, Action, Admission, Admissions, Routes
from edge.refusals import refuse
from regions.map.headers import REGION
from wire.dialect import id_headers, lists_for_anthropic, spoken_path
from wire.figures.metrics import CONTENT_TYPE
from wire.refused.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edge.bounds import Bounds
    from edge.infer import Inference
    from edge.orders import Orders
    from wire.http.http1 import Headers
    from wire.listener.exchange import Exchange

JSON: Final = (("content-type", "application/json"),)
ORDER_PATHS: Final[Mapping[Action, str]] = {Action.COOL: "/control/cool", Action.PREWARM: "/control/prewarm"}

KEY_PATHS: Final[Mapping[Action, str]] = {
    Action.KEYS: "/control/keys/list",
    Action.MAKE_KEY: "/control/keys/make",
    Action.ROTATE_KEY: "/control/keys/rotate",
    Action.REVOKE_KEY: "/control/keys/revoke",
}


class Door:
    """`serve` is the handler of one listener, of its `routes`; `inference` is what most come for.

    `pinned`: the listener of that region alone.
    """

    def __init__(
        self,
        inference: Inference,
        orders: Orders,
        bounds: Bounds,
        pinned: str | None,
        routes: Routes = USERS,
    ) -> None:
        self._inference = inference
        self.feed, self._buckets, self._says = inference.feed, inference.buckets, inference.says
        self._orders = orders
        self._siblings, self._figures = bounds.siblings, bounds.figures
        self._pinned = pinned
        self._admissions = Admissions(routes)

    async def serve(self, exchange: Exchange) -> None:
        """Answer one request; a refusal carries the request id like every answer. Raises Refusal inside an answer."""
        request_id = self._inference.numbers.next().decode()
        try:
            admission = self._admissions.admit(exchange.head, self.feed.snapshot.policy)
            now = asyncio.get_running_loop().time()
            self._take_turn(admission, now)
            if admission.action is Action.INFER:
                await self._inference.serve(exchange, admission, request_id, now)
            else:
                await self._do(exchange, admission, request_id)
        except Refusal as refusal:
            called = self._called(exchange.head.path)
            await refuse(exchange, refusal, request_id, self._figures, self._says, called)

    async def serve_admitted(self, exchange: Exchange, admission: Admission, request_id: str) -> None:
        """The same for whoever admits by rules of its own; nothing is left with the connection. Raises Refusal."""
        now = asyncio.get_running_loop().time()
        self._take_turn(admission, now)
        if admission.action is Action.INFER:
            await self._inference.serve(exchange, admission, request_id, now, may_leave=False)
        else:
            await self._do(exchange, admission, request_id)

    # inside -------------------------------------------------------------------------------------------------

    def _called(self, path: str) -> str:
        """A path of ours; another's words are not repeated."""
        return path if self._admissions.routes.knows(path) else "an unknown path"

    def _take_turn(self, admission: Admission, now: float) -> None:
        wait_s = self._buckets.take(admission.digest, now) if admission.digest else None
        if wait_s is not None:
            text = "This key asks too often; wait as Retry-After says."
            raise Refusal(429, "rate_limit_exceeded", text, "requests", retry_after_s=wait_s)

    async def _do(self, exchange: Exchange, admission: Admission, request_id: str) -> None:
        snapshot, values = self.feed.snapshot, admission.values
        own = (*self._says, *id_headers(spoken_path(exchange.head), request_id))
        match admission.action:
            case Action.HEALTH:
                await _say(exchange, {"status": "ok"}, own)
            case Action.MODELS:
                await _say(exchange, self._models(exchange, admission), own)
            case Action.MODEL:
                name = values["model"].replace("%2F", "/").replace("%2f", "/")
                name = self.feed.rules.aliases.get(name, name)
                found = models.one(snapshot, self._pinned, admission.grant, name)
                theirs = lists_for_anthropic(exchange.head)
                await _say(exchange, anthropic.one(found) if theirs else found, own)
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

    def _models(self, exchange: Exchange, admission: Admission) -> dict[str, Any]:
        """The list in the shape of the client that asks. Raises Refusal."""
        aliases = self.feed.rules.aliases
        found = models.listing(self.feed.snapshot, self._pinned, admission.grant, aliases)
        if lists_for_anthropic(exchange.head):
            return anthropic.page(found["data"], exchange.head.query)
        return found


async def _say(exchange: Exchange, value: Any, own: Headers) -> None:
    await exchange.respond(200, (*JSON, *own), json.dumps(value).encode())

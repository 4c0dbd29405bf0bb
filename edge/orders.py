"""The operators' side: what this edge knows of every region, and orders that it hands to one of them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

from regions.rows import region_body
from wire.dial import DialError
from wire.http.http1 import without_hop_headers
from wire.refused.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edge.certificates import Certificates
    from edge.pops.hear import Pops
    from edge.reach.region import Reach
    from edge.rows.feed import Feed
    from regions.rows import Heard
    from wire.http.http1 import Headers
    from wire.listener.exchange import Exchange

JSON: Final = (("content-type", "application/json"),)
MAX_ORDER_BYTES: Final = 16 << 10  # a key's grant; others are two short strings
MAX_ANSWER_BYTES: Final = 4 << 20  # a list of 6,000 keys
KEYS_S: Final = 15.0  # a few small objects of the home store, which has 10 s for them
ORDER_S: Final = 150.0  # a cool-down waits for the wake that is under way, and for the slot to be free
PREWARM_S: Final = 5.0  # the region answers at once
PREWARM_GAP_S: Final = 5.0  # between two orders for one model in one region: a wake takes about that
MAX_REMEMBERED: Final = 1024  # prewarm orders; older ones may be given again

log = logging.getLogger("nearfield.edge")


class Orders:
    """Status, cool and prewarm; also the prewarm that this edge orders by itself."""

    def __init__(
        self,
        name: str,
        feed: Feed,
        reaches: Mapping[str, Reach],
        home: str,
        hop_token: str,
        simulated_wan: str | None,
        certificates: Certificates,
        pops: Pops,
    ) -> None:
        self._name = name
        self._feed = feed
        self._reaches = reaches
        self._home = home
        self._headers: Headers = (("authorization", f"Bearer {hop_token}"), *JSON)
        self._simulated_wan = simulated_wan
        self._certificates = certificates
        self._pops = pops
        self._tasks: set[asyncio.Task[None]] = set()
        self._ordered: OrderedDict[tuple[str, str], float] = OrderedDict()

    def status(self, now: float) -> dict[str, Any]:
        """Every region as this edge sees it at `now` (loop time), and every edge as it has heard of it."""
        heard = self._feed.snapshot.regions
        return {
            **self.facts(),
            "edges": self._pops.told(now),
            "regions": {name: _seen(reach, heard.get(name), now) for name, reach in self._reaches.items()},
        }

    def facts(self) -> dict[str, Any]:
        """What is so of the edge itself."""
        return {
            "edge": self._name,
            "home": self._home,
            "simulated_wan": self._simulated_wan,
            "certificates": self._certificates.expiries(),
            "rows": self._feed.status(),
        }

    async def hand_on(self, exchange: Exchange, region: str, path: str, headers: Headers) -> None:
        """Send the order in the body to `path` of a region, and its answer back. Raises Refusal 404, 413, 502."""
        reach = self._reaches.get(region)
        if reach is None:
            known = ", ".join(self._reaches)
            raise Refusal(404, "not_found", f"There is no region {region}; there are {known}.")
        await self._send(exchange, reach, path, await exchange.read_body(MAX_ORDER_BYTES), headers, ORDER_S)

    async def about_keys(
        self, exchange: Exchange, path: str, values: Mapping[str, str], headers: Headers
    ) -> None:
        """Have the home region make, list, rotate or revoke a key. Raises Refusal 400, 413, 502."""
        try:
            order = json.loads(await exchange.read_body(MAX_ORDER_BYTES) or b"{}")
        except (ValueError, RecursionError) as error:
            raise Refusal(400, "bad_request", "Send one small JSON object.") from error
        if not isinstance(order, dict):
            raise Refusal(400, "bad_request", "Send one small JSON object.")
        body = json.dumps({**order, **values}).encode()
        await self._send(exchange, self._reaches[self._home], path, body, headers, KEYS_S)

    async def _send(
        self, exchange: Exchange, reach: Reach, path: str, body: bytes, headers: Headers, head_s: float
    ) -> None:
        try:
            answer = await reach.pool.request("POST", path, self._headers, body, head_s=head_s)
            text = await answer.read(MAX_ANSWER_BYTES)
        except DialError as error:
            message = f"Region {reach.name} did not take the order ({error}); try again."
            raise Refusal(502, "upstream_failed", message, "server_error") from error
        kept = without_hop_headers(answer.head.headers, {"content-length", "x-request-id"})
        await exchange.respond(answer.head.status, (*kept, *headers), text)

    def prewarm(self, region: str, model: str, now: float) -> None:
        """Have a region wake a model, without waiting for it; at most once in PREWARM_GAP_S."""
        if now - self._ordered.get((region, model), -PREWARM_GAP_S) < PREWARM_GAP_S:
            return
        self._ordered[region, model] = now
        self._ordered.move_to_end((region, model))
        if len(self._ordered) > MAX_REMEMBERED:
            self._ordered.popitem(last=False)
        task = asyncio.get_running_loop().create_task(self._prewarm(region, model))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Give up the orders that are under way."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _prewarm(self, region: str, model: str) -> None:
        body = json.dumps({"model": model}).encode()
        pool = self._reaches[region].pool
        try:
            answer = await pool.request("POST", "/control/prewarm", self._headers, body, head_s=PREWARM_S)
            await answer.read(MAX_ANSWER_BYTES, PREWARM_S)
        except DialError as error:
            log.info("region %s was not told to wake %s: %s", region, model, error)


def _seen(reach: Reach, heard: Heard | None, now: float) -> dict[str, Any]:
    fresh = heard is not None and heard.at >= 0  # not only from disk
    return {
        "heard_s": round(now - heard.at, 3) if heard is not None and fresh else None,
        "rtt_ms": None if reach.rtt_ms is None else round(reach.rtt_ms, 3),
        "breaker": str(reach.health.breaker),
        "body": region_body(heard.row) if heard is not None else None,
    }

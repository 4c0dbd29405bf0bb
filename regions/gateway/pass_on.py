"""A request for another region, passed on to its gateway: for edges whose own way there is cut. One hop, never two.

The ways to the other gateways are watched as an edge watches its own (`wire/ways/`), so an edge that is behind the
same cut hears at once that there is none from here either. The answer comes back as bytes. What breaks before its head
is a refusal that names the region; what breaks later cuts the edge, which tells its client. Signs of life before the
head are our own; inside a stream they are that region's.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from regions.ask import MAX_BODY_BYTES
from regions.gateway.trip import deadline_s
from regions.map.headers import FOR, PASSED_BY
from wire.address import split_address
from wire.dial import DialError
from wire.http.heads import without_hop_headers
from wire.refused.refusal import Refusal
from wire.ways.watch import watch
from wire.ways.way import Way

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from regions.gateway.pulse import Pulse
    from wire.dial import Answer, Pool
    from wire.http.http1 import Headers
    from wire.listener.exchange import Exchange

CONNECT_S: Final = (
    1.0  # the longest way there and back three times; behind the same cut, another region is asked next
)
QUIET_S: Final = 10.0  # five pulses of the other gateway missed: as an edge waits
BETWEEN_S: Final = 15.0
RETRY_S: Final = 1.0
_DROPPED: Final = frozenset({"host", "content-length", FOR})


@dataclass(frozen=True, slots=True)
class Peers:
    """The other regions' gateways: addresses by region; with `tls` both sides show a certificate of the fleet's own."""

    addresses: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    tls: ssl.SSLContext | None = None


@dataclass(slots=True, eq=False)
class Waiting:
    """A request that has no head yet, as Pulse follows it."""

    exchange: Exchange
    spoke: bool = True  # it came since the last beat

    def pulse(self, comment: bytes) -> None:
        """A sign of life."""
        self.exchange.pulse(comment)


class PassOn:
    """Connections to the other regions' gateways. `region` is our own name."""

    def __init__(self, region: str, peers: Peers, pulse: Pulse) -> None:
        self._region = region
        self._pulse = pulse
        self.ways = {
            name: Way(name, *split_address(address), peers.tls) for name, address in peers.addresses.items()
        }

    async def run(self) -> None:
        """Watches the ways until it is cancelled. None is kept for being the last: an edge can ask another region."""
        async with asyncio.TaskGroup() as group:
            group.create_task(watch(self.ways.values(), keeps_last=False))
            for way in self.ways.values():
                group.create_task(way.watch())

    async def close(self) -> None:
        """Closes all connections."""
        for way in self.ways.values():
            await way.close()

    async def serve(self, exchange: Exchange, wanted: str) -> None:
        """Passes one inference request on to the region `wanted`. Raises Refusal if no answer began."""
        head = exchange.head
        if head.get(PASSED_BY) is not None:
            text = f"Region {self._region} was asked for {wanted} by another gateway: one hop is all."
            raise Refusal(502, "upstream_failed", text, "server_error")
        way = self.ways.get(wanted)
        if way is None:
            raise Refusal(404, "not_found", f"Region {self._region} knows no region {wanted[:64]!r}.")
        if way.down:
            raise self._unreached(wanted, "down")
        body = await exchange.read_body(MAX_BODY_BYTES)
        headers = without_hop_headers(head.headers, _DROPPED)
        try:
            with self._pulse.follow(Waiting(exchange)):
                answer = await _ask(way.pool, exchange, (*headers, (PASSED_BY, self._region)), body)
        except DialError as error:
            raise self._unreached(wanted, error.phase) from error
        await _pass_back(exchange, answer)

    def _unreached(self, wanted: str, why: str) -> Refusal:
        text = f"Region {wanted} cannot be reached from {self._region} either ({why}); try again."
        return Refusal(503, "region_unavailable", text, "server_error", retry_after_s=RETRY_S)


async def _ask(pool: Pool, exchange: Exchange, headers: Headers, body: bytes) -> Answer:
    return await pool.request(
        "POST",
        exchange.head.path,
        headers,
        body,
        connect_s=CONNECT_S,
        head_s=deadline_s(exchange.head),
        quiet_s=QUIET_S,
        framed=True,
    )


async def _pass_back(exchange: Exchange, answer: Answer) -> None:
    async with answer:
        head = answer.head
        kept = without_hop_headers(head.headers, frozenset({"server", "content-length"}))
        await exchange.start(head.status, kept, head.content_length)
        try:
            while data := await answer.next(BETWEEN_S):
                await exchange.write(data)
        except DialError:
            exchange.abort()
            return
        await exchange.finish()

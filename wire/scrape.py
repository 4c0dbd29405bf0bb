"""The listener on which a role shows its figures: `GET /metrics`, and nothing else.

Default deny: without an address there is none. On a loopback address whoever is on this machine may read, by that
address's own name alone, so that no page in a browser can be led here by a name of its own. On any other address a
reader shows the fleet's metrics key, which opens nothing else.
"""

from __future__ import annotations

import ipaddress
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from wire.bearer import require_token
from wire.figures.metrics import CONTENT_TYPE, Metrics
from wire.http.limits import Limits
from wire.refused.refusal import Refusal
from wire.serve import Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from wire.listener.exchange import Exchange

PATH: Final = "/metrics"
LIMITS: Final = Limits(max_connections=64, max_per_address=64, total_s=30.0)  # a few readers, each a page


@dataclass(frozen=True, slots=True)
class Scrape:
    """Where a role shows its figures, and the key that a reader from elsewhere shows."""

    host: str
    port: int
    key: str = field(repr=False)

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine for itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@asynccontextmanager
async def scraped(
    scrape: Scrape | None, figures: Metrics | Callable[[], Awaitable[bytes]]
) -> AsyncIterator[int]:
    """`figures` can be read while this is open; the port is given, 0 where nobody is to read. Raises OSError."""
    if scrape is None:
        yield 0
        return

    async def serve(exchange: Exchange) -> None:
        if not scrape.is_local:
            require_token(exchange.head, scrape.key)
        if (exchange.head.method, exchange.head.path) != ("GET", PATH):
            raise Refusal(404, "not_found", f"Figures are at GET {PATH}, and nothing else is here.")
        page = figures.page() if isinstance(figures, Metrics) else await figures()
        await exchange.respond(200, (("content-type", CONTENT_TYPE),), page)

    names = frozenset({scrape.host, "localhost"}) if scrape.is_local else None
    server = await Server.start(serve, scrape.host, scrape.port, limits=replace(LIMITS, served_hosts=names))
    try:
        yield server.port
    finally:
        await server.close()

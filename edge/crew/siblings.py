"""What the processes of one edge ask of one another: the first adds up what all have counted, and passes orders on.

Each other process listens on a Unix socket in a folder of their own, for processes of our user alone. One that is just
being replaced says nothing: its counts began anew anyway, and what it must know it reads from disk when it starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from typing import TYPE_CHECKING, Final

from edge.crew.adding import added
from edge.receipts.kept import Flow
from wire.dial import DialError, Pool
from wire.figures.metrics import CONTENT_TYPE
from wire.refused.refusal import Refusal
from wire.serve import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edge.crew.place import Place
    from edge.rows.feed import Feed
    from wire.figures.metrics import Metrics
    from wire.listener.exchange import Exchange

ANSWER_S: Final = 2.0  # a sibling that takes longer is left out
METRICS: Final = "/metrics"
FLOW: Final = "/flow"
NO_FLOW: Final = Flow(0, {}, 0, {}, ())
FREEZE: Final = {True: "/freeze", False: "/thaw"}

log = logging.getLogger("nearfield.edge")


class Siblings:
    """This process's side of it; `place` None: an edge in one process, which has none."""

    def __init__(
        self, place: Place | None, feed: Feed, metrics: Metrics, flow: Callable[[int | None], Flow]
    ) -> None:
        self._place = place
        self._flow = flow
        self._feed = feed
        self._metrics = metrics
        others = range(1, place.size) if place is not None and place.is_first else range(0)
        self._others = [Pool("sibling", 0, path=str(place.folder / str(each))) for each in others if place]
        metrics.gauge("nearfield_edge_workers", "Processes of this edge.", lambda: (((), 1.0),))

    async def listen(self) -> Server | None:
        """The listener of a process that is not the first. Raises OSError."""
        if self._place is None or self._place.is_first:
            return None
        path = self._place.folder / str(self._place.index)
        path.unlink(missing_ok=True)  # its predecessor's
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(str(path))
        return await Server.start_unix(self._serve, sock)

    async def page(self) -> bytes:
        """The figures of the whole edge."""
        pages = await asyncio.gather(*(self._ask(pool, "GET", METRICS) for pool in self._others))
        return added([self._metrics.page(), *filter(None, pages)])

    async def flows(self, since: Sequence[int]) -> list[Flow]:
        """What each process carries, this one first, with its requests behind the first `since` of its own."""
        return await self._flows(since)

    async def counts(self) -> list[Flow]:
        """The same without any request."""
        return await self._flows([None] * self.size)

    async def _flows(self, since: Sequence[int | None]) -> list[Flow]:
        asked = [
            self._ask(pool, "GET", FLOW if num is None else f"{FLOW}?{num}")
            for pool, num in zip(self._others, since[1:], strict=True)
        ]
        said = await asyncio.gather(*asked)
        return [self._flow(since[0]), *(Flow(*json.loads(each)) if each else NO_FLOW for each in said)]

    @property
    def size(self) -> int:
        """Processes, this one among them."""
        return 1 + len(self._others)

    async def freeze(self, *, frozen: bool) -> None:
        """Every process takes no row any more, or takes them again. Raises OSError if that cannot be kept on disk."""
        await self._feed.freeze(frozen=frozen)
        await asyncio.gather(*(self._ask(pool, "POST", FREEZE[frozen]) for pool in self._others))

    async def close(self) -> None:
        """Ask nobody any more."""
        for pool in self._others:
            await pool.close()

    async def _ask(self, pool: Pool, method: str, path: str) -> bytes:
        """What it answers; nothing if it does not."""
        try:
            async with asyncio.timeout(ANSWER_S), await pool.request(method, path) as answer:
                return await answer.read()
        except (DialError, TimeoutError) as error:
            log.warning("a process of this edge does not answer: %s", error)
            return b""

    async def _serve(self, exchange: Exchange) -> None:
        asked = exchange.head.method, exchange.head.path
        if asked == ("GET", METRICS):
            await exchange.respond(200, (("content-type", CONTENT_TYPE),), self._metrics.page())
        elif asked in {("POST", path) for path in FREEZE.values()}:
            with contextlib.suppress(OSError):  # the first has kept it, or has told the operator why not
                await self._feed.freeze(frozen=asked[1] == FREEZE[True])
            await exchange.respond(200, (), b"")
        elif asked == ("GET", FLOW):
            query = exchange.head.query
            body = json.dumps(self._flow(int(query) if query else None)).encode()
            await exchange.respond(200, (("content-type", "application/json"),), body)
        else:
            raise Refusal(404, "not_found", "There is no such path.")

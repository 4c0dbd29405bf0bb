"""An edge tells the regions how it is, and hears from them of the other edges: for the console's map and `status`.

Only an edge that knows of others does so; one alone keeps its own counts. Each word goes over a connection of its own
to every region that is not down, so that it neither waits for requests nor is counted among them; the freshest word
that any region passes on is kept.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edge.pops.pace import Paces
from edge.pops.told import edge_body
from regions.pops import MAX_WORDS_BYTES, PERIOD_S, BadWordError, Passage, Word, encode, read_words
from wire.dial import DialError, Pool
from wire.secured.tls import hop_name

if TYPE_CHECKING:
    import ssl
    from collections.abc import Collection, Mapping

    from edge.crew.siblings import Siblings
    from edge.reach.region import Reach
    from wire.http.http1 import Headers

ANSWER_S: Final = 2.0  # a region that takes longer is asked again with the next word
OK: Final = 200

log = logging.getLogger("nearfield.edge")


@dataclass(frozen=True, slots=True)
class Other:
    """Another edge: what it said last, `heard_s` ago; None and None: nothing since this edge began."""

    word: Word | None
    heard_s: float | None


class Pops:
    """`known` are the other edges of the configuration; of any more that speak one hears too."""

    def __init__(
        self,
        edge: str,
        known: Collection[str],
        reaches: Mapping[str, Reach],
        siblings: Siblings,
        hop_tls: ssl.SSLContext | None,
        headers: Headers,
    ) -> None:
        self._edge = edge
        self._known = frozenset(known) - {edge}
        self._reaches = reaches
        self._siblings = siblings
        self._headers = (*headers, ("content-type", "application/json"))
        self._heard: dict[str, tuple[Word, float]] = {}
        self._own: Word | None = None
        self._paces = Paces()
        self._began = asyncio.get_running_loop().time()
        self._pools = {
            name: Pool(
                reach.pool.host,
                reach.pool.port,
                max_idle=1,
                tls=hop_tls,
                server_name=hop_name("region", name),
            )
            for name, reach in reaches.items()
        }

    def seen(self, now: float) -> dict[str, Other]:
        """The other edges at `now` (loop time)."""
        silent = {name: Other(None, None) for name in self._known}
        return silent | {name: Other(word, now - at) for name, (word, at) in self._heard.items()}

    def told(self, now: float) -> dict[str, dict[str, Any]]:
        """Every edge of the fleet for operators, this one first, at `now` (loop time)."""
        own = Other(self._own, 0.0)
        found = {self._edge: edge_body(own, self._paces.per_s(self._edge, now), is_self=True)}
        return found | {
            name: edge_body(other, self._paces.per_s(name, now), is_self=False)
            for name, other in sorted(self.seen(now).items())
        }

    async def keep(self) -> None:
        """Say and hear until cancelled; where no other edge is known, only count."""
        while True:
            await self.exchange_words()
            await asyncio.sleep(PERIOD_S)

    async def exchange_words(self) -> None:
        """Say one word to every region that answers, and take in what each has heard."""
        self._own = await self._word()
        self._paces.note(self._own, asyncio.get_running_loop().time())
        if not self._known:
            return
        body = encode(self._own)
        near = [name for name, reach in self._reaches.items() if not reach.down]
        await asyncio.gather(*(self._exchange(name, body) for name in near))

    async def close(self) -> None:
        """Close the connections."""
        for pool in self._pools.values():
            await pool.close()

    async def _word(self) -> Word:
        counts = await self._siblings.counts()
        regions = {
            name: Passage(
                sum(each.answered.get(name, 0) for each in counts),
                sum(each.busy.get(name, 0) for each in counts),
                reach.rtt_ms,
                reach.down,
            )
            for name, reach in self._reaches.items()
        }
        failed, up_s = sum(each.failed for each in counts), asyncio.get_running_loop().time() - self._began
        return Word(self._edge, self._siblings.size, failed, regions, round(up_s, 1))

    async def _exchange(self, region: str, body: bytes) -> None:
        try:
            async with asyncio.timeout(ANSWER_S):
                answer = await self._pools[region].request("POST", "/pops", self._headers, body)
                said = await answer.read(MAX_WORDS_BYTES)
            if answer.head.status == OK:  # else a region of before, which knows no such path
                self._take(said, asyncio.get_running_loop().time())
        except (DialError, TimeoutError, BadWordError) as error:
            log.info("region %s says nothing of other edges: %s", region, error)

    def _take(self, said: bytes, now: float) -> None:
        """Raises BadWordError."""
        for word, age_s in read_words(said):
            before = self._heard.get(word.edge)
            if word.edge != self._edge and (before is None or now - age_s > before[1]):
                self._heard[word.edge] = word, now - age_s
                self._paces.note(word, now - age_s)

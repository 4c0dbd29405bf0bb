"""The console's stream: while somebody looks, this edge is looked at once a second, and each page hears what is new.

Nobody looks, nothing runs. A page that takes its events slowly is waited for, alone, and then told what is so by then.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any, Final

from edge.console.guard import DATA
from edge.console.scene import Look, Scene, Seen
from wire.refused.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edge.crew.siblings import Siblings
    from edge.pops.hear import Other
    from edge.reach.region import Reach
    from edge.rows.feed import Feed
    from regions.map.region import ModelRow
    from regions.rows import Heard
    from wire.listener.exchange import Exchange

PERIOD_S: Final = 1.0  # as regions say their rows
MAX_PAGES: Final = 32
HEADERS: Final = (("content-type", "text/event-stream"), *DATA)
BYE: Final = b"event: bye\ndata: {}\n\n"


class Stage:
    """`others` are the fleet's other edges at a loop time, `facts` what else is said of this one each time."""

    def __init__(
        self,
        feed: Feed,
        reaches: Mapping[str, Reach],
        siblings: Siblings,
        others: Callable[[float], Mapping[str, Other]],
        facts: Callable[[], Mapping[str, Any]],
    ) -> None:
        self._feed = feed
        self._reaches = reaches
        self._siblings = siblings
        self._others = others
        self._facts = facts
        self._scene = Scene(siblings.size)
        self._num_pages = 0
        self._looking: asyncio.Task[None] | None = None
        self._looked = asyncio.Event()

    async def tell(self, exchange: Exchange, goes_on: Callable[[], bool]) -> None:
        """Tell one page all there is, then what changes, while it `goes_on`. Raises Refusal 503, Disconnected."""
        if self._num_pages >= MAX_PAGES:
            text = f"{MAX_PAGES} pages look already; close one."
            raise Refusal(503, "overloaded", text, "server_error", retry_after_s=PERIOD_S)
        self._enter()
        try:
            await exchange.start(200, HEADERS, first=b": nearfield console\n\n")
            told: dict[str, Mapping[str, ModelRow]] = {}
            num = 0
            while goes_on():
                num = await self._say(exchange, told, num)
                await self._looked.wait()
            await exchange.finish(BYE)
        finally:
            self._leave()

    async def close(self) -> None:
        """Look no more."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    def _enter(self) -> None:
        self._num_pages += 1
        if self._looking is None:
            self._scene.state = {}  # what was so when somebody last looked
            self._looking = asyncio.get_running_loop().create_task(self._look_on())

    def _leave(self) -> None:
        self._num_pages -= 1
        if not self._num_pages and self._looking is not None:
            self._looking.cancel()
            self._looking = None

    async def _say(self, exchange: Exchange, told: dict[str, Mapping[str, ModelRow]], num: int) -> int:
        """What is new to a page that has heard of `num` requests; how many it has heard of now."""
        scene = self._scene
        if not scene.state:
            return num
        await exchange.write(_event("state", scene.state))
        for piece in scene.models(told):
            await exchange.write(_event("models", piece))
        if receipts := scene.receipts(num):
            await exchange.write(_event("requests", receipts))
        return scene.num

    async def _look_on(self) -> None:
        """Until cancelled."""
        while True:
            self._scene.saw(await self._look())
            self._looked.set()
            self._looked.clear()
            await asyncio.sleep(PERIOD_S)

    async def _look(self) -> Look:
        flows = await self._siblings.flows(self._scene.cursors)
        now, heard = asyncio.get_running_loop().time(), self._feed.snapshot.regions
        regions = {name: _seen(reach, heard.get(name), now) for name, reach in self._reaches.items()}
        facts = {"at": round(time.time(), 3), "processes": self._siblings.size, **self._facts()}
        return Look(now, regions, flows, facts, self._others(now))


def _seen(reach: Reach, heard: Heard | None, now: float) -> Seen:
    heard_s = now - heard.at if heard is not None and heard.at >= 0 else None
    return Seen(heard, heard_s, reach.rtt_ms, str(reach.health.breaker), reach.down)


def _event(name: str, value: object) -> bytes:
    return f"event: {name}\ndata: {json.dumps(value, separators=(',', ':'))}\n\n".encode()

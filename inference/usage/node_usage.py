"""A node's usage: one record of each request that reached an engine, kept on disk and brought to the region's store."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from inference.usage.entry import Entry
from inference.usage.journal import SYNC_S, Journal, read_records
from inference.usage.own_log import read_log
from inference.usage.recovery import last_lines, read_dead
from inference.usage.ship import Ship, engines_told
from wire.figures.metrics import one
from wire.refused.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from inference.usage.book import Line, Record
    from inference.usage.entry import What, Who
    from inference.usage.meter import Account
    from inference.usage.ship import Bucket
    from wire.figures.metrics import Labels, Metrics

SEAL_S: Final = 10.0
"""Between two looks for records to seal and bring to the store: so much later they are seen by everybody."""
CLOSE_S: Final = 5.0
"""A node that stops brings its last records to the store for so long; else they are brought at its next start."""
RETRY_S: Final = 1.0
OUTSIDE: Final = "outside"
"""In place of a log's name: an external engine keeps none of ours."""
MODEL: Final = "model_name"

log = logging.getLogger("nearfield.node")


@dataclass(frozen=True, slots=True)
class Place:
    """Where usage is kept, and under which names the store has it."""

    region: str
    node: str
    folder: Path
    seal_s: float = SEAL_S


class EngineUsage:
    """The requests of one engine, by order. The engine keeps a log of its own under `name` in `folder`."""

    def __init__(self, folder: Path, name: str, on_gone: Callable[[str], None]) -> None:
        self.folder, self.name, self._on_gone = folder, name, on_gone
        self._entries: dict[str, Entry] = {}

    @property
    def path(self) -> Path:
        """Where the engine's log begins."""
        return self.folder / self.name

    def sent(self, entry: Entry, order_ids: list[str]) -> None:
        """A request's orders are about to go out."""
        entry.sent(self.name, order_ids)
        self._entries.update(dict.fromkeys(order_ids, entry))

    def ended(self, order_id: str, account: Account) -> None:
        """The engine has ended an order."""
        if (entry := self._entries.pop(order_id, None)) is not None:
            entry.cost(order_id, account)

    async def gone(self) -> None:
        """The engine's process is no more: what it did not say is in its log."""
        entries, self._entries = list(dict.fromkeys(self._entries.values())), {}
        if entries:
            told = await asyncio.to_thread(read_log, self.folder, self.name)
            for entry in entries:
                entry.lost(told.of)
        self._on_gone(self.name)


class NodeUsage:
    """`entry` for each request, `engine` for each engine. `tend` runs beside it, `close` seals and ships the rest."""

    def __init__(self, place: Place, store: Bucket | None, metrics: Metrics) -> None:
        """Raises OSError: the folder cannot be used."""
        self._place = place
        self._engines = place.folder / "engines"
        self._engines.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._journal = Journal(place.folder)
        self._facts = {"region": place.region, "node": f"{place.node}-{self._journal.id}"}
        self._ship = Ship(store, place.region, self._facts["node"])
        self._boot = f"{time.time_ns():x}"
        self._num_engines = self._num_outside = 0
        self._running: set[str] = set()
        self._stop = asyncio.Event()
        self._has_news = asyncio.Event()  # a line was written, or the end has come
        self._stopped = asyncio.Event()
        self._left = [dict(lines) for lines in self._journal.book.unfinished()]
        self._device_us: Counter[str] = Counter()
        self._add_figures(metrics)

    def check(self) -> None:
        """Raises Refusal: what a request uses now could not be written down."""
        if not self._journal.takes_more:
            self._journal.retry()
        if not self._journal.takes_more:
            message = "This node cannot write down what is used: its disk takes nothing. Another may answer."
            raise Refusal(503, "usage_unwritten", message, "server_error", retry_after_s=RETRY_S)

    def entry(self, who: Who, what: What, num_prompt: int) -> Entry:
        """A request that is about to be sent to an engine."""
        return Entry(who, what, num_prompt, self._write)

    def outside(self, entry: Entry) -> str:
        """It goes to an engine that keeps no log of ours; its one order's name."""
        self._num_outside += 1
        order_id = str(self._num_outside)
        entry.sent(f"{OUTSIDE}-{self._boot}", [order_id])
        return order_id

    def engine(self) -> EngineUsage:
        """An engine is about to start."""
        self._num_engines += 1
        name = f"{self._boot}-{self._num_engines}"
        self._running.add(name)
        return EngineUsage(self._engines, name, self._running.discard)

    async def tend(self) -> None:
        """Sync, seal and ship until `close`; first what an earlier node of this folder left."""
        try:
            await self._bring()
            while not self._stop.is_set():
                await self._until_due()
                await self._bring()
        finally:
            self._stopped.set()

    async def close(self) -> None:
        """No engine is left: seal what there is, and bring it to the store if that answers."""
        self._stop.set()
        self._has_news.set()
        await self._stopped.wait()
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._bring()
        except TimeoutError:
            log.warning("usage stays on this host until the node starts again")
        self._journal.close()

    async def _until_due(self) -> None:
        """Sync what is written until it is time to seal. Where nothing is written there is nothing to do."""
        loop = asyncio.get_running_loop()
        due = loop.time() + self._place.seal_s
        while loop.time() < due and not self._stop.is_set():
            if not self._journal.is_behind:
                await self._news(due)
                continue
            await asyncio.sleep(SYNC_S)
            self._journal.retry()
            await self._journal.sync()

    async def _news(self, until: float) -> None:
        """Wait for a line or the end, at most `until` a loop time."""
        self._has_news.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self._has_news.wait()

    def told(self) -> dict[str, Any]:
        """What no store has yet: records, requests that run, the engines' own logs; all of one moment of this loop."""
        book = self._journal.book
        return {
            **self._facts,
            "boot": self._boot,
            "open": [lines["open"] for lines in book.unfinished()],
            "records": [*self._sealed(), *map(self._placed, book.complete)],
            "engines": engines_told(self._engines),
            "unwritten": self._journal.num_unwritten,
        }

    def _sealed(self) -> list[Record]:
        return [record for path in self._journal.waiting() for record in read_records(path)]

    def _placed(self, record: Record) -> Record:
        return self._facts | record

    async def _bring(self) -> None:
        try:
            await self._recover()
            while await self._journal.seal(self._placed):
                pass
            await self._ship.records(self._journal.waiting())
            await self._ship.logs(self._engines, self._is_settled)
        except OSError as error:
            log.warning("usage waits on this host: %s", error)

    async def _recover(self) -> None:
        """Give the requests of an earlier node their ends."""
        if not self._left:
            return
        names = {lines["open"]["log"] for lines in self._left}
        told = await asyncio.to_thread(read_dead, self._engines, names)
        for line in last_lines(self._left, told):
            self._write(line)
        self._left = [lines for lines in self._left if lines["open"]["log"] not in told]

    def _is_settled(self, name: str) -> bool:
        return name not in self._running and all(lines["open"]["log"] != name for lines in self._left)

    def _write(self, line: Line) -> None:
        record = self._journal.append(line)
        self._has_news.set()
        if record is not None and self._boot in record["log"]:
            self._count(record)

    def _add_figures(self, metrics: Metrics) -> None:
        self._requests = metrics.counter(
            "nearfield_usage_requests_total", "Requests written down as used.", MODEL, "outcome"
        )
        self._tokens = metrics.counter(
            "nearfield_usage_tokens_total", "Tokens written down as used.", MODEL, "type"
        )
        metrics.total("nearfield_usage_device_seconds_total", "Of steps.", self._read_device, MODEL)
        journal = self._journal
        metrics.gauge(
            "nearfield_usage_waiting_records", "In no store yet.", lambda: one(journal.book.num_complete)
        )
        metrics.gauge(
            "nearfield_usage_waiting_files", "In no store yet.", lambda: one(len(journal.waiting()))
        )
        metrics.gauge(
            "nearfield_usage_unwritten_lines",
            "The disk took none of them.",
            lambda: one(journal.num_unwritten),
        )

    def _count(self, record: Record) -> None:
        model = record["model"]
        self._requests.add(1, model, record["outcome"])
        for kind in ("prompt", "cached", "completion", "computed"):
            self._tokens.add(record[f"{kind}_tokens"], model, kind)
        self._device_us[model] += record["device_us"]

    def _read_device(self) -> Iterator[tuple[Labels, float]]:
        return (((model,), us / 1e6) for model, us in self._device_us.items())

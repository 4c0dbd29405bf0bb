"""Usage read back: every record and every engine's own log, from a region's store and from nodes that answer."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from regions.map.names import SYSTEM_BUCKET
from regions.usage.reconcile import EngineLog, Logs, Running
from regions.usage.record import Record, RecordError, read_records, records_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from storage.client.sdk import S3

PREFIX: Final = "usage/"
ENGINES: Final = "engines"
LIVE: Final = "live"
NUM_AT_ONCE: Final = 8


@dataclass(slots=True)
class Found:
    """What was read so far."""

    records: list[Record] = field(default_factory=list)
    logs: Logs = field(default_factory=dict)
    running: list[Running] = field(default_factory=list)

    def log(self, node: str, name: str) -> EngineLog:
        """An engine's log, to be added to."""
        return self.logs.setdefault((node, name), EngineLog())

    def take_object(self, key: str, data: bytes) -> None:
        """One object under PREFIX. Raises RecordError."""
        _, _, node, folder, name = key.split("/", 4)
        if folder != ENGINES:
            self.records += read_records(data)
            return
        engine, part, _ = name.rsplit(".", 2)
        try:
            values = [json.loads(line) for line in data.splitlines() if line]
            self._take_log(self.log(node, engine), part, values)
        except (ValueError, KeyError, TypeError) as cause:
            raise RecordError(f"{key} is no engine's log: {cause}") from cause

    def _take_log(self, log: EngineLog, part: str, values: list[dict[str, Any]]) -> None:
        if part == LIVE:
            (said,) = values
            log.total_us = int(said["total_us"])
            for order, figures in said["running"].items():
                log.orders.setdefault(order, _figures(figures))
            return
        for each in values:
            log.orders[str(each["order"])] = _figures([each["computed"], each["sampled"], each["us"]])

    def take_node(self, said: Mapping[str, Any]) -> None:
        """What a node says at `/usage`. Raises RecordError."""
        try:
            node = str(said["node"])
            self.records += records_of(said["records"])
            for name, value in said["engines"].items():
                log = self.log(node, name)
                for order, figures in (value["running"] | value["ended"]).items():
                    log.orders[order] = _figures(figures)
            orders = [(each["log"], *each["orders"]) for each in said["open"]]
            opened = {(log, str(first + number)) for log, first, num in orders for number in range(num)}
            self.running.append(Running(node, str(said["boot"]), frozenset(opened), str(said["metrics"])))
        except (KeyError, TypeError, ValueError) as cause:
            raise RecordError(f"no usage of a node: {cause}") from cause


def _figures(value: Any) -> tuple[int, int, int]:
    computed, sampled, us = (int(each) for each in value)
    return computed, sampled, us


async def read_store(
    store: S3, found: Found, since: str = "", heard: Callable[[], None] = lambda: None
) -> None:
    """Every object of a region's store; with `since`, only records, of days from then on. `heard` is called for each.

    Raises ExceptionGroup of StoreError and RecordError.
    """
    turn = asyncio.Semaphore(NUM_AT_ONCE)

    async def take(key: str) -> None:
        async with turn:
            found.take_object(key, (await store.get(SYSTEM_BUCKET, key)).data)
            heard()

    async with asyncio.TaskGroup() as group:
        async for key in _keys(store, since):
            group.create_task(take(key))


async def _keys(store: S3, since: str) -> AsyncIterator[str]:
    async for entry in store.list(SYSTEM_BUCKET, PREFIX):
        place = entry.key.split("/")
        if len(place) == 5 and (not since if place[3] == ENGINES else place[3] >= since):
            yield entry.key

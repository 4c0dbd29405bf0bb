"""Usage on its way to the region's store: each file once, under a key that says whose it is, never written over.

`usage/REGION/NODE/DAY/SEQ.jsonl` are records, `usage/REGION/NODE/engines/NAME.PART.jsonl` an engine's own log. A file
that is sent again after a crash meets itself there; it is deleted here once the store has its very bytes.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final, Protocol

from inference.usage.own_log import Told, live_path, parts_of, read_log
from regions.map.names import SYSTEM_BUCKET

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from inference.usage.meter import Account

PREFIX: Final = "usage"
KEPT_PARTS: Final = 2
"""Of a running engine's log: what its node has not heard of yet is in the last ones."""
LIVE: Final = "live"


class Bucket(Protocol):
    """A store as this file uses it."""

    async def put_once(self, bucket: str, key: str, data: bytes) -> bool:
        """Put an object where there is none. Whether these very bytes are there now. Raises OSError: not now."""


class Ship:
    """Brings one node's files to one store; without a store they stay."""

    def __init__(self, store: Bucket | None, region: str, node: str) -> None:
        self._store, self._root = store, f"{PREFIX}/{region}/{node}"

    async def records(self, paths: Iterable[Path]) -> None:
        """Sealed files, `DAY-SEQ.jsonl`. Raises OSError: the store is away, or has other bytes under that key."""
        for path in paths:
            day, _, number = path.stem.rpartition("-")
            await self._bring(path, f"{day}/{number}.jsonl")

    async def logs(self, folder: Path, is_settled: Callable[[str], bool]) -> None:
        """What is finished of engines' logs; `is_settled`: its engine is gone, and all of its orders are booked."""
        for name in engine_names(folder):
            parts, settled = parts_of(folder, name), is_settled(name)
            if settled:
                await self._last_words(folder, name)
            for path in parts if settled else parts[:-KEPT_PARTS]:
                await self._bring(path, f"engines/{path.stem}.jsonl")
            if settled and self._store is not None:
                live_path(folder, name).unlink(missing_ok=True)

    async def _last_words(self, folder: Path, name: str) -> None:
        """Of an engine that is gone: the sum of its steps, and the orders that it had when it went."""
        if live_path(folder, name).exists():
            told = await asyncio.to_thread(read_log, folder, name)
            data = json.dumps({"total_us": told.total_us, "running": orders_value(told.running)}).encode()
            await self._put(f"engines/{name}.{LIVE}.jsonl", data + b"\n")

    async def _bring(self, path: Path, key: str) -> None:
        if await self._put(key, await asyncio.to_thread(path.read_bytes)):
            await asyncio.to_thread(path.unlink, missing_ok=True)

    async def _put(self, key: str, data: bytes) -> bool:
        if self._store is None:
            return False
        if await self._store.put_once(SYSTEM_BUCKET, f"{self._root}/{key}", data):
            return True
        raise OSError(f"the store has other bytes at {self._root}/{key}")


def engine_names(folder: Path) -> list[str]:
    """The engines of which there is a log here, oldest first."""
    return sorted({path.name.split(".")[0] for path in folder.glob("*.*")})


def engines_told(folder: Path) -> dict[str, Any]:
    """Those logs as they are now."""
    return {name: told_value(read_log(folder, name)) for name in engine_names(folder)}


def told_value(told: Told) -> dict[str, Any]:
    """A log as JSON."""
    return {
        "ended": orders_value(told.ended),
        "running": orders_value(told.running),
        "total_us": told.total_us,
    }


def orders_value(orders: dict[str, Account]) -> dict[str, list[int]]:
    """Each order's figures: computed, sampled, microseconds."""
    return {order: [each.computed, each.sampled, each.us] for order, each in orders.items()}

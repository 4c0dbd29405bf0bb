"""The home gateway's routes for API keys: list, make, rotate, revoke. Orders are small JSON objects, read strictly."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any, Final, TypeVar

from regions.keys.book import MAX_OVERLAP_S
from regions.keys.record import GRANTED, ID_CHARS, told
from regions.map.policy import ALL_MODELS, KeyGrant
from storage.client.sdk import StoreError
from weights_cache.model.strict import StrictError, fields, hexadecimal, integer, parse
from wire.flow import in_task
from wire.refused.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from regions.keys.book import KeyBook
    from regions.keys.record import KeyRecord
    from weights_cache.model.strict import Table
    from wire.listener.exchange import Exchange

T = TypeVar("T")

MAX_ORDER_BYTES: Final = 16 << 10
STORE_S: Final = 10.0  # a store that is stopped takes connections and answers nobody
RETRY_S: Final = 1.0  # after the store did not answer
JSON: Final = (("content-type", "application/json"),)
NO_QUOTA: Final = {"requests_per_min": 0, "tokens_per_min": 0, "streams": 0, "weight": 1}
DEFAULTS: Final[Mapping[str, Any]] = {
    "name": "",
    "scopes": ["infer"],
    "models": list(ALL_MODELS),
    "expires_s": 0,
    "quota": NO_QUOTA,
}
_NAMED: Final[Table] = {"id": hexadecimal(ID_CHARS)}
_ROTATE: Final[Table] = {**_NAMED, "overlap_s": integer(0, MAX_OVERLAP_S)}


class KeyDesk:
    """`book` is None in every region but home, where there is nothing to write to."""

    def __init__(self, book: KeyBook | None) -> None:
        self._book = book

    async def ls(self, exchange: Exchange) -> None:
        """Every key, oldest first, without anything that opens a door."""
        records = await _stored(self._home().records())
        await _say(exchange, 200, {"keys": [_shown(each) for each in records]})

    async def make(self, exchange: Exchange) -> None:
        """A new key, told here and never again."""
        order = await _order(exchange, GRANTED, DEFAULTS)
        if not order["scopes"] or not order["models"]:
            raise Refusal(400, "bad_request", "A key needs one scope and one model at least.")
        if order["expires_s"] and order["expires_s"] <= time.time():
            raise Refusal(400, "bad_request", "The key would have ended already.", param="expires_s")
        names = ("tenant", "models", "expires_s", "quota")
        grant = KeyGrant(scopes=frozenset(order["scopes"]), **{name: order[name] for name in names})
        key, record = await _stored(self._home().make(grant, order["name"]))
        await _say(exchange, 201, {"key": key, **_shown(record)})

    async def rotate(self, exchange: Exchange) -> None:
        """A new key that grants what the old one does, which goes on for `overlap_s` seconds."""
        order = await _order(exchange, _ROTATE, {"overlap_s": 0})
        key, record = await _stored(self._home().rotate(order["id"], order["overlap_s"]))
        await _say(exchange, 201, {"key": key, **_shown(record)})

    async def revoke(self, exchange: Exchange) -> None:
        """An end to a key; edges hear of it with the next policy row, within a second."""
        order = await _order(exchange, _NAMED, {})
        await _say(exchange, 200, _shown(await _stored(self._home().revoke(order["id"]))))

    def _home(self) -> KeyBook:
        if self._book is None:
            raise Refusal(404, "not_found", "Keys are kept in the home region.")
        return self._book


async def _stored(work: Awaitable[T]) -> T:
    """Awaits what the store is asked for; its failures are the caller's to try again."""
    await in_task()  # the SDK keeps context variables, and so wants one context from begin to end
    try:
        async with asyncio.timeout(STORE_S):
            return await work
    except (StoreError, TimeoutError) as error:
        text = f"The home region's store {_fault(error)}; look whether it was done, then try again."
        raise Refusal(503, "store_unavailable", text, "server_error", retry_after_s=RETRY_S) from error


def _fault(error: StoreError | TimeoutError) -> str:
    """In words: a store that is full or refuses does answer."""
    if isinstance(error, StoreError):
        return f"did not do it ({error})" if error.status else f"does not answer ({error.message})"
    return f"has not answered for {STORE_S:.0f} s"


async def _order(exchange: Exchange, table: Table, defaults: Mapping[str, Any]) -> dict[str, Any]:
    try:
        value = parse(await exchange.read_body(MAX_ORDER_BYTES) or b"{}", MAX_ORDER_BYTES)
        return fields({**defaults, **value} if isinstance(value, dict) else value, table, "order")
    except StrictError as error:
        raise Refusal(400, "bad_request", f"{error}.") from error


def _shown(record: KeyRecord) -> dict[str, Any]:
    return {"id": record.id, **told(record)}


async def _say(exchange: Exchange, status: int, value: dict[str, Any]) -> None:
    await exchange.respond(status, JSON, json.dumps(value).encode())

"""What changed below a prefix: from the store's own feed, or from listing any other S3 again and again.

Readers are level-triggered: a change only says *look again*, so a change told twice, or late, costs a look.
Both implementations begin the same way: `since=START` answers at once, with every key there is.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from storage.client.sdk import StoreError, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable

    from regions.objects.together import Told

log = logging.getLogger("nearfield.regions")

START = -1  # our store's own word for "only the end of the feed, please"
EXPIRED = "EventsExpired"  # our store's code for "those lines are gone: list"
WAIT_S = 20.0  # one long poll of our store's feed
LIST_PERIOD_S = 1.0  # between two listings of another S3: what a push waits for, against requests paid for
PAGE = 1000  # changes asked for at once
PAUSE_S = 0.2  # after a store did not answer; doubles
MAX_PAUSE_S = 5.0  # a home region that comes back is noticed within this
MAX_KEYS = 1_000_000  # one bucket's keys in memory, ~300 MB; beyond it a store with a feed is needed


@dataclass(frozen=True, slots=True)
class Batch:
    """Keys that were put or deleted, each once, and where to go on from."""

    cursor: int
    keys: tuple[str, ...]


class Feed(Protocol):
    """What changed in one bucket."""

    async def changes(self, prefix: str, since: int) -> Batch:
        """Keys below `prefix` that changed after cursor `since`; may wait, may be empty. Raises StoreError.

        One feed is read with one prefix.
        """


class StoreFeed:
    """Our store's feed (`GET /?nearfield-changes`): a long poll over its outbox."""

    def __init__(self, store: Told, bucket: str, wait_s: float = WAIT_S) -> None:
        self._store = store
        self._bucket = bucket
        self._wait_s = wait_s
        self._answers = (
            True  # after a silence the first answer is not waited for: it says that the store is back
        )

    async def changes(self, prefix: str, since: int) -> Batch:
        """See Feed."""
        if since == START:
            return await self._everything(prefix)
        wait_s, self._answers = self._wait_s if self._answers else 0.0, False
        try:
            page = await self._store.changes(self._bucket, since, wait_s=wait_s, limit=PAGE)
        except StoreError as error:
            if error.code != EXPIRED:
                raise
            return await self._everything(prefix)
        self._answers = True
        if page.seq < since:  # the store began anew: what we know of it is worth nothing
            return await self._everything(prefix)
        changed = dict.fromkeys(each.key for each in page.changes if each.key.startswith(prefix))
        return Batch(page.seq, tuple(changed))

    async def _everything(self, prefix: str) -> Batch:
        """The feed's end first, then the listing: what happens between them is told twice, not missed."""
        head = await self._store.changes(self._bucket, START, wait_s=0.0, limit=1)
        return Batch(head.seq, await _keys(self._store, self._bucket, prefix))


class ListFeed:
    """Any other S3: the prefix is listed each period and compared with the last listing."""

    def __init__(self, store: Told, bucket: str, period_s: float = LIST_PERIOD_S) -> None:
        self._store = store
        self._bucket = bucket
        self._period_s = period_s
        self._seen: dict[str, tuple[str, int, float]] = {}
        self._cursor = 0

    async def changes(self, prefix: str, since: int) -> Batch:
        """See Feed."""
        if since != self._cursor:
            self._seen = {}
        else:
            await asyncio.sleep(self._period_s)
        before = self._seen
        now = {
            each.key: (each.etag, each.size, each.modified_s)
            async for each in self._store.list(self._bucket, prefix)
        }
        if len(now) > MAX_KEYS:
            raise StoreError(
                "too_many_keys", f"{self._bucket} has more than {MAX_KEYS:,} keys to compare", 500
            )
        self._seen = now
        changed = tuple(key for key in now.keys() | before.keys() if now.get(key) != before.get(key))
        self._cursor += bool(changed) or since != self._cursor
        return Batch(self._cursor, tuple(sorted(changed)))


class AnyFeed:
    """Our store's feed where there is one, else listings; found out at the first answer of the store."""

    def __init__(self, store: Told, bucket: str) -> None:
        self._store = store
        self._bucket = bucket
        self._found: Feed | None = None

    async def changes(self, prefix: str, since: int) -> Batch:
        """See Feed."""
        if self._found is None:
            self._found = await self._find()
        return await self._found.changes(prefix, since)

    async def _find(self) -> Feed:
        try:
            await self._store.changes(self._bucket, START, wait_s=0.0, limit=1)
        except Unreachable:
            raise
        except StoreError as error:
            if error.status >= 500 and error.status != 501:
                raise
            return ListFeed(self._store, self._bucket)
        return StoreFeed(self._store, self._bucket)


async def follow(feed: Feed, prefix: str, changed: Callable[[str], None]) -> None:
    """Calls `changed` with every key there is, then with each that changes, until cancelled."""
    cursor, pause_s = START, PAUSE_S
    while True:
        try:
            batch = await feed.changes(prefix, cursor)
        except StoreError as error:
            log.warning("no changes for %.1f s: %s", pause_s, error)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_PAUSE_S)
            continue
        cursor, pause_s = batch.cursor, PAUSE_S
        for key in batch.keys:
            changed(key)


async def _keys(store: Told, bucket: str, prefix: str) -> tuple[str, ...]:
    return tuple([each.key async for each in store.list(bucket, prefix)])

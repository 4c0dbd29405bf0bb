"""Brings the outbox to one webhook: in order, at least once, with bounded patience; then aside, and on.

The place is kept in the index after each message that was taken, so after a crash the last one may come again and
none is missed. Each webhook has a courier of its own: one that is slow keeps only itself waiting, and the store never.
"""

import asyncio
import json
import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from storage.fault import S3Error
from storage.index.database import Transaction
from storage.index.outbox import (
    Letter,
    Line,
    add_letter,
    bounds,
    drop_letter,
    keep_place,
    lines_after,
    next_replay,
    place_of,
    return_letter,
)
from storage.index.settings import find_setting
from storage.notify.record import Record, body_of, record_of
from storage.notify.targets import unpack_targets
from storage.notify.webhook import Webhook
from storage.store import Store
from wire.dial import DialError, Pool
from wire.secured.tls import client_context

log = logging.getLogger("nearfield.storage")

SETTING = "notification"
BATCH_LINES = 100  # changes of one message: some 50 KB, 400 KB with the longest keys
GATHER_S = 0.02  # what comes at once travels together
KEEP_PLACE_EVERY = 10_000  # lines nobody wants; after a crash they are read again, and not sent
MAX_ANSWER_BYTES = 64 * 1024  # of an answer whose words nobody reads
TRY_AGAIN_S = 5.0  # when the index is full

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a webhook is asked: `tries` times, each at most `timeout_s`, with doubling waits between them."""

    tries: int = 10
    first_s: float = 1.0
    most_s: float = 300.0
    timeout_s: float = 10.0

    def wait_s(self, tries: int, chance: float) -> float:
        """How long to wait after so many tries; `chance` (0 to 1) spreads those that failed together."""
        return float(min(self.most_s, self.first_s * 2 ** min(tries - 1, 30)) * (0.5 + chance / 2))


@dataclass(frozen=True, slots=True)
class Batch:
    """What to send next, and the place when that is done."""

    records: tuple[Record, ...]
    upto: int
    lost: int = 0  # lines that were cut off the outbox before this courier came to them


class Courier:
    """Serves one webhook. `chance` gives a number from 0 to 1, `clock` the Unix time, `sleep` takes seconds."""

    def __init__(
        self,
        store: Store,
        webhook: Webhook,
        patience: Patience,
        chance: Callable[[], float],
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Raises: OSError if the webhook's `ca` cannot be read."""
        self._store = store
        self._webhook = webhook
        self._patience = patience
        self._chance = chance
        self._clock = clock
        self._sleep = sleep
        host, port, tls = webhook.address
        self._pool = Pool(host, port, tls=client_context(webhook.ca) if tls else None, max_idle=1)
        self._place = 0
        self._kept_place = 0

    async def run(self) -> None:
        """Deliver until cancelled. Raises: StoreBroken, sqlite3.Error."""
        try:
            self._place = self._kept_place = await self._commit(partial(place_of, webhook=self._webhook.id))
            while True:
                commit = self._store.next_commit
                if not await self.step():
                    await commit.wait()
                    await self._sleep(GATHER_S)
        finally:
            self._pool.abort()

    async def step(self) -> bool:
        """Send what is next; False if there was nothing. Raises: StoreBroken, sqlite3.Error."""
        letter = await self._store.in_thread(self._next_replay)
        if letter is not None:
            await self._replay(letter)
            return True
        batch = await self._store.in_thread(self._next_batch)
        if batch.lost:
            log.error(
                "webhook %s: %d changes were cut off before they were told", self._webhook.id, batch.lost
            )
        if batch.records:
            await self._deliver(batch)
        elif batch.upto - self._kept_place >= KEEP_PLACE_EVERY:
            await self._move(batch.upto)
        moved, self._place = batch.upto > self._place, batch.upto
        return moved or bool(batch.records)

    def _next_replay(self) -> Letter | None:
        return next_replay(self._store.index.reader(), self._webhook.id)

    def _next_batch(self) -> Batch:
        db = self._store.index.reader()
        place = self._place
        first, last = bounds(db)
        if place > last:  # the index was made anew
            return Batch((), last)
        lines = lines_after(db, place, BATCH_LINES)
        upto = lines[-1].seq if lines else place
        lost = max(first - 1 - place, 0) if last else 0
        return Batch(wanted(db, lines, self._webhook.id, self._store.region), upto, lost)

    async def _deliver(self, batch: Batch) -> None:
        """Until it is taken, or patience ends and it becomes a letter; the place moves in the same commit."""
        body = body_of(batch.records)
        tries, reason = 1, await self._attempt(body)
        while reason is not None and tries < self._patience.tries:
            log.warning("webhook %s: try %d failed: %s", self._webhook.id, tries, reason)
            await self._sleep(self._patience.wait_s(tries, self._chance()))
            tries, reason = tries + 1, await self._attempt(body)
        if reason is None:
            await self._move(batch.upto)
            return
        log.error("webhook %s: %d records are set aside: %s", self._webhook.id, len(batch.records), reason)
        await self._commit(partial(self._set_aside, batch=batch, tries=tries, reason=reason))
        self._kept_place = batch.upto

    def _set_aside(self, tx: Transaction, batch: Batch, tries: int, reason: str) -> None:
        dropped = add_letter(tx, self._webhook.id, json.dumps(batch.records), tries, reason)
        if dropped:
            log.error("webhook %s: the %d oldest dead letters are dropped", self._webhook.id, dropped)
        keep_place(tx, self._webhook.id, batch.upto)

    async def _replay(self, letter: Letter) -> None:
        """Send a letter once more; what is new waits no longer than one try for it."""
        reason = await self._attempt(body_of(letter.records))
        if reason is None:
            await self._commit(partial(drop_letter, webhook=self._webhook.id, letter=letter.id))
        else:
            await self._commit(partial(return_letter, letter=letter.id, reason=reason))

    async def _move(self, place: int) -> None:
        await self._commit(partial(keep_place, webhook=self._webhook.id, seq=place))
        self._kept_place = place

    async def _attempt(self, body: bytes) -> str | None:
        """One try; why it failed, None if the webhook took it. A redirect is a failure: it leads where nobody said."""
        headers = (("content-type", "application/json"), *self._webhook.sign(int(self._clock()), body))
        try:
            async with asyncio.timeout(self._patience.timeout_s):
                answer = await self._pool.request("POST", self._webhook.target, headers, body)
                async with answer:
                    await answer.read(MAX_ANSWER_BYTES)
        except TimeoutError:
            return f"no answer within {self._patience.timeout_s} s"
        except DialError as error:
            return str(error)
        return None if 200 <= answer.head.status < 300 else f"status {answer.head.status}"

    async def _commit(self, apply: Callable[[Transaction], T]) -> T:
        """Commit, also if the disk is full for a while. Raises: StoreBroken."""
        while True:
            try:
                return await self._store.commit(apply)
            except S3Error as error:
                log.warning("webhook %s waits: %s", self._webhook.id, error)
                await self._sleep(TRY_AGAIN_S)


def wanted(db: sqlite3.Connection, lines: list[Line], webhook: str, region: str) -> tuple[Record, ...]:
    """The records of the lines that the buckets' configurations send to a webhook, in order."""
    named = {line.bucket for line in lines}
    targets = {bucket: unpack_targets(find_setting(db, bucket, SETTING)) for bucket in named}
    return tuple(
        record_of(line, target.id, region)
        for line in lines
        for target in targets[line.bucket]
        if target.webhook == webhook and target.wants(line.name, line.key, line.seq)
    )

"""The slow pass that does what lifecycle rules say, a few rows at a time, through the same commits as every delete.

It remembers nothing: after a stop it begins again, and what is gone is gone. What a page looks due is judged once
more inside the commit, by the rules and the rows as they are then, so an overwrite or a new rule is never too late.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from storage.auth.key import BucketName, ObjectKey
from storage.fault import S3Error
from storage.index.changes import EXPIRED
from storage.index.columns import unpack_headers
from storage.index.database import Transaction
from storage.index.objects import delete_object, delete_version
from storage.index.rows import Headers
from storage.index.settings import find_setting
from storage.index.tags import tags_of
from storage.index.uploads import abort_upload
from storage.lifecycle.document import rules_of_document
from storage.lifecycle.rules import DAY_MS, Action, Rule, Version, decide, is_upload_due
from storage.store import Store

log = logging.getLogger("nearfield.storage")

SETTING = "lifecycle"
TABLES = ("objects", "versions")
PAGE_ROWS = 200  # looked at in one turn, and at most so many deletes in one commit: others wait behind it
MAX_COUNTED = 102  # newer versions that are counted: a rule keeps at most 100


@dataclass(frozen=True, slots=True)
class Pace:
    """How slowly to go. `day_s` is shorter than a day in tests only."""

    first_s: float = 60.0  # a start has better things to do
    rest_s: float = 3600.0  # between two passes; rules count in days
    page_rest_s: float = 0.1  # between two pages: a million objects take ten minutes
    day_s: float = DAY_MS / 1000

    @property
    def day_ms(self) -> int:
        """The length of a day, in ms."""
        return int(self.day_s * 1000)


@dataclass(frozen=True, slots=True)
class Row:
    """What the pass needs of a row of either table."""

    table: str
    bucket: BucketName
    key: ObjectKey
    seq: int
    version: str
    size: int
    modified_ms: int
    is_marker: bool
    headers: Headers


_COLUMNS = "bucket, key, seq, version, size, modified_ms, etag = '', headers"


class Sweeper:
    """Sweeps one store. `clock` gives the time, `sleep` takes seconds."""

    def __init__(
        self,
        store: Store,
        pace: Pace,
        clock: Callable[[], datetime],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._pace = pace
        self._clock = clock
        self._sleep = sleep

    async def run(self) -> None:
        """Pass after pass until cancelled. Raises: StoreBroken, sqlite3.Error."""
        await self._sleep(self._pace.first_s)
        while True:
            try:
                await self.sweep()
            except S3Error as error:  # the disk is full: deleting is tried again later
                log.warning("lifecycle rules wait: %s", error)
            await self._sleep(self._pace.rest_s)

    async def sweep(self) -> int:
        """One pass over every bucket that has rules; returns how much was taken away. Raises: S3Error, StoreBroken."""
        buckets = await self._store.in_thread(lambda: ruled_buckets(self._store.index.reader()))
        num_done = 0
        for bucket in buckets:
            for table in TABLES:
                num_done += await self._sweep_rows(bucket, table)
            num_done += await self._sweep_uploads(bucket)
        return num_done

    async def _sweep_rows(self, bucket: BucketName, table: str) -> int:
        num_done, place = 0, (b"", 0)
        while rows := await self._store.in_thread(partial(self._page, bucket, table, place)):
            place = rows[-1].key.encode(), rows[-1].seq
            due = await self._store.in_thread(partial(self._due_now, rows))
            if due:
                num_done += await self._store.commit(partial(self._take_away, due=due))
            await self._sleep(self._pace.page_rest_s)
        return num_done

    def _page(self, bucket: BucketName, table: str, place: tuple[bytes, int]) -> list[Row]:
        return next_rows(self._store.index.reader(), bucket, table, *place)

    def _due_now(self, rows: list[Row]) -> list[Row]:
        return [row for row, _ in self._due(self._store.index.reader(), rows)]

    def _due(self, db: sqlite3.Connection, rows: list[Row]) -> Iterator[tuple[Row, Action]]:
        rules = rules_in(db, rows[0].bucket) if rows else ()
        now_ms = self._now_ms()
        for row in rows:
            action = decide(rules, version_of(db, row), now_ms, self._pace.day_ms)
            if action is not None:
                yield row, action

    def _take_away(self, tx: Transaction, due: list[Row]) -> int:
        """(Inside the commit) what is still due; returns how much it was. Each row is judged after those before it."""
        num_done = 0
        for row in due:
            again = read_again(tx.db, row)
            for each, action in self._due(tx.db, [again] if again else []):
                _act(tx, each, action)
                num_done += 1
        return num_done

    async def _sweep_uploads(self, bucket: BucketName) -> int:
        num_done, place = 0, (b"", "")
        while uploads := await self._store.in_thread(partial(self._uploads_page, bucket, place)):
            place = uploads[-1][:2]
            gone = await self._store.commit(partial(self._abort, bucket=bucket, uploads=uploads))
            for upload in gone:
                self._store.slabs.forget(upload)
            num_done += len(gone)
            await self._sleep(self._pace.page_rest_s)
        return num_done

    def _uploads_page(self, bucket: BucketName, place: tuple[bytes, str]) -> list[tuple[bytes, str, int]]:
        return next_uploads(self._store.index.reader(), bucket, *place)

    def _abort(self, tx: Transaction, bucket: BucketName, uploads: list[tuple[bytes, str, int]]) -> list[str]:
        rules, now_ms = rules_in(tx.db, bucket), self._now_ms()
        gone = []
        for key, upload, created_ms in uploads:
            there = tx.db.execute("SELECT 1 FROM uploads WHERE id = ?", (upload,)).fetchone()
            if there and is_upload_due(rules, key.decode(), created_ms, now_ms, self._pace.day_ms):
                abort_upload(tx, bucket, ObjectKey(key.decode()), upload)
                gone.append(upload)
        return gone

    def _now_ms(self) -> int:
        return int(self._clock().timestamp() * 1000)


def _act(tx: Transaction, row: Row, action: Action) -> None:
    if action is Action.EXPIRE:
        delete_object(tx, row.bucket, row.key, family=EXPIRED)
    else:
        delete_version(tx, row.bucket, row.key, row.version, family=EXPIRED)


def ruled_buckets(db: sqlite3.Connection) -> list[BucketName]:
    """The buckets that have rules."""
    rows = db.execute("SELECT bucket FROM settings WHERE name = ? ORDER BY bucket", (SETTING,))
    return [BucketName(bucket) for (bucket,) in rows.fetchall()]


def rules_in(db: sqlite3.Connection, bucket: str) -> tuple[Rule, ...]:
    """The rules of a bucket, none if it has none."""
    document = find_setting(db, bucket, SETTING)
    return () if document is None else rules_of_document(document)


def next_rows(db: sqlite3.Connection, bucket: str, table: str, key: bytes, seq: int) -> list[Row]:
    """The rows of a table behind a place, the newest of a key first."""
    query = (
        f"SELECT {_COLUMNS} FROM {table} WHERE bucket = ? AND key >= ? AND (key > ? OR seq < ?)"  # noqa: S608
        " ORDER BY key, seq DESC LIMIT ?"
    )
    return [
        _row(table, fields) for fields in db.execute(query, (bucket, key, key, seq, PAGE_ROWS)).fetchall()
    ]


def read_again(db: sqlite3.Connection, row: Row) -> Row | None:
    """The row as it is now; None if it is gone, or stands in the other table."""
    query = f"SELECT {_COLUMNS} FROM {row.table} WHERE bucket = ? AND key = ? AND seq = ?"  # noqa: S608
    fields = db.execute(query, (row.bucket, row.key.encode(), row.seq)).fetchone()
    return None if fields is None else _row(row.table, fields)


def _row(table: str, fields: tuple[str, bytes, int, str, int, int, int, str]) -> Row:
    bucket, key, seq, version, size, modified_ms, is_marker, headers = fields
    name = ObjectKey(key.decode())
    return Row(
        table,
        BucketName(bucket),
        name,
        seq,
        version,
        size,
        modified_ms,
        bool(is_marker),
        unpack_headers(headers),
    )


def version_of(db: sqlite3.Connection, row: Row) -> Version:
    """What the rules look at, with what stands beside it in the index."""
    tags = tags_of(row.headers)
    if row.table == "objects":
        return Version(row.key, row.size, tags, row.modified_ms, is_current=True)
    here = (row.bucket, row.key.encode())
    current = db.execute("SELECT modified_ms FROM objects WHERE bucket = ? AND key = ?", here).fetchone()
    newer = db.execute(
        "SELECT modified_ms FROM versions WHERE bucket = ? AND key = ? AND seq > ? ORDER BY seq LIMIT ?",
        (*here, row.seq, MAX_COUNTED),
    ).fetchall()
    older = db.execute(
        "SELECT 1 FROM versions WHERE bucket = ? AND key = ? AND seq < ? LIMIT 1", (*here, row.seq)
    ).fetchone()
    followers = [*newer, *([current] if current else [])]
    return Version(
        row.key,
        row.size,
        tags,
        followers[0][0] if followers else row.modified_ms,
        is_current=not followers,
        is_marker=row.is_marker,
        num_newer=max(len(followers) - 1, 0),
        alone=not followers and older is None,
    )


def next_uploads(
    db: sqlite3.Connection, bucket: str, key: bytes, upload: str
) -> list[tuple[bytes, str, int]]:
    """Key, id and beginning of the unfinished uploads behind a place."""
    query = (
        "SELECT key, id, created_ms FROM uploads WHERE bucket = ? AND (key, id) > (?, ?)"
        " ORDER BY key, id LIMIT ?"
    )
    return db.execute(query, (bucket, key, upload, PAGE_ROWS)).fetchall()

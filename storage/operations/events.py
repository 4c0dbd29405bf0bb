"""The change feed over the outbox: `GET /?nearfield-changes&bucket=B&since=N&wait=S&limit=L`, signed.

Every put and delete has a line that was committed with it. Lines come in order, at least once, from any
`since`.
"""

import asyncio
import json
import sqlite3
from dataclasses import dataclass

from storage.auth.key import Right, parse_bucket
from storage.fault import S3Error
from storage.http.reply import Reply
from storage.http.request import S3Request
from storage.index.changes import VERSION_ONLY
from storage.index.rows import Change
from storage.store import Store
from wire.serve import Exchange

FEW_LINES = 64  # 0.1 ms to read, less than it takes to have another thread do it
MAX_LINES = 1000  # lines of one answer, about 200 KB
MAX_WAIT_S = 60.0  # under the idle times of relays on the way
JSON = (("content-type", "application/json"),)


@dataclass(frozen=True, slots=True)
class FeedAsk:
    """What a reader asks for. `since` < 0 asks only for the head of the feed."""

    bucket: str
    since: int
    wait_s: float
    limit: int

    @classmethod
    def parse(cls, request: S3Request) -> "FeedAsk":
        """Raises: S3Error InvalidArgument, InvalidBucketName, AccessDenied."""
        bucket = parse_bucket(request.query.get("bucket", ""))
        request.identity.demand(Right.ADMIN, bucket)
        query = request.query
        try:
            since, wait_s = int(query.get("since", "0")), float(query.get("wait", "0"))
            limit = int(query.get("limit", str(MAX_LINES)))
        except ValueError as error:
            raise S3Error("InvalidArgument", "since, wait and limit are numbers.") from error
        if not (abs(since) < 2**62 and 0 <= wait_s < 1e6 and limit > 0):
            raise S3Error("InvalidArgument", "since, wait or limit is out of range.")
        return cls(bucket, since, min(wait_s, MAX_WAIT_S), min(limit, MAX_LINES))


@dataclass(frozen=True, slots=True)
class Feed:
    """Some lines, and the number to go on after."""

    seq: int
    changes: tuple[Change, ...]

    def as_json(self) -> bytes:
        """The answer's body."""
        lines = [
            {
                "seq": line.seq,
                "bucket": line.bucket,
                "key": line.key,
                "kind": line.kind,
                "size": line.size,
                "etag": line.etag,
                "at": line.at_ms / 1000,
            }
            for line in self.changes
        ]
        return json.dumps({"seq": self.seq, "changes": lines}, ensure_ascii=False).encode()


def read_feed(db: sqlite3.Connection, ask: FeedAsk) -> Feed:
    """What is there now. A `since` from the future (a store that was made anew) gets the head and no lines.

    Raises: S3Error EventsExpired if lines after `since` are gone; the reader must list.
    """
    first, head = db.execute("SELECT coalesce(min(seq), 1), coalesce(max(seq), 0) FROM events").fetchone()
    if ask.since < 0 or ask.since > head:
        return Feed(head, ())
    if ask.since < first - 1:
        raise S3Error(
            "EventsExpired", f"The feed begins at {first}; list the bucket, then read on from {head}."
        )
    rows = db.execute(
        "SELECT seq, bucket, key, kind, size, etag, at_ms FROM events"
        " WHERE bucket = ? AND seq > ? AND seq <= ? AND kind != ? ORDER BY seq LIMIT ?",
        (ask.bucket, ask.since, head, VERSION_ONLY, ask.limit),
    ).fetchall()
    changes = tuple(
        Change(seq, bucket, key.decode(), kind, size, etag, at)
        for seq, bucket, key, kind, size, etag, at in rows
    )
    return Feed(changes[-1].seq if len(changes) == ask.limit else head, changes)


async def _read(store: Store, ask: FeedAsk) -> Feed:
    """Here and now if the lines since are few: a reader that has waited is only a commit or so behind."""
    db = store.index.reader()
    (head,) = db.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()
    if 0 <= head - ask.since <= FEW_LINES:
        return read_feed(db, ask)
    return await store.in_thread(lambda: read_feed(store.index.reader(), ask))


async def list_changes(store: Store, exchange: Exchange, request: S3Request) -> Reply:
    """ListChanges: at once if there are lines, else as soon as there are, at most `wait` seconds later."""
    del exchange
    ask = FeedAsk.parse(request)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + ask.wait_s
    while True:
        line = store.next_line(ask.bucket)
        feed = await _read(store, ask)
        left_s = deadline - loop.time()
        if feed.changes or left_s <= 0 or ask.since < 0 or feed.seq < ask.since or store.draining:
            return Reply(200, JSON, feed.as_json())
        try:
            await asyncio.wait_for(line.wait(), left_s)
        except TimeoutError:
            continue

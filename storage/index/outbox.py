"""The outbox as deliveries read it: lines after a place, the place of each webhook, and the letters nobody took."""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from storage.index.database import Transaction

MAX_LETTERS = 1000  # of one webhook, 100 changes each; the oldest go first


@dataclass(frozen=True, slots=True)
class Line:
    """One change; `name` is S3's of the event, `version` nothing where there is no versioning."""

    seq: int
    bucket: str
    key: str
    size: int
    etag: str
    at_ms: int
    name: str
    version: str


@dataclass(frozen=True, slots=True)
class Letter:
    """Records that a webhook did not take within its tries, and why."""

    id: int
    webhook: str
    records: Sequence[Any]
    tries: int
    reason: str
    at_ms: int
    replay: bool


def lines_after(db: sqlite3.Connection, seq: int, most: int) -> list[Line]:
    """The next lines that have a name (those of before layout 3 have none), and the place after them."""
    query = (
        "SELECT seq, bucket, key, size, etag, at_ms, name, version FROM events WHERE seq > ?"
        " ORDER BY seq LIMIT ?"
    )
    rows = db.execute(query, (seq, most)).fetchall()
    return [Line(number, bucket, key.decode(), *rest) for number, bucket, key, *rest in rows]


def bounds(db: sqlite3.Connection) -> tuple[int, int]:
    """(first, last) number in the outbox; (1, 0) if nothing ever was."""
    first, last = db.execute("SELECT coalesce(min(seq), 1), coalesce(max(seq), 0) FROM events").fetchone()
    return int(first), int(last)


def place_of(tx: Transaction, webhook: str) -> int:
    """The last number that was dealt with; a webhook that is new begins at the end."""
    row = tx.db.execute("SELECT seq FROM webhooks WHERE id = ?", (webhook,)).fetchone()
    if row is not None:
        return int(row[0])
    keep_place(tx, webhook, bounds(tx.db)[1])
    return bounds(tx.db)[1]


def keep_place(tx: Transaction, webhook: str, seq: int) -> None:
    """Everything up to `seq` is dealt with."""
    tx.db.execute("INSERT OR REPLACE INTO webhooks VALUES (?, ?)", (webhook, seq))


def add_letter(tx: Transaction, webhook: str, records: str, tries: int, reason: str) -> int:
    """Keep what was not taken; returns how many older ones had to go."""
    tx.db.execute(
        "INSERT INTO dead_letters (webhook, records, tries, reason, at_ms) VALUES (?, ?, ?, ?, ?)",
        (webhook, records, tries, reason, tx.now_ms),
    )
    oldest = "SELECT id FROM dead_letters WHERE webhook = ? ORDER BY id DESC LIMIT -1 OFFSET ?"
    return tx.db.execute(
        f"DELETE FROM dead_letters WHERE id IN ({oldest})",  # noqa: S608 - a constant of ours
        (webhook, MAX_LETTERS),
    ).rowcount


_LETTER = "id, webhook, records, tries, reason, at_ms, replay"


def read_letters(db: sqlite3.Connection, webhook: str, after: int, most: int) -> list[Letter]:
    """The letters of a webhook, the oldest first."""
    query = f"SELECT {_LETTER} FROM dead_letters WHERE webhook = ? AND id > ? ORDER BY id LIMIT ?"  # noqa: S608
    return [_letter(row) for row in db.execute(query, (webhook, after, most)).fetchall()]


def next_replay(db: sqlite3.Connection, webhook: str) -> Letter | None:
    """The oldest letter that is to be sent again."""
    query = f"SELECT {_LETTER} FROM dead_letters WHERE webhook = ? AND replay ORDER BY id LIMIT 1"  # noqa: S608
    row = db.execute(query, (webhook,)).fetchone()
    return None if row is None else _letter(row)


def ask_replay(tx: Transaction, webhook: str, letter: int | None) -> int:
    """Have one letter, or all of a webhook, sent again; returns how many."""
    query = "UPDATE dead_letters SET replay = 1 WHERE webhook = ? AND (? IS NULL OR id = ?)"
    return tx.db.execute(query, (webhook, letter, letter)).rowcount


def drop_letter(tx: Transaction, webhook: str, letter: int) -> int:
    """Forget a letter; returns whether it was there."""
    query = "DELETE FROM dead_letters WHERE webhook = ? AND id = ?"
    return tx.db.execute(query, (webhook, letter)).rowcount


def return_letter(tx: Transaction, letter: int, reason: str) -> None:
    """It was sent again and not taken."""
    tx.db.execute(
        "UPDATE dead_letters SET replay = 0, tries = tries + 1, reason = ? WHERE id = ?", (reason, letter)
    )


def _letter(row: Sequence[Any]) -> Letter:
    id_, webhook, records, tries, reason, at_ms, replay = row
    return Letter(id_, webhook, json.loads(records), tries, reason, at_ms, bool(replay))

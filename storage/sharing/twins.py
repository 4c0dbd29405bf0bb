"""Which stored extent may stand for others of the same bytes: one for each sum and length, kept in the index.

A sum is no proof: CRC64NVME is made against accidents, and anybody can make two bodies that have the same. Whoever
shares compares the bytes first; this is only where to look.
"""

import sqlite3
from dataclasses import replace

from storage.index.database import Transaction
from storage.index.references import move_extents_of
from storage.index.rows import Extent, ObjectRow

PLACE = "shared"  # how far the outbox was looked through


def find_twin(db: sqlite3.Connection, extent: Extent) -> Extent | None:
    """The extent that is known for the sum and the length of `extent`, while a row names its blob."""
    query = (
        "SELECT twins.blob, twins.first FROM twins JOIN blobs ON blobs.id = twins.blob"
        " WHERE twins.crc64 = ? AND twins.length = ?"
    )
    found = db.execute(query, (_hex(extent), extent.length)).fetchone()
    return None if found is None else replace(extent, blob=found[0], offset=found[1])


def keep_twin(tx: Transaction, extent: Extent) -> None:
    """Let `extent` be the one that others are compared with."""
    tx.db.execute(
        "INSERT OR REPLACE INTO twins VALUES (?, ?, ?, ?)",
        (_hex(extent), extent.length, extent.blob, extent.offset),
    )


def share(tx: Transaction, row: ObjectRow, extent: Extent, twin: Extent) -> bool:
    """Let `row` name `twin`, whose bytes are those of `extent`. False, and nothing changes, if one of them is gone.

    No object changes: ETag, time and sequence number stay, and nothing is told in the outbox.
    """
    if tx.db.execute("SELECT 1 FROM blobs WHERE id = ?", (twin.blob,)).fetchone() is None:
        return False
    return move_extents_of(tx, row, extent, twin)


def place(db: sqlite3.Connection) -> int:
    """The last line of the outbox that was looked at."""
    found = db.execute("SELECT value FROM state WHERE name = ?", (PLACE,)).fetchone()
    return 0 if found is None else int(found[0])


def keep_place(tx: Transaction, seq: int) -> None:
    """Go on after line `seq` next time."""
    tx.db.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", (PLACE, seq))


def forget_dead(tx: Transaction) -> None:
    """Drop what names blobs that are gone."""
    tx.db.execute("DELETE FROM twins WHERE blob NOT IN (SELECT id FROM blobs)")


def _hex(extent: Extent) -> str:
    return f"{extent.crc64:016x}"

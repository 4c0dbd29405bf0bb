"""What is known to be damaged: a run of bytes that no longer has the checksum of its row, and its repair."""

import sqlite3
from dataclasses import dataclass

from storage.index.database import Transaction
from storage.index.references import move_extent
from storage.index.rows import Extent


@dataclass(frozen=True, slots=True)
class Damage:
    """One damaged extent, the object in which it was found, and when (Unix time, ms). repaired_ms None: not yet."""

    extent: Extent
    bucket: str
    key: str
    found_ms: int
    repaired_ms: int | None = None


def record_damage(tx: Transaction, extent: Extent, bucket: str, key: str) -> bool:
    """Write it down; False if it was known already, and is not repaired."""
    query = "SELECT 1 FROM damages WHERE blob = ? AND first = ? AND length = ? AND repaired_ms IS NULL"
    if tx.db.execute(query, (extent.blob, extent.offset, extent.length)).fetchone():
        return False
    tx.db.execute(
        "INSERT OR REPLACE INTO damages VALUES (?, ?, ?, ?, ?, ?, ?, NULL)",
        (extent.blob, extent.offset, extent.length, f"{extent.crc64:016x}", bucket, key.encode(), tx.now_ms),
    )
    return True


def repair(tx: Transaction, damaged: Extent, whole: Extent) -> int:
    """Let every row that names the damaged extent name the whole one, of the same bytes; returns how many do.

    No object changes: ETag, time and sequence number stay, and nothing is told in the outbox.
    """
    num_rows = move_extent(tx, damaged, whole)
    tx.db.execute(
        "UPDATE damages SET repaired_ms = ? WHERE blob = ? AND first = ? AND length = ?",
        (tx.now_ms, damaged.blob, damaged.offset, damaged.length),
    )
    return num_rows


def read_damages(db: sqlite3.Connection) -> list[Damage]:
    """The store's status in this respect: all that was ever found, the oldest first."""
    rows = db.execute(
        "SELECT blob, first, length, crc64, bucket, key, found_ms, repaired_ms FROM damages ORDER BY found_ms"
    )
    return [
        Damage(Extent(blob, first, length, int(crc64, 16)), bucket, key.decode(), found_ms, repaired_ms)
        for blob, first, length, crc64, bucket, key, found_ms, repaired_ms in rows
    ]


def is_slab_in_use(db: sqlite3.Connection, blob: str) -> bool:
    """True while an unfinished upload may still write into the blob."""
    return db.execute("SELECT 1 FROM uploads WHERE slab = ? LIMIT 1", (blob,)).fetchone() is not None

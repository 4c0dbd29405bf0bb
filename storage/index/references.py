"""Which blobs the index names: a blob's row counts the extents of it that rows of objects, parts and uploads name.

Whoever takes the last reference away leaves the blob to the transaction's `dead`.
"""

from collections import Counter
from collections.abc import Iterable

from storage.index.columns import pack_extents, unpack_extents
from storage.index.database import Transaction
from storage.index.reads import find_object
from storage.index.rows import INLINE, Extent, ObjectRow


def count_references(tx: Transaction, *, added: Iterable[Extent], removed: Iterable[Extent]) -> None:
    """Move the reference counts by what was added and removed."""
    deltas = Counter(extent.blob for extent in added)
    deltas.subtract(Counter(extent.blob for extent in removed))
    for blob, delta in deltas.items():
        if delta:
            adjust_references(tx, blob, delta)


def adjust_references(tx: Transaction, blob: str, delta: int) -> None:
    """Move one blob's count; what nobody names any more is deleted here, if inline, or left to `dead`."""
    query = "INSERT INTO blobs VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET refs = refs + excluded.refs"
    (refs,) = tx.db.execute(f"{query} RETURNING refs", (blob, delta)).fetchone()
    if refs <= 0:
        tx.db.execute("DELETE FROM blobs WHERE id = ?", (blob,))
        if blob.startswith(INLINE):
            tx.db.execute("DELETE FROM inline WHERE id = ?", (blob,))
        else:
            tx.dead.add(blob)
    elif blob in tx.dead:
        tx.dead.remove(blob)


def move_extent(tx: Transaction, old: Extent, new: Extent) -> int:
    """Put `new` in the place of `old` in every version that names it; returns how many do."""
    return sum(_move_in(tx, table, old, new) for table in ("objects", "versions"))


def move_extents_of(tx: Transaction, row: ObjectRow, old: Extent, new: Extent) -> bool:
    """Put `new` in the place of `old` in the current version of one object; False if `row` is not that any more."""
    current = find_object(tx.db, row.bucket, row.key)
    if current is None or current.seq != row.seq or old not in current.extents:
        return False
    moved = tuple(new if extent == old else extent for extent in current.extents)
    count_references(tx, added=moved, removed=current.extents)
    where = (pack_extents(moved), row.bucket, row.key.encode())
    tx.db.execute("UPDATE objects SET extents = ? WHERE bucket = ? AND key = ?", where)
    return True


def _move_in(tx: Transaction, table: str, old: Extent, new: Extent) -> int:
    query = f"SELECT bucket, key, seq, extents FROM {table} WHERE instr(extents, ?)"  # noqa: S608 - a constant of ours
    num_rows = 0
    for bucket, key, seq, text in tx.db.execute(query, (f'"{old.blob}"',)).fetchall():
        extents = unpack_extents(text)
        if old in extents:
            moved = tuple(new if extent == old else extent for extent in extents)
            count_references(tx, added=moved, removed=extents)
            where = (pack_extents(moved), bucket, key, seq)
            tx.db.execute(
                f"UPDATE {table} SET extents = ? WHERE bucket = ? AND key = ? AND seq = ?",  # noqa: S608
                where,
            )
            num_rows += 1
    return num_rows

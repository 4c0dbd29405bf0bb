"""The versions of a key. `objects` has the version that is read; `versions` has those before it, and delete markers.

So a bucket without versioning costs nothing here, and listings of objects never step over old versions. Nothing
here counts references: who removes rows gets their extents to count.
"""

import sqlite3
from collections.abc import Sequence

from storage.auth.acl import pack_acl
from storage.auth.key import BucketName, ObjectKey
from storage.index.columns import OBJECT_COLUMNS, object_columns, object_of, pack_headers
from storage.index.rows import NULL_VERSION, Extent, ObjectRow

ENABLED = "Enabled"

_MARKS = ", ".join("?" * len(OBJECT_COLUMNS.split(",")))
_HERE = "bucket = ? AND key = ?"


def name_of(state: str, seq: int) -> str:
    """The id of the version written as change `seq`; ids sort by age."""
    return f"{seq:016x}" if state == ENABLED else NULL_VERSION


def seq_of(version: str) -> int | None:
    """The change that wrote the version of that id; None for what is no id of ours, and for null."""
    try:
        return int(version, 16) if len(version) == 16 else None
    except ValueError:
        return None


def make_room(
    db: sqlite3.Connection, state: str, old: ObjectRow | None, bucket: BucketName, key: ObjectKey
) -> Sequence[Extent]:
    """Put the version that is read aside, before another one or a marker is written.

    Without versioning it is only given up; suspended, whichever version is null is.

    Returns:
        The extents of what is given up.
    """
    if not state:
        return () if old is None else old.extents
    given_up = () if state == ENABLED else _drop_null(db, bucket, key)
    if old is None:
        return given_up
    if state != ENABLED and old.version == NULL_VERSION:
        return (*given_up, *old.extents)
    keep(db, old)
    return given_up


def _drop_null(db: sqlite3.Connection, bucket: BucketName, key: ObjectKey) -> Sequence[Extent]:
    row = _one(db, "versions", f"{_HERE} AND version = ?", bucket, key, NULL_VERSION)
    if row is None:
        return ()
    remove(db, row)
    return row.extents


def keep(db: sqlite3.Connection, row: ObjectRow) -> None:
    """Store a version that is not the one read, or a marker."""
    db.execute(f"INSERT INTO versions ({OBJECT_COLUMNS}) VALUES ({_MARKS})", object_columns(row))  # noqa: S608


def make_current(db: sqlite3.Connection, row: ObjectRow) -> None:
    """Make `row` the version that is read."""
    db.execute(f"INSERT OR REPLACE INTO objects ({OBJECT_COLUMNS}) VALUES ({_MARKS})", object_columns(row))  # noqa: S608


def remove_current(db: sqlite3.Connection, bucket: BucketName, key: ObjectKey) -> None:
    """Take away the version that is read."""
    db.execute("DELETE FROM objects WHERE bucket = ? AND key = ?", (bucket, key.encode()))


def remove(db: sqlite3.Connection, row: ObjectRow) -> None:
    """Take a version or a marker away, wherever it stands."""
    where = (row.bucket, row.key.encode(), row.seq)
    db.execute("DELETE FROM objects WHERE bucket = ? AND key = ? AND seq = ?", where)
    db.execute("DELETE FROM versions WHERE bucket = ? AND key = ? AND seq = ?", where)


def rewrite_headers(db: sqlite3.Connection, row: ObjectRow) -> ObjectRow:
    """Store the headers of a version anew, wherever it stands; nothing else of it changes."""
    where = (pack_headers(row.headers), row.bucket, row.key.encode(), row.seq)
    for table in ("objects", "versions"):
        db.execute(f"UPDATE {table} SET headers = ? WHERE bucket = ? AND key = ? AND seq = ?", where)  # noqa: S608
    return row


def rewrite_acl(db: sqlite3.Connection, row: ObjectRow) -> ObjectRow:
    """Store the list of a version anew, wherever it stands; nothing else of it changes."""
    where = (pack_acl(row.acl), row.bucket, row.key.encode(), row.seq)
    for table in ("objects", "versions"):
        db.execute(f"UPDATE {table} SET acl = ? WHERE bucket = ? AND key = ? AND seq = ?", where)  # noqa: S608
    return row


def promote(db: sqlite3.Connection, bucket: BucketName, key: ObjectKey) -> ObjectRow | None:
    """If no version is read now and the newest left is no marker, read that one; returns it."""
    if _one(db, "objects", _HERE, bucket, key) is not None:
        return None
    row = newest(db, bucket, key)
    if row is None or row.marker:
        return None
    remove(db, row)
    make_current(db, row)
    return row


def newest(db: sqlite3.Connection, bucket: BucketName, key: ObjectKey) -> ObjectRow | None:
    """The newest of the versions that are not the one read, markers too."""
    return _one(db, "versions", f"{_HERE} ORDER BY seq DESC LIMIT 1", bucket, key)


def find_version(
    db: sqlite3.Connection, bucket: BucketName, key: ObjectKey, version: str
) -> ObjectRow | None:
    """The version or marker of that id, if it is there."""
    where = f"{_HERE} AND version = ?"
    found = _one(db, "objects", where, bucket, key, version)
    return found if found is not None else _one(db, "versions", where, bucket, key, version)


def _one(
    db: sqlite3.Connection, table: str, where: str, bucket: str, key: str, *more: str
) -> ObjectRow | None:
    query = f"SELECT {OBJECT_COLUMNS} FROM {table} WHERE {where}"  # noqa: S608 - constants of ours
    row = db.execute(query, (bucket, key.encode(), *more)).fetchone()
    return None if row is None else object_of(row)

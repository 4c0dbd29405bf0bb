"""What is set on a bucket beside its objects: one document a name, changed in a transaction like everything else."""

import sqlite3

VERSIONING = "versioning"


def find_setting(db: sqlite3.Connection, bucket: str, name: str) -> str | None:
    """The document set under `name`, if there is one."""
    row = db.execute("SELECT document FROM settings WHERE bucket = ? AND name = ?", (bucket, name)).fetchone()
    return None if row is None else str(row[0])


def put_setting(db: sqlite3.Connection, bucket: str, name: str, document: str) -> None:
    """Set it."""
    db.execute("INSERT OR REPLACE INTO settings VALUES (?, ?, ?)", (bucket, name, document))


def drop_setting(db: sqlite3.Connection, bucket: str, name: str) -> None:
    """Unset it, if it is set."""
    db.execute("DELETE FROM settings WHERE bucket = ? AND name = ?", (bucket, name))


def versioning_of(db: sqlite3.Connection, bucket: str) -> str:
    """`Enabled`, `Suspended`, or nothing if it was never set."""
    return find_setting(db, bucket, VERSIONING) or ""

"""The layout of the index on the disk, and how an index of an earlier layout becomes one of today's."""

import sqlite3

from storage.fault import StoreBroken
from storage.index.rows import SCHEMA

LAYOUT = 2  # 1 (written as 0): one version of each key; 2: versions, parts and the settings of buckets
_TO_2 = (
    "ALTER TABLE objects ADD COLUMN version TEXT NOT NULL DEFAULT 'null'",
    "ALTER TABLE objects ADD COLUMN parts TEXT NOT NULL DEFAULT '[]'",
)


def prepare(db: sqlite3.Connection) -> None:
    """Make the tables, or bring those of layout 1 up to date, whole or not at all.

    Raises: StoreBroken if a newer release wrote the index; sqlite3.Error.
    """
    (layout,) = db.execute("PRAGMA user_version").fetchone()
    if layout > LAYOUT:
        raise StoreBroken(f"the index has layout {layout}, this release knows {LAYOUT}; use a newer release")
    if layout == LAYOUT:
        return
    db.execute("BEGIN IMMEDIATE")
    if db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'objects'").fetchone():
        for statement in _TO_2:
            db.execute(statement)
    for statement in SCHEMA.split(";"):
        db.execute(statement)
    db.execute(f"PRAGMA user_version = {LAYOUT}")
    db.execute("COMMIT")

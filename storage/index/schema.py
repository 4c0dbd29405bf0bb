"""The layout of the index on the disk, and how an index of an earlier layout becomes one of today's."""

import sqlite3

from storage.fault import StoreBroken
from storage.index.columns import SCHEMA

# 1 (written as 0): one version of each key; 2: versions, parts, settings of buckets; 3: owners and ACLs, names of
# events, webhooks, twins
LAYOUT = 3
_ADDED = (  # since layout 1; a row of before has the default, which says what it was
    ("objects", "version", "TEXT NOT NULL DEFAULT 'null'"),
    ("objects", "parts", "TEXT NOT NULL DEFAULT '[]'"),
    ("objects", "acl", "TEXT"),
    ("versions", "acl", "TEXT"),
    ("uploads", "acl", "TEXT"),
    ("buckets", "owner", "TEXT NOT NULL DEFAULT 'nearfield'"),
    ("events", "name", "TEXT NOT NULL DEFAULT ''"),
    ("events", "version", "TEXT NOT NULL DEFAULT ''"),
)


def prepare(db: sqlite3.Connection) -> None:
    """Make the tables, or bring those of an earlier layout up to date, whole or not at all.

    Raises: StoreBroken if a newer release wrote the index; sqlite3.Error.
    """
    (layout,) = db.execute("PRAGMA user_version").fetchone()
    if layout > LAYOUT:
        raise StoreBroken(f"the index has layout {layout}, this release knows {LAYOUT}; use a newer release")
    if layout == LAYOUT:
        return
    db.execute("BEGIN IMMEDIATE")
    for table, column, declaration in _ADDED:
        there = {row[1] for row in db.execute(f"PRAGMA table_info({table})")}
        if there and column not in there:
            db.execute(f"ALTER TABLE {table} ADD COLUMN {column} {declaration}")
    for statement in SCHEMA.split(";"):
        db.execute(statement)
    db.execute(f"PRAGMA user_version = {LAYOUT}")
    db.execute("COMMIT")

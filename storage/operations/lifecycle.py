"""Put, get and delete a bucket's lifecycle rules, and tell of an object when they will take it away."""

import sqlite3

from storage.http.conditions import http_date
from storage.http.document import Element
from storage.index.rows import Headers, ObjectRow
from storage.index.tags import tags_of
from storage.lifecycle.document import ROOT, rules_of
from storage.lifecycle.rules import Version, next_expiry
from storage.lifecycle.sweep import SETTING, rules_in
from storage.operations.documents import Kind


def _check(root: Element) -> None:
    rules_of(root)


LIFECYCLE = Kind(SETTING, ROOT, "NoSuchLifecycleConfiguration", _check)


def expiry_headers(db: sqlite3.Connection, row: ObjectRow) -> Headers:
    """When the object will expire, and by which rule; nothing if by none."""
    rules = rules_in(db, row.bucket)
    if not rules:
        return ()
    version = Version(row.key, row.size, tags_of(row.headers), row.modified_ms, is_current=True)
    found = next_expiry(rules, version)
    if found is None:
        return ()
    at_ms, rule = found
    shown = "".join(char if char.isascii() and char.isprintable() and char != '"' else "_" for char in rule)
    return (("x-amz-expiration", f'expiry-date="{http_date(at_ms)}", rule-id="{shown}"'),)

"""Pages of a bucket: which keys and which common prefixes come next. Pure over a `scan` of ordered rows.

With a delimiter one seek skips everything under a common prefix, so a page costs what it shows, not what it
hides.
"""

import base64
import binascii
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from storage.fault import S3Error

MAX_PAGE = 1000  # S3's most entries a page


class Keyed(Protocol):
    """A row that has a place in the listing."""

    @property
    def raw_key(self) -> bytes:
        """The key, UTF-8."""


RowT = TypeVar("RowT", bound=Keyed)
Scan = Callable[[bytes, bytes | None], Iterator[RowT]]  # (first key, end or None) -> rows in order of key


@dataclass(frozen=True, slots=True)
class PageAsk:
    """What a listing asks for.

    Only what comes after `after` shows (with `inclusive`, it too); a common prefix there is skipped whole.
    """

    prefix: bytes
    delimiter: bytes
    after: bytes
    max_keys: int
    inclusive: bool = False


@dataclass(frozen=True, slots=True)
class Page(Generic[RowT]):
    """One page; `last` is the entry to go on after, if `truncated`."""

    rows: tuple[RowT, ...]
    prefixes: tuple[bytes, ...]
    truncated: bool
    last: bytes


def successor(prefix: bytes) -> bytes | None:
    """The least byte string above everything that begins with `prefix`; None if there is none."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else None


def page_of(scan: "Scan[RowT]", ask: PageAsk) -> "Page[RowT]":
    """The next page."""
    rows: list[RowT] = []
    prefixes: list[bytes] = []
    last = ask.after
    if not ask.max_keys:
        return Page((), (), False, last)
    for entry in _entries(scan, ask):
        if len(rows) + len(prefixes) == ask.max_keys:
            return Page(tuple(rows), tuple(prefixes), True, last)
        if isinstance(entry, bytes):
            prefixes.append(entry)
            last = entry
        else:
            rows.append(entry)
            last = entry.raw_key
    return Page(tuple(rows), tuple(prefixes), False, last)


def _entries(scan: "Scan[RowT]", ask: PageAsk) -> "Iterator[RowT | bytes]":
    """Rows and common prefixes in order, seeking past each common prefix."""
    end = successor(ask.prefix)
    start: bytes | None = _start(ask)
    while start is not None and (end is None or start < end):
        jump = False
        for row in scan(start, end):
            common = _common_prefix(row.raw_key, ask)
            if common is None:
                yield row
                continue
            yield common
            start = successor(common)
            jump = True
            break
        if not jump:
            return


def _start(ask: PageAsk) -> bytes | None:
    """The first key that may show."""
    if not ask.after or ask.after < ask.prefix:
        return ask.prefix
    if ask.inclusive:
        return ask.after
    if ask.after.startswith(ask.prefix) and _common_prefix(ask.after, ask) == ask.after:
        return successor(ask.after)  # it was shown for all that is under it
    return ask.after + b"\x00"


def _common_prefix(key: bytes, ask: PageAsk) -> bytes | None:
    if not ask.delimiter:
        return None
    at = key.find(ask.delimiter, len(ask.prefix))
    return None if at < 0 else key[: at + len(ask.delimiter)]


def encode_token(last: bytes) -> str:
    """A continuation token: opaque to callers."""
    return base64.urlsafe_b64encode(last).decode()


def decode_token(token: str) -> bytes:
    """Raises: S3Error InvalidArgument."""
    try:
        return base64.b64decode(token.encode(), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise S3Error("InvalidArgument", "The continuation token provided is incorrect") from error


@dataclass(frozen=True, slots=True)
class ObjectLine:
    """What a listing shows of an object."""

    raw_key: bytes
    size: int
    etag: str
    modified_ms: int
    checksum: str | None
    acl: str | None


def scan_objects(db: sqlite3.Connection, bucket: str) -> "Scan[ObjectLine]":
    """A scan over the objects of a bucket."""

    def scan(first: bytes, end: bytes | None) -> Iterator[ObjectLine]:
        query = (
            "SELECT key, size, etag, modified_ms, checksum, acl FROM objects WHERE bucket = ? AND key >= ?"
        )
        args: tuple[object, ...] = (bucket, first)
        if end is not None:
            query, args = query + " AND key < ?", (*args, end)
        with closing(
            db.execute(query + " ORDER BY key", args)
        ) as cursor:  # an open one would pin its snapshot
            for row in cursor:
                yield ObjectLine(*row)

    return scan


@dataclass(frozen=True, slots=True)
class UploadLine:
    """What a listing shows of an unfinished upload."""

    raw_key: bytes
    upload: str
    created_ms: int
    acl: str | None


def scan_uploads(db: sqlite3.Connection, bucket: str, after_upload: tuple[bytes, str]) -> "Scan[UploadLine]":
    """A scan over the uploads of a bucket; of the key `after_upload[0]` only those with a greater id."""

    def scan(first: bytes, end: bytes | None) -> Iterator[UploadLine]:
        query = "SELECT key, id, created_ms, acl FROM uploads WHERE bucket = ? AND key >= ? ORDER BY key, id"
        after_key, after_id = after_upload
        with closing(db.execute(query, (bucket, first))) as cursor:
            for key, upload, created_ms, acl in cursor:
                if end is not None and key >= end:
                    return
                if key != after_key or upload > after_id:
                    yield UploadLine(key, upload, created_ms, acl)

    return scan

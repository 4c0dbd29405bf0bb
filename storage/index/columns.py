"""The index' tables in SQL, and its values as their columns."""

import json
from collections.abc import Sequence
from typing import Any

from storage.auth.acl import pack_acl, unpack_acl
from storage.auth.key import BucketName, ObjectKey
from storage.checksum import Checksum
from storage.index.rows import Extent, Headers, ObjectRow, PartRow, UploadRow

SCHEMA = """
CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS buckets (
    name TEXT PRIMARY KEY, created_ms INTEGER NOT NULL, owner TEXT NOT NULL DEFAULT 'nearfield') WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS objects (
    bucket TEXT, key BLOB, size INTEGER NOT NULL, etag TEXT NOT NULL, modified_ms INTEGER NOT NULL,
    seq INTEGER NOT NULL, upload TEXT,
    num_parts INTEGER NOT NULL, checksum TEXT, headers TEXT NOT NULL, extents TEXT NOT NULL,
    version TEXT NOT NULL DEFAULT 'null', parts TEXT NOT NULL DEFAULT '[]', acl TEXT,
    PRIMARY KEY (bucket, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS versions (
    bucket TEXT, key BLOB, size INTEGER NOT NULL, etag TEXT NOT NULL, modified_ms INTEGER NOT NULL,
    seq INTEGER NOT NULL, upload TEXT,
    num_parts INTEGER NOT NULL, checksum TEXT, headers TEXT NOT NULL, extents TEXT NOT NULL,
    version TEXT NOT NULL, parts TEXT NOT NULL, acl TEXT,
    PRIMARY KEY (bucket, key, seq DESC)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS versions_by_id ON versions (bucket, key, version);
CREATE TABLE IF NOT EXISTS settings (
    bucket TEXT, name TEXT, document TEXT NOT NULL, PRIMARY KEY (bucket, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS uploads (
    id TEXT PRIMARY KEY, bucket TEXT NOT NULL, key BLOB NOT NULL, created_ms INTEGER NOT NULL,
    headers TEXT NOT NULL, algorithm TEXT, checksum_type TEXT, slab TEXT NOT NULL,
    acl TEXT) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS uploads_by_key ON uploads (bucket, key, id);
CREATE TABLE IF NOT EXISTS parts (
    upload TEXT, number INTEGER, size INTEGER NOT NULL, etag TEXT NOT NULL, modified_ms INTEGER NOT NULL,
    checksum TEXT, extents TEXT NOT NULL, PRIMARY KEY (upload, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS blobs (id TEXT PRIMARY KEY, refs INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS twins (
    crc64 TEXT, length INTEGER, blob TEXT NOT NULL, first INTEGER NOT NULL,
    PRIMARY KEY (crc64, length)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS inline (id TEXT PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, bucket TEXT NOT NULL, key BLOB NOT NULL, kind TEXT NOT NULL,
    size INTEGER NOT NULL, etag TEXT NOT NULL, at_ms INTEGER NOT NULL,
    name TEXT NOT NULL DEFAULT '', version TEXT NOT NULL DEFAULT '');
CREATE INDEX IF NOT EXISTS events_by_bucket ON events (bucket, seq);
CREATE TABLE IF NOT EXISTS webhooks (id TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS dead_letters (
    id INTEGER PRIMARY KEY AUTOINCREMENT, webhook TEXT NOT NULL, records TEXT NOT NULL, tries INTEGER NOT NULL,
    reason TEXT NOT NULL, at_ms INTEGER NOT NULL, replay INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS dead_letters_by_webhook ON dead_letters (webhook, id);
CREATE TABLE IF NOT EXISTS damages (
    blob TEXT, first INTEGER, length INTEGER, crc64 TEXT NOT NULL, bucket TEXT NOT NULL, key BLOB NOT NULL,
    found_ms INTEGER NOT NULL, repaired_ms INTEGER, PRIMARY KEY (blob, first, length)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS scrub (
    id INTEGER PRIMARY KEY CHECK (id = 1), bucket TEXT NOT NULL, key BLOB NOT NULL, seq INTEGER NOT NULL);
"""


def pack_extents(extents: Sequence[Extent]) -> str:
    """Extents as a column."""
    return json.dumps([[e.blob, e.offset, e.length, e.crc64] for e in extents], separators=(",", ":"))


def unpack_extents(text: str) -> tuple[Extent, ...]:
    """A column as extents."""
    return tuple(Extent(*fields) for fields in json.loads(text))


def pack_headers(headers: Headers) -> str:
    """Headers as a column."""
    return json.dumps(headers, separators=(",", ":"))


def unpack_headers(text: str) -> Headers:
    """A column as headers."""
    return tuple((name, value) for name, value in json.loads(text))


def pack_checksum(checksum: Checksum | None) -> str | None:
    """A checksum as a column."""
    return None if checksum is None else f"{checksum.algorithm} {checksum.type} {checksum.value}"


def unpack_checksum(text: str | None) -> Checksum | None:
    """A column as a checksum."""
    if text is None:
        return None
    algorithm, kind, value = text.split(" ")
    return Checksum(algorithm, value, kind)


OBJECT_COLUMNS = (
    "bucket, key, size, etag, modified_ms, seq, upload, num_parts, checksum, headers, extents, version, parts,"
    " acl"
)


def object_of(row: Sequence[Any]) -> ObjectRow:
    """OBJECT_COLUMNS as a value."""
    bucket, key, size, etag, modified_ms, seq, upload, num_parts, checksum, headers, extents, *rest = row
    version, parts, acl = rest
    return ObjectRow(
        BucketName(bucket),
        ObjectKey(key.decode()),
        size,
        etag,
        modified_ms,
        unpack_headers(headers),
        unpack_extents(extents),
        unpack_checksum(checksum),
        num_parts,
        upload,
        seq,
        version,
        tuple((size, value) for size, value in json.loads(parts)),
        unpack_acl(acl),
    )


def object_columns(row: ObjectRow) -> tuple[Any, ...]:
    """A value as OBJECT_COLUMNS."""
    return (
        row.bucket,
        row.key.encode(),
        row.size,
        row.etag,
        row.modified_ms,
        row.seq,
        row.upload,
        row.num_parts,
        pack_checksum(row.checksum),
        pack_headers(row.headers),
        pack_extents(row.extents),
        row.version,
        json.dumps(row.parts, separators=(",", ":")),
        pack_acl(row.acl),
    )


UPLOAD_COLUMNS = "id, bucket, key, created_ms, headers, algorithm, checksum_type, slab, acl"


def upload_of(row: Sequence[Any]) -> UploadRow:
    """UPLOAD_COLUMNS as a value."""
    upload, bucket, key, created_ms, headers, algorithm, kind, slab, acl = row
    name = BucketName(bucket)
    return UploadRow(
        upload,
        name,
        ObjectKey(key.decode()),
        created_ms,
        unpack_headers(headers),
        algorithm,
        kind,
        slab,
        unpack_acl(acl),
    )


PART_COLUMNS = "number, size, etag, modified_ms, extents, checksum"


def part_of(row: Sequence[Any]) -> PartRow:
    """PART_COLUMNS as a value."""
    number, size, etag, modified_ms, extents, checksum = row
    return PartRow(number, size, etag, modified_ms, unpack_extents(extents), unpack_checksum(checksum))

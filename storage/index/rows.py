"""What the index holds, as frozen values, and their form in SQL."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from storage.auth.acl import Acl, pack_acl, unpack_acl
from storage.auth.key import BucketName, ObjectKey
from storage.checksum import Checksum, combine_crc64nvme
from storage.fault import S3Error

Headers = tuple[tuple[str, str], ...]

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


INLINE = "in-"
NULL_VERSION = "null"  # S3's name of the version that is written while versioning is not enabled
Sizes = tuple[tuple[int, str | None], ...]  # of each part: its bytes and the value of its checksum


@dataclass(frozen=True, slots=True)
class Extent:
    """A run of bytes of one blob, and the CRC64NVME of exactly those bytes.

    A blob whose id begins with INLINE is a row of the index instead of a file: one flush makes it durable, not four.
    """

    blob: str
    offset: int
    length: int
    crc64: int

    @property
    def inline(self) -> bool:
        """True if the bytes are in the index."""
        return self.blob.startswith(INLINE)


@dataclass(frozen=True, slots=True)
class ObjectRow:
    """One version of an object. `etag` is unquoted; `headers` are those to give back, and the tags.

    A delete marker is a version without an ETag; it stands only in the table of versions. Without an `acl` it is its
    bucket's owner's and private.
    """

    bucket: BucketName
    key: ObjectKey
    size: int
    etag: str
    modified_ms: int
    headers: Headers
    extents: tuple[Extent, ...]
    checksum: Checksum | None = None
    num_parts: int = 0  # 0: not a multipart object
    upload: str | None = None
    seq: int = 0
    version: str = NULL_VERSION
    parts: Sizes = ()
    acl: Acl | None = None

    @property
    def marker(self) -> bool:
        """True for a delete marker."""
        return not self.etag


@dataclass(frozen=True, slots=True)
class UploadRow:
    """A multipart upload that has begun. `slab` names the blob that its equal parts may share."""

    id: str
    bucket: BucketName
    key: ObjectKey
    created_ms: int
    headers: Headers
    algorithm: str | None
    checksum_type: str | None
    slab: str
    acl: Acl | None = None


@dataclass(frozen=True, slots=True)
class PartRow:
    """One uploaded part; `etag` begins with a digest of its bytes, 32 digits, mostly their MD5."""

    number: int
    size: int
    etag: str
    modified_ms: int
    extents: tuple[Extent, ...]
    checksum: Checksum | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """One line of the outbox. kind: `put` or `delete`."""

    seq: int
    bucket: str
    key: str
    kind: str
    size: int
    etag: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class Conditions:
    """What must hold of the object that a write replaces; decided inside the commit.

    S3's pages say that If-None-Match takes only `*` here; ETags mean what RFC 9110 section 13.1.2 says.
    """

    if_match: tuple[str, ...] = ()
    if_none_match: tuple[str, ...] = ()

    @classmethod
    def parse(cls, if_match: str | None, if_none_match: str | None) -> "Conditions":
        """The conditions of two headers."""
        return cls(parse_etags(if_match), parse_etags(if_none_match))

    def check(self, etag: str | None) -> None:
        """`etag` of the object as it is, None for none. Raises: S3Error PreconditionFailed, NoSuchKey."""
        if etag is not None and {etag, "*"} & set(self.if_none_match):
            raise _failed("If-None-Match")
        if not self.if_match:
            return
        if etag is None:
            raise S3Error("NoSuchKey", "The specified key does not exist.")
        if "*" not in self.if_match and etag not in self.if_match:
            raise _failed("If-Match")


def _failed(condition: str) -> S3Error:
    return S3Error(
        "PreconditionFailed",
        "At least one of the pre-conditions you specified did not hold",
        Condition=condition,
    )


def parse_etags(raw: str | None) -> tuple[str, ...]:
    """The unquoted ETags of an If-Match or If-None-Match header; `*` stays `*`."""
    if raw is None:
        return ()
    return tuple(re.sub(r'^(?:W/)?"|"$', "", part.strip()) for part in raw.split(","))


def coalesce(extents: Iterable[Extent]) -> tuple[Extent, ...]:
    """The same bytes with neighbouring extents of one blob joined; empty ones go."""
    joined: list[Extent] = []
    for extent in extents:
        last = joined[-1] if joined else None
        if last and last.blob == extent.blob and last.offset + last.length == extent.offset:
            crc64 = combine_crc64nvme(last.crc64, extent.crc64, extent.length)
            joined[-1] = Extent(last.blob, last.offset, last.length + extent.length, crc64)
        elif extent.length:
            joined.append(extent)
    return tuple(joined)


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

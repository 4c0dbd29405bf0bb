"""Uploads in parts, from their first row to the one object that they become, each step inside a transaction."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from storage.auth.acl import pack_acl
from storage.auth.key import BucketName, ObjectKey
from storage.checksum import ALGORITHMS, Checksum, of_parts
from storage.fault import S3Error
from storage.index.changes import COMPLETED
from storage.index.columns import (
    PART_COLUMNS,
    UPLOAD_COLUMNS,
    pack_checksum,
    pack_extents,
    pack_headers,
    unpack_extents,
)
from storage.index.conditions import Conditions
from storage.index.database import Transaction
from storage.index.objects import put_object
from storage.index.reads import demand_bucket, demand_upload, find_object, read_parts
from storage.index.references import adjust_references, count_references
from storage.index.rows import Extent, ObjectRow, PartRow, UploadRow, coalesce

MAX_OBJECT_BYTES = 5 * 1024**4  # S3's largest object


def create_upload(tx: Transaction, upload: UploadRow) -> None:
    """The upload's row holds a reference on its slab. Raises: S3Error NoSuchBucket."""
    demand_bucket(tx.db, upload.bucket)
    tx.db.execute(
        f"INSERT INTO uploads ({UPLOAD_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - a constant of ours
        (
            upload.id,
            upload.bucket,
            upload.key.encode(),
            tx.now_ms,
            pack_headers(upload.headers),
            upload.algorithm,
            upload.checksum_type,
            upload.slab,
            pack_acl(upload.acl),
        ),
    )
    adjust_references(tx, upload.slab, 1)


def put_part(tx: Transaction, upload: UploadRow, part: PartRow) -> PartRow:
    """Keep a part; a part of the same number is replaced. Raises: S3Error NoSuchUpload."""
    demand_upload(tx.db, upload.bucket, upload.key, upload.id)
    where = (upload.id, part.number)
    old = tx.db.execute("SELECT extents FROM parts WHERE upload = ? AND number = ?", where).fetchone()
    count_references(tx, added=part.extents, removed=unpack_extents(old[0]) if old else ())
    tx.db.execute(
        f"INSERT OR REPLACE INTO parts (upload, {PART_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
        (*where, part.size, part.etag, tx.now_ms, pack_extents(part.extents), pack_checksum(part.checksum)),
    )
    return replace(part, modified_ms=tx.now_ms)


def abort_upload(tx: Transaction, bucket: BucketName, key: ObjectKey, upload: str) -> None:
    """Raises: S3Error NoSuchUpload."""
    forget_upload(tx, demand_upload(tx.db, bucket, key, upload))


@dataclass(frozen=True, slots=True)
class NamedPart:
    """A part as the completing caller names it."""

    number: int
    etag: str
    checksums: Mapping[str, str]  # by algorithm name


@dataclass(frozen=True, slots=True)
class Completion:
    """What CompleteMultipartUpload asks for."""

    bucket: BucketName
    key: ObjectKey
    upload: str
    parts: Sequence[NamedPart]
    conditions: Conditions
    min_part_bytes: int
    expected_bytes: int | None = None
    expected_checksum: str | None = None


def complete_upload(tx: Transaction, asked: Completion) -> ObjectRow:
    """Turn the named parts into one object: rows change, no byte moves. Repeating it gives the same answer.

    Raises: S3Error NoSuchUpload, InvalidPart(Order), EntityTooSmall, PreconditionFailed, BadDigest.
    """
    current = find_object(tx.db, asked.bucket, asked.key)
    if current is not None and current.upload == asked.upload:
        return current
    upload = demand_upload(tx.db, asked.bucket, asked.key, asked.upload)
    parts = _named_parts(asked, read_parts(tx.db, upload.id))
    freed = _delete_upload(tx, upload)
    done = put_object(tx, _assembled(upload, asked, parts), asked.conditions, freed, name=COMPLETED)
    adjust_references(tx, upload.slab, -1)
    return done


def _named_parts(asked: Completion, have: Mapping[int, PartRow]) -> list[PartRow]:
    numbers = [named.number for named in asked.parts]
    if any(later <= earlier for earlier, later in pairwise(numbers)):
        raise S3Error("InvalidPartOrder", "The list of parts was not in ascending order.")
    parts = [_named_part(named, have.get(named.number)) for named in asked.parts]
    for part in parts[:-1]:
        if part.size < asked.min_part_bytes:
            raise S3Error(
                "EntityTooSmall",
                "Your proposed upload is smaller than the minimum allowed size",
                PartNumber=str(part.number),
                ProposedSize=str(part.size),
                MinSizeAllowed=str(asked.min_part_bytes),
            )
    return parts


def _named_part(named: NamedPart, part: PartRow | None) -> PartRow:
    """The part, if it is the one that is meant. Raises: S3Error InvalidPart."""
    kept = {part.checksum.algorithm: part.checksum.value} if part and part.checksum else {}
    differs = any(kept.get(name, value) != value for name, value in named.checksums.items())
    if part is None or part.etag != named.etag or differs:
        message = "One or more of the specified parts could not be found, or its entity tag did not match."
        raise S3Error("InvalidPart", message, PartNumber=str(named.number), ETag=named.etag)
    return part


def _assembled(upload: UploadRow, asked: Completion, parts: Sequence[PartRow]) -> ObjectRow:
    size = sum(part.size for part in parts)
    if size > MAX_OBJECT_BYTES:
        raise S3Error("EntityTooLarge", "Your proposed upload exceeds the maximum allowed size")
    if asked.expected_bytes is not None and asked.expected_bytes != size:
        raise S3Error("InvalidRequest", "x-amz-mp-object-size is not the sum of the parts.")
    digests = b"".join(bytes.fromhex(part.etag[:32]) for part in parts)
    etag = hashlib.md5(digests, usedforsecurity=False).hexdigest()
    checksum = _checksum_of(upload, parts)
    if asked.expected_checksum is not None and (
        checksum is None or checksum.value != asked.expected_checksum
    ):
        raise S3Error(
            "BadDigest", "The checksum you specified did not match the one of the assembled object."
        )
    return ObjectRow(
        upload.bucket,
        upload.key,
        size,
        f"{etag}-{len(parts)}",
        0,
        upload.headers,
        coalesce(extent for part in parts for extent in part.extents),
        checksum,
        len(parts),
        upload.id,
        parts=tuple((part.size, part.checksum.value if part.checksum else None) for part in parts),
        acl=upload.acl,
    )


def _checksum_of(upload: UploadRow, parts: Sequence[PartRow]) -> Checksum | None:
    """The object's checksum, if the upload declared one and each part has it."""
    if upload.algorithm is None or upload.checksum_type is None:
        return None
    values = [(part.checksum.value, part.size) for part in parts if part.checksum is not None]
    if len(values) != len(parts):
        raise S3Error(
            "InvalidPart", f"The upload was begun with {upload.algorithm}, but a part came without it."
        )
    return of_parts(ALGORITHMS[upload.algorithm], upload.checksum_type, values)


def forget_upload(tx: Transaction, upload: UploadRow) -> None:
    """Drop an upload, its parts and their references."""
    count_references(tx, added=(), removed=_delete_upload(tx, upload))
    adjust_references(tx, upload.slab, -1)


def _delete_upload(tx: Transaction, upload: UploadRow) -> list[Extent]:
    """Delete the rows of an upload and its parts; returns the extents they named, still counted."""
    rows = tx.db.execute("SELECT extents FROM parts WHERE upload = ?", (upload.id,)).fetchall()
    tx.db.execute("DELETE FROM parts WHERE upload = ?", (upload.id,))
    tx.db.execute("DELETE FROM uploads WHERE id = ?", (upload.id,))
    return [extent for row in rows for extent in unpack_extents(row[0])]

"""Every change of the index, each one function that runs inside a transaction and refuses with an S3Error.

A blob's row counts how many extents name it; whoever takes the last reference away leaves it to the
transaction's `dead`.
"""

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from storage.auth.acl import Acl, pack_acl, private, unpack_acl
from storage.auth.key import FLEET, BucketName, ObjectKey
from storage.checksum import ALGORITHMS, Checksum, of_parts
from storage.fault import S3Error
from storage.index import versions
from storage.index.access import ACL, kept_acl, put_access
from storage.index.database import Transaction
from storage.index.rows import (
    INLINE,
    NULL_VERSION,
    OBJECT_COLUMNS,
    PART_COLUMNS,
    UPLOAD_COLUMNS,
    Conditions,
    Extent,
    Headers,
    ObjectRow,
    PartRow,
    UploadRow,
    coalesce,
    object_of,
    pack_checksum,
    pack_extents,
    pack_headers,
    part_of,
    unpack_extents,
    upload_of,
)
from storage.index.settings import find_setting, versioning_of
from storage.index.tags import split_tags

MAX_OBJECT_BYTES = 5 * 1024**4  # S3's largest object
ANY = Conditions()

# Names of events, S3's: https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-how-to-event-types-and-destinations.html
PUT, POSTED, COPIED = "ObjectCreated:Put", "ObjectCreated:Post", "ObjectCreated:Copy"
COMPLETED = "ObjectCreated:CompleteMultipartUpload"
REMOVED, EXPIRED = "ObjectRemoved", "LifecycleExpiration"  # each with :Delete and :DeleteMarkerCreated
VERSION_ONLY = "version"  # the kind of a line that says nothing of the object as it is read


def create_bucket(tx: Transaction, bucket: BucketName, owner: str = FLEET, acl: Acl | None = None) -> None:
    """Raises: S3Error BucketAlreadyOwnedByYou, BucketAlreadyExists if it is somebody else's or has another ACL."""
    row = tx.db.execute("SELECT owner FROM buckets WHERE name = ?", (bucket,)).fetchone()
    wanted = acl or private(owner)
    if row is None:
        tx.db.execute("INSERT INTO buckets VALUES (?, ?, ?)", (bucket, tx.now_ms, owner))
        if acl is not None and acl != private(owner):
            put_access(tx, bucket, ACL, pack_acl(acl) or "")
        return
    kept = unpack_acl(find_setting(tx.db, bucket, ACL)) or private(row[0])
    if row[0] == owner and kept == wanted:
        message = "Your previous request to create the named bucket succeeded and you already own it."
        raise S3Error("BucketAlreadyOwnedByYou", message, BucketName=bucket)
    message = "The requested bucket name is not available; please select a different name and try again."
    raise S3Error("BucketAlreadyExists", message, BucketName=bucket)


def delete_bucket(tx: Transaction, bucket: BucketName) -> None:
    """Unfinished uploads go with it. Raises: S3Error NoSuchBucket, BucketNotEmpty."""
    demand_bucket(tx.db, bucket)
    query = (
        "SELECT 1 FROM objects WHERE bucket = :b UNION ALL SELECT 1 FROM versions WHERE bucket = :b LIMIT 1"
    )
    if tx.db.execute(query, {"b": bucket}).fetchone():
        raise S3Error("BucketNotEmpty", "The bucket you tried to delete is not empty.", BucketName=bucket)
    for row in tx.db.execute(f"SELECT {UPLOAD_COLUMNS} FROM uploads WHERE bucket = ?", (bucket,)).fetchall():  # noqa: S608
        _forget_upload(tx, upload_of(row))
    tx.db.execute("DELETE FROM settings WHERE bucket = ?", (bucket,))
    tx.db.execute("DELETE FROM buckets WHERE name = ?", (bucket,))
    tx.access_changed = True


def demand_bucket(db: sqlite3.Connection, bucket: str) -> str:
    """Who owns it. Raises: S3Error NoSuchBucket."""
    row = db.execute("SELECT owner FROM buckets WHERE name = ?", (bucket,)).fetchone()
    if row is None:
        raise no_such_bucket(bucket)
    return str(row[0])


def no_such_bucket(bucket: str) -> S3Error:
    """The refusal of whatever is asked of a bucket that is not there."""
    return S3Error("NoSuchBucket", "The specified bucket does not exist.", BucketName=bucket)


def find_object(db: sqlite3.Connection, bucket: BucketName, key: ObjectKey) -> ObjectRow | None:
    """The object, if it is there."""
    query = f"SELECT {OBJECT_COLUMNS} FROM objects WHERE bucket = ? AND key = ?"  # noqa: S608 - a constant of ours
    row = db.execute(query, (bucket, key.encode())).fetchone()
    return None if row is None else object_of(row)


def read_inline(db: sqlite3.Connection, extent: Extent) -> bytes | None:
    """The bytes of an inline extent; None if an overwrite was quicker."""
    row = db.execute("SELECT data FROM inline WHERE id = ?", (extent.blob,)).fetchone()
    return None if row is None else row[0][extent.offset : extent.offset + extent.length]


def demand_object(
    db: sqlite3.Connection, bucket: BucketName, key: ObjectKey, version: str | None = None
) -> ObjectRow:
    """The object, or one version of it. Raises: S3Error NoSuchBucket, NoSuchKey, NoSuchVersion, MethodNotAllowed."""
    found = (
        find_object(db, bucket, key) if version is None else versions.find_version(db, bucket, key, version)
    )
    if found is not None and not found.marker:
        return found
    demand_bucket(db, bucket)
    marker = found or (versions.newest(db, bucket, key) if version is None else None)
    shown = () if marker is None else (("x-amz-delete-marker", "true"), ("x-amz-version-id", marker.version))
    if found is not None:
        message = "The specified method is not allowed against this resource."
        raise S3Error("MethodNotAllowed", message).showing(*shown)
    if version is not None:
        raise S3Error("NoSuchVersion", "The specified version does not exist.", Key=key, VersionId=version)
    raise S3Error("NoSuchKey", "The specified key does not exist.", Key=key).showing(*shown)


def demand_same(row: ObjectRow, seq: int | None) -> None:
    """That it is what was looked at before, if anything was. Raises: S3Error ServiceUnavailable."""
    if seq not in {None, row.seq}:
        raise S3Error("ServiceUnavailable", "The object was overwritten while it was looked at; try again.")


def put_object(
    tx: Transaction,
    row: ObjectRow,
    conditions: Conditions = ANY,
    freed: Iterable[Extent] = (),
    inline: bytes = b"",
    name: str = PUT,
) -> ObjectRow:
    """Make `row` the object of its key; returns it with its time and sequence number. Raises: S3Error.

    `freed`: extents whose rows this transaction has deleted, so that what only changes hands is not counted twice.
    `inline`: the bytes of the row's only extent, if it is an inline one. `name`: of the event, in S3's words.
    """
    owner = demand_bucket(tx.db, row.bucket)
    old = find_object(tx.db, row.bucket, row.key)
    conditions.check(None if old is None else old.etag)
    if inline:
        tx.db.execute("INSERT INTO inline VALUES (?, ?)", (row.extents[0].blob, inline))
    state = versioning_of(tx.db, row.bucket)
    removed = versions.make_room(tx.db, state, old, row.bucket, row.key)
    _count(tx, added=row.extents, removed=(*removed, *freed))
    seq = _record(tx, row, "put", name)
    acl = kept_acl(tx, row.bucket, owner, row.acl)
    row = replace(row, modified_ms=tx.now_ms, seq=seq, version=versions.name_of(state, seq), acl=acl)
    _name_version(tx, state, seq, row.version)
    versions.make_current(tx.db, row)
    return row


@dataclass(frozen=True, slots=True)
class Deleted:
    """What a delete did: the version it removed, or the marker it left; `version` None without versioning."""

    version: str | None = None
    marker: bool = False


def delete_object(
    tx: Transaction,
    bucket: BucketName,
    key: ObjectKey,
    conditions: Conditions = ANY,
    family: str = REMOVED,
) -> Deleted:
    """Delete, or with versioning leave a marker. A missing key is no error, unless a condition asks for it.

    Raises: S3Error.
    """
    demand_bucket(tx.db, bucket)
    old = find_object(tx.db, bucket, key)
    conditions.check(None if old is None else old.etag)
    state = versioning_of(tx.db, bucket)
    _count(tx, added=(), removed=versions.make_room(tx.db, state, old, bucket, key))
    if old is not None:
        versions.remove_current(tx.db, bucket, key)
    if not state:
        if old is not None:
            _record(tx, old, "delete", f"{family}:Delete")
        return Deleted()
    marker = ObjectRow(bucket, key, 0, "", tx.now_ms, (), ())
    seq = _record(tx, marker, "delete", f"{family}:DeleteMarkerCreated")
    marker = replace(marker, seq=seq, version=versions.name_of(state, seq))
    _name_version(tx, state, seq, marker.version)
    versions.keep(tx.db, marker)
    return Deleted(marker.version, marker=True)


def delete_version(
    tx: Transaction,
    bucket: BucketName,
    key: ObjectKey,
    version: str,
    conditions: Conditions = ANY,
    family: str = REMOVED,
) -> Deleted:
    """Delete one version for good; the newest one left is the object then. One that is gone is no error.

    Raises: S3Error NoSuchBucket, NoSuchVersion for what is no id of ours, PreconditionFailed.
    """
    demand_bucket(tx.db, bucket)
    row = versions.find_version(tx.db, bucket, key, version)
    conditions.check(None if row is None or row.marker else row.etag)
    if row is None and version != NULL_VERSION and versions.seq_of(version) is None:
        raise S3Error("NoSuchVersion", "The specified version does not exist.", Key=key, VersionId=version)
    if row is None:
        return Deleted(version)
    was_current = find_object(tx.db, bucket, key)
    versions.remove(tx.db, row)
    _count(tx, added=(), removed=row.extents)
    left = versions.promote(tx.db, bucket, key)
    was_read = was_current is not None and was_current.version == row.version
    kind = "put" if left is not None else "delete" if was_read else VERSION_ONLY
    seq = _record(tx, left or row, kind, f"{family}:Delete")
    _name_version(tx, versioning_of(tx.db, bucket), seq, version)
    return Deleted(version, marker=row.marker)


@dataclass(frozen=True, slots=True)
class CopySource:
    """What to copy, and what must hold of it. `judged`: the change that it must be of, if that let it be read."""

    bucket: BucketName
    key: ObjectKey
    version: str | None = None
    conditions: Conditions = ANY
    none_match: tuple[str, ...] = ()
    modified_since_ms: int | None = None
    unmodified_since_ms: int | None = None
    judged: int | None = None

    def check(self, row: ObjectRow) -> None:
        """Raises: S3Error PreconditionFailed."""
        self.conditions.check(row.etag)
        whole_s_ms = row.modified_ms - row.modified_ms % 1000  # HTTP dates have whole seconds
        refused = {
            "x-amz-copy-source-If-None-Match": bool({row.etag, "*"} & set(self.none_match)),
            "x-amz-copy-source-If-Modified-Since": self.modified_since_ms is not None
            and not self.none_match
            and whole_s_ms <= self.modified_since_ms,
            "x-amz-copy-source-If-Unmodified-Since": self.unmodified_since_ms is not None
            and not self.conditions.if_match
            and whole_s_ms > self.unmodified_since_ms,
        }
        for condition, failed in refused.items():
            if failed:
                message = "At least one of the pre-conditions you specified did not hold"
                raise S3Error("PreconditionFailed", message, Condition=condition)


@dataclass(frozen=True, slots=True)
class CopyTarget:
    """Where to copy to. `headers` and `tags` None keep the source's."""

    bucket: BucketName
    key: ObjectKey
    headers: Headers | None
    tags: Headers | None
    conditions: Conditions = ANY
    acl: Acl | None = None


def copy_object(tx: Transaction, source: CopySource, target: CopyTarget) -> ObjectRow:
    """A second name for the same extents: no byte moves, the ETag stays. Raises: S3Error."""
    row = demand_object(tx.db, source.bucket, source.key, source.version)
    demand_same(row, source.judged)
    source.check(row)
    same = (source.bucket, source.key, source.version) == (target.bucket, target.key, None)
    if same and target.headers is None and target.tags is None:
        raise S3Error(
            "InvalidRequest", "A copy onto itself must change the metadata (x-amz-metadata-directive)."
        )
    old_headers, old_tags = split_tags(row.headers)
    headers = old_headers if target.headers is None else target.headers
    headers += old_tags if target.tags is None else target.tags
    copied = replace(row, bucket=target.bucket, key=target.key, headers=headers, upload=None, acl=target.acl)
    return put_object(tx, copied, target.conditions, name=COPIED)


def move_extent(tx: Transaction, old: Extent, new: Extent) -> int:
    """Put `new` in the place of `old` in every version that names it; returns how many do."""
    return sum(_move_in(tx, table, old, new) for table in ("objects", "versions"))


def move_extents_of(tx: Transaction, row: ObjectRow, old: Extent, new: Extent) -> bool:
    """Put `new` in the place of `old` in the current version of one object; False if `row` is not that any more."""
    current = find_object(tx.db, row.bucket, row.key)
    if current is None or current.seq != row.seq or old not in current.extents:
        return False
    moved = tuple(new if extent == old else extent for extent in current.extents)
    _count(tx, added=moved, removed=current.extents)
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
            _count(tx, added=moved, removed=extents)
            where = (pack_extents(moved), bucket, key, seq)
            tx.db.execute(
                f"UPDATE {table} SET extents = ? WHERE bucket = ? AND key = ? AND seq = ?",  # noqa: S608
                where,
            )
            num_rows += 1
    return num_rows


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
    _adjust(tx, upload.slab, 1)


def demand_upload(db: sqlite3.Connection, bucket: BucketName, key: ObjectKey, upload: str) -> UploadRow:
    """Raises: S3Error NoSuchBucket, NoSuchUpload."""
    query = f"SELECT {UPLOAD_COLUMNS} FROM uploads WHERE id = ? AND bucket = ? AND key = ?"  # noqa: S608
    row = db.execute(query, (upload, bucket, key.encode())).fetchone()
    if row is None:
        demand_bucket(db, bucket)
        message = "The specified upload does not exist. It may have been completed or aborted."
        raise S3Error("NoSuchUpload", message, UploadId=upload)
    return upload_of(row)


def put_part(tx: Transaction, upload: UploadRow, part: PartRow) -> PartRow:
    """Keep a part; a part of the same number is replaced. Raises: S3Error NoSuchUpload."""
    demand_upload(tx.db, upload.bucket, upload.key, upload.id)
    where = (upload.id, part.number)
    old = tx.db.execute("SELECT extents FROM parts WHERE upload = ? AND number = ?", where).fetchone()
    _count(tx, added=part.extents, removed=unpack_extents(old[0]) if old else ())
    tx.db.execute(
        f"INSERT OR REPLACE INTO parts (upload, {PART_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
        (*where, part.size, part.etag, tx.now_ms, pack_extents(part.extents), pack_checksum(part.checksum)),
    )
    return replace(part, modified_ms=tx.now_ms)


def read_parts(db: sqlite3.Connection, upload: str) -> dict[int, PartRow]:
    """All parts of an upload by number, ascending."""
    query = f"SELECT {PART_COLUMNS} FROM parts WHERE upload = ? ORDER BY number"  # noqa: S608 - a constant of ours
    return {row[0]: part_of(row) for row in db.execute(query, (upload,))}


def abort_upload(tx: Transaction, bucket: BucketName, key: ObjectKey, upload: str) -> None:
    """Raises: S3Error NoSuchUpload."""
    _forget_upload(tx, demand_upload(tx.db, bucket, key, upload))


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
    _adjust(tx, upload.slab, -1)
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


def _forget_upload(tx: Transaction, upload: UploadRow) -> None:
    """Drop an upload, its parts and their references."""
    _count(tx, added=(), removed=_delete_upload(tx, upload))
    _adjust(tx, upload.slab, -1)


def _delete_upload(tx: Transaction, upload: UploadRow) -> list[Extent]:
    """Delete the rows of an upload and its parts; returns the extents they named, still counted."""
    rows = tx.db.execute("SELECT extents FROM parts WHERE upload = ?", (upload.id,)).fetchall()
    tx.db.execute("DELETE FROM parts WHERE upload = ?", (upload.id,))
    tx.db.execute("DELETE FROM uploads WHERE id = ?", (upload.id,))
    return [extent for row in rows for extent in unpack_extents(row[0])]


def _count(tx: Transaction, *, added: Iterable[Extent], removed: Iterable[Extent]) -> None:
    """Move the reference counts by what was added and removed."""
    deltas = Counter(extent.blob for extent in added)
    deltas.subtract(Counter(extent.blob for extent in removed))
    for blob, delta in deltas.items():
        if delta:
            _adjust(tx, blob, delta)


def _adjust(tx: Transaction, blob: str, delta: int) -> None:
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


def _record(tx: Transaction, row: ObjectRow, kind: str, name: str) -> int:
    """The outbox line of a change; returns its sequence number."""
    cursor = tx.db.execute(
        "INSERT INTO events (bucket, key, kind, size, etag, at_ms, name) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (row.bucket, row.key.encode(), kind, row.size, row.etag, tx.now_ms, name),
    )
    return int(cursor.lastrowid or 0)


def _name_version(tx: Transaction, state: str, seq: int, version: str) -> None:
    """Say in the outbox line which version it is about; the id of a new one comes from the line's number."""
    if state:
        tx.db.execute("UPDATE events SET version = ? WHERE seq = ?", (version, seq))

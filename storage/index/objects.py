"""Objects put and deleted, each a function that runs inside a transaction and refuses with an S3Error."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from storage.auth.key import BucketName, ObjectKey
from storage.fault import S3Error
from storage.index import versions
from storage.index.access import kept_acl
from storage.index.changes import PUT, REMOVED, VERSION_ONLY, name_version, record_change
from storage.index.conditions import Conditions
from storage.index.database import Transaction
from storage.index.reads import demand_bucket, find_object
from storage.index.references import count_references
from storage.index.rows import NULL_VERSION, Extent, ObjectRow
from storage.index.settings import versioning_of

ANY = Conditions()


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
    count_references(tx, added=row.extents, removed=(*removed, *freed))
    seq = record_change(tx, row, "put", name)
    acl = kept_acl(tx, row.bucket, owner, row.acl)
    row = replace(row, modified_ms=tx.now_ms, seq=seq, version=versions.name_of(state, seq), acl=acl)
    name_version(tx, state, seq, row.version)
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
    count_references(tx, added=(), removed=versions.make_room(tx.db, state, old, bucket, key))
    if old is not None:
        versions.remove_current(tx.db, bucket, key)
    if not state:
        if old is not None:
            record_change(tx, old, "delete", f"{family}:Delete")
        return Deleted()
    marker = ObjectRow(bucket, key, 0, "", tx.now_ms, (), ())
    seq = record_change(tx, marker, "delete", f"{family}:DeleteMarkerCreated")
    marker = replace(marker, seq=seq, version=versions.name_of(state, seq))
    name_version(tx, state, seq, marker.version)
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
    count_references(tx, added=(), removed=row.extents)
    left = versions.promote(tx.db, bucket, key)
    was_read = was_current is not None and was_current.version == row.version
    kind = "put" if left is not None else "delete" if was_read else VERSION_ONLY
    seq = record_change(tx, left or row, kind, f"{family}:Delete")
    name_version(tx, versioning_of(tx.db, bucket), seq, version)
    return Deleted(version, marker=row.marker)

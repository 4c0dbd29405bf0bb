"""What the index has, each a question inside a transaction or beside one; what is not there is an S3Error."""

import sqlite3

from storage.auth.key import BucketName, ObjectKey
from storage.fault import S3Error
from storage.index import versions
from storage.index.columns import OBJECT_COLUMNS, PART_COLUMNS, UPLOAD_COLUMNS, object_of, part_of, upload_of
from storage.index.rows import Extent, ObjectRow, PartRow, UploadRow


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


def demand_upload(db: sqlite3.Connection, bucket: BucketName, key: ObjectKey, upload: str) -> UploadRow:
    """Raises: S3Error NoSuchBucket, NoSuchUpload."""
    query = f"SELECT {UPLOAD_COLUMNS} FROM uploads WHERE id = ? AND bucket = ? AND key = ?"  # noqa: S608
    row = db.execute(query, (upload, bucket, key.encode())).fetchone()
    if row is None:
        demand_bucket(db, bucket)
        message = "The specified upload does not exist. It may have been completed or aborted."
        raise S3Error("NoSuchUpload", message, UploadId=upload)
    return upload_of(row)


def read_parts(db: sqlite3.Connection, upload: str) -> dict[int, PartRow]:
    """All parts of an upload by number, ascending."""
    query = f"SELECT {PART_COLUMNS} FROM parts WHERE upload = ? ORDER BY number"  # noqa: S608 - a constant of ours
    return {row[0]: part_of(row) for row in db.execute(query, (upload,))}

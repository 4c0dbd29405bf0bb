"""Buckets made and taken away, each a function that runs inside a transaction."""

from storage.auth.acl import Acl, pack_acl, private, unpack_acl
from storage.auth.key import FLEET, BucketName
from storage.fault import S3Error
from storage.index.access import ACL, put_access
from storage.index.columns import UPLOAD_COLUMNS, upload_of
from storage.index.database import Transaction
from storage.index.reads import demand_bucket
from storage.index.settings import find_setting
from storage.index.uploads import forget_upload


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
        forget_upload(tx, upload_of(row))
    tx.db.execute("DELETE FROM settings WHERE bucket = ?", (bucket,))
    tx.db.execute("DELETE FROM buckets WHERE name = ?", (bucket,))
    tx.access_changed = True

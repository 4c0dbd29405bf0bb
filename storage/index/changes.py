"""The outbox line of each change, which also gives versions their ids."""

from storage.index.database import Transaction
from storage.index.rows import ObjectRow

# Names of events, S3's: https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-how-to-event-types-and-destinations.html
PUT, POSTED, COPIED = "ObjectCreated:Put", "ObjectCreated:Post", "ObjectCreated:Copy"
COMPLETED = "ObjectCreated:CompleteMultipartUpload"
REMOVED, EXPIRED = "ObjectRemoved", "LifecycleExpiration"  # each with :Delete and :DeleteMarkerCreated
VERSION_ONLY = "version"  # the kind of a line that says nothing of the object as it is read


def record_change(tx: Transaction, row: ObjectRow, kind: str, name: str) -> int:
    """The outbox line of a change; returns its sequence number."""
    cursor = tx.db.execute(
        "INSERT INTO events (bucket, key, kind, size, etag, at_ms, name) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (row.bucket, row.key.encode(), kind, row.size, row.etag, tx.now_ms, name),
    )
    tx.told.add(row.bucket)
    return int(cursor.lastrowid or 0)


def name_version(tx: Transaction, state: str, seq: int, version: str) -> None:
    """Say in the outbox line which version it is about; the id of a new one comes from the line's number."""
    if state:
        tx.db.execute("UPDATE events SET version = ? WHERE seq = ?", (version, seq))

"""An object under a second name, by rows alone."""

from dataclasses import dataclass, replace

from storage.auth.acl import Acl
from storage.auth.key import BucketName, ObjectKey
from storage.fault import S3Error
from storage.index.changes import COPIED
from storage.index.conditions import Conditions
from storage.index.database import Transaction
from storage.index.objects import ANY, put_object
from storage.index.reads import demand_object, demand_same
from storage.index.rows import Headers, ObjectRow
from storage.index.tags import split_tags


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

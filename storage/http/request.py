"""One S3 request with its signature checked, and which operation it is. The tables are the whole surface."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from urllib.parse import unquote_to_bytes

from storage.auth.key import BucketName, Identity, ObjectKey, Right, parse_bucket, parse_key
from storage.auth.sigv4 import Signable, Verified, parse_query
from storage.fault import S3Error
from wire.http1 import RequestHead

# Each of these query parameters makes another operation of the same method and path, ours or not.
SUBRESOURCES = frozenset(
    [
        "accelerate",
        "acl",
        "analytics",
        "attributes",
        "cors",
        "delete",
        "encryption",
        "intelligent-tiering",
        "inventory",
        "legal-hold",
        "lifecycle",
        "list-type",
        "location",
        "logging",
        "metadataTable",
        "metadataConfiguration",
        "metrics",
        "nearfield-changes",
        "nearfield-dead-letters",
        "notification",
        "object-lock",
        "ownershipControls",
        "partNumber",
        "policy",
        "policyStatus",
        "publicAccessBlock",
        "rename",
        "renameObject",
        "replication",
        "requestPayment",
        "restore",
        "retention",
        "select",
        "session",
        "tagging",
        "torrent",
        "uploadId",
        "uploads",
        "versioning",
        "versions",
        "website",
    ]
)
MODIFIERS = frozenset(
    {"partNumber"}
)  # belongs to another parameter's operation, or is refused by the handler

# Headers that change what a write means and that we do not have: silence would be a lie.
REFUSED_HEADERS = (
    "x-amz-server-side-encryption",
    "x-amz-object-lock-",
    "x-amz-bucket-object-lock-enabled",
    "x-amz-grant-",
    "x-amz-website-redirect-location",
    "x-amz-write-offset-bytes",
    "x-amz-copy-source-server-side-encryption",
)
ACCEPTED_VALUES: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "x-amz-acl": frozenset({"private", "bucket-owner-full-control", "bucket-owner-read"}),
        "x-amz-storage-class": frozenset({"STANDARD"}),
        "x-amz-request-payer": frozenset({"requester"}),
        "x-amz-tagging-directive": frozenset({"COPY", "REPLACE"}),
    }
)

# (level, method, subresource) -> operation
OPERATIONS: Mapping[tuple[str, str, str], str] = MappingProxyType(
    {
        ("service", "GET", ""): "ListBuckets",
        ("service", "GET", "nearfield-changes"): "ListChanges",
        ("service", "GET", "nearfield-dead-letters"): "ListDeadLetters",
        ("service", "POST", "nearfield-dead-letters"): "ReplayDeadLetters",
        ("service", "DELETE", "nearfield-dead-letters"): "DeleteDeadLetter",
        ("bucket", "PUT", ""): "CreateBucket",
        ("bucket", "HEAD", ""): "HeadBucket",
        ("bucket", "DELETE", ""): "DeleteBucket",
        ("bucket", "GET", "location"): "GetBucketLocation",
        ("bucket", "GET", ""): "ListObjects",
        ("bucket", "GET", "list-type"): "ListObjectsV2",
        ("bucket", "GET", "uploads"): "ListMultipartUploads",
        ("bucket", "POST", "delete"): "DeleteObjects",
        ("bucket", "POST", ""): "PostObject",
        ("bucket", "GET", "acl"): "GetBucketAcl",
        ("bucket", "PUT", "acl"): "PutBucketAcl",
        ("object", "GET", "attributes"): "GetObjectAttributes",
        ("object", "GET", "acl"): "GetObjectAcl",
        ("object", "PUT", "acl"): "PutObjectAcl",
        ("bucket", "GET", "cors"): "GetBucketCors",
        ("bucket", "PUT", "cors"): "PutBucketCors",
        ("bucket", "DELETE", "cors"): "DeleteBucketCors",
        ("bucket", "GET", "lifecycle"): "GetBucketLifecycleConfiguration",
        ("bucket", "PUT", "lifecycle"): "PutBucketLifecycleConfiguration",
        ("bucket", "DELETE", "lifecycle"): "DeleteBucketLifecycle",
        ("bucket", "GET", "notification"): "GetBucketNotificationConfiguration",
        ("bucket", "PUT", "notification"): "PutBucketNotificationConfiguration",
        ("bucket", "GET", "versioning"): "GetBucketVersioning",
        ("bucket", "PUT", "versioning"): "PutBucketVersioning",
        ("bucket", "GET", "versions"): "ListObjectVersions",
        ("bucket", "GET", "tagging"): "GetBucketTagging",
        ("bucket", "PUT", "tagging"): "PutBucketTagging",
        ("bucket", "DELETE", "tagging"): "DeleteBucketTagging",
        ("object", "GET", "tagging"): "GetObjectTagging",
        ("object", "PUT", "tagging"): "PutObjectTagging",
        ("object", "DELETE", "tagging"): "DeleteObjectTagging",
        ("object", "GET", ""): "GetObject",
        ("object", "HEAD", ""): "HeadObject",
        ("object", "PUT", ""): "PutObject",
        ("object", "DELETE", ""): "DeleteObject",
        ("object", "POST", "uploads"): "CreateMultipartUpload",
        ("object", "PUT", "uploadId"): "UploadPart",
        ("object", "GET", "uploadId"): "ListParts",
        ("object", "POST", "uploadId"): "CompleteMultipartUpload",
        ("object", "DELETE", "uploadId"): "AbortMultipartUpload",
    }
)

# What x-amz-copy-source makes of an operation.
COPIES: Mapping[str, str] = MappingProxyType({"PutObject": "CopyObject", "UploadPart": "UploadPartCopy"})

# What a caller must be allowed to do with the key; operations not named here check for themselves.
KEY_RIGHTS: Mapping[str, Right] = MappingProxyType(
    {
        "GetObject": Right.READ,
        "HeadObject": Right.READ,
        "PutObject": Right.WRITE,
        "CopyObject": Right.WRITE,
        "DeleteObject": Right.WRITE,
        "CreateMultipartUpload": Right.WRITE,
        "UploadPart": Right.WRITE,
        "UploadPartCopy": Right.WRITE,
        "GetObjectAttributes": Right.READ,
        "ListParts": Right.WRITE,
        "CompleteMultipartUpload": Right.WRITE,
        "AbortMultipartUpload": Right.WRITE,
        "GetObjectAcl": Right.READ,
        "PutObjectAcl": Right.WRITE,
        "GetObjectTagging": Right.READ,
        "PutObjectTagging": Right.WRITE,
        "DeleteObjectTagging": Right.WRITE,
    }
)
# The same for the whole bucket, and for the keys under the prefix that a listing asks for.
BUCKET_RIGHTS: Mapping[str, Right] = MappingProxyType(
    {
        "PostObject": Right.WRITE,
        "CreateBucket": Right.ADMIN,
        "DeleteBucket": Right.ADMIN,
        "GetBucketAcl": Right.ADMIN,
        "PutBucketAcl": Right.ADMIN,
        "GetBucketCors": Right.ADMIN,
        "PutBucketCors": Right.ADMIN,
        "DeleteBucketCors": Right.ADMIN,
        "GetBucketLifecycleConfiguration": Right.ADMIN,
        "PutBucketLifecycleConfiguration": Right.ADMIN,
        "DeleteBucketLifecycle": Right.ADMIN,
        "GetBucketNotificationConfiguration": Right.ADMIN,
        "PutBucketNotificationConfiguration": Right.ADMIN,
        "GetBucketVersioning": Right.READ,
        "PutBucketVersioning": Right.ADMIN,
        "GetBucketTagging": Right.ADMIN,
        "PutBucketTagging": Right.ADMIN,
        "DeleteBucketTagging": Right.ADMIN,
    }
)
LIST_RIGHTS: Mapping[str, Right] = MappingProxyType(
    {
        "ListObjects": Right.READ,
        "ListObjectsV2": Right.READ,
        "ListMultipartUploads": Right.READ,
        "ListObjectVersions": Right.READ,
    }
)


@dataclass(frozen=True, slots=True)
class S3Request:
    """A request that was signed by `identity`; the only thing handlers take."""

    head: RequestHead
    verified: Verified
    query: Mapping[str, str]
    operation: str
    _bucket: BucketName | None
    _key: ObjectKey | None

    @property
    def identity(self) -> Identity:
        """Who signed."""
        return self.verified.identity

    @property
    def bucket(self) -> BucketName:
        """The bucket; only for operations on one."""
        assert self._bucket is not None  # noqa: S101 - a type for mypy; OPERATIONS decides it
        return self._bucket

    @property
    def key(self) -> ObjectKey:
        """The key; only for operations on one."""
        assert self._key is not None  # noqa: S101 - as above
        return self._key

    def get(self, name: str) -> str | None:
        """The first header of that lower-case name."""
        return self.head.get(name)


def signable(head: RequestHead) -> Signable:
    """What the signature of a request covers."""
    return Signable(head.method, head.path, head.query, head.headers)


def parse_path(path: str) -> tuple[BucketName | None, ObjectKey | None]:
    """Bucket and key of a path-style path as it was sent. Raises: S3Error."""
    _, _, rest = path.partition("/")
    bucket, _, key = rest.partition("/")
    if not bucket:
        if key:
            raise S3Error("InvalidBucketName", "The path names no bucket.")
        return None, None
    name = parse_bucket(unquote_to_bytes(bucket).decode("utf-8", "replace"))
    return name, parse_key(unquote_to_bytes(key)) if key else None


def read_request(head: RequestHead, verified: Verified) -> S3Request:
    """Which operation a verified request is, with its right checked. Raises: S3Error."""
    bucket, key = parse_path(head.path)
    query = dict(parse_query(head.query))
    operation = _operation(head, query, bucket, key)
    _check_headers(head)
    _check_right(verified.identity, operation, bucket, key, query.get("prefix", ""))
    return S3Request(head, verified, MappingProxyType(query), operation, bucket, key)


def _operation(head: RequestHead, query: Mapping[str, str], bucket: str | None, key: str | None) -> str:
    level = "service" if bucket is None else "bucket" if key is None else "object"
    named = sorted((SUBRESOURCES - MODIFIERS) & query.keys())
    found = OPERATIONS.get((level, head.method, named[0] if named else "")) if len(named) < 2 else None
    copies = head.get("x-amz-copy-source") is not None
    if found is None:
        what = " ".join([head.method, level, *named, *(["copy"] if copies else [])])
        raise S3Error("NotImplemented", f"This store does not implement: {what}.")
    return COPIES.get(found, found) if copies else found


def _check_headers(head: RequestHead) -> None:
    for name, value in head.headers:
        accepted = ACCEPTED_VALUES.get(name)
        unknown_value = accepted is not None and value not in accepted
        if unknown_value or (accepted is None and name.startswith(REFUSED_HEADERS)):
            raise S3Error("NotImplemented", f"This store does not implement {name}: {value}.", Header=name)


def _check_right(
    identity: Identity, operation: str, bucket: str | None, key: str | None, prefix: str
) -> None:
    if bucket is None:
        return
    if not identity.sees(bucket):
        raise S3Error("AccessDenied", "This key has no grant on the bucket.")
    if operation in KEY_RIGHTS:
        identity.demand(KEY_RIGHTS[operation], bucket, key or "")
    elif operation in BUCKET_RIGHTS:
        identity.demand(BUCKET_RIGHTS[operation], bucket)
    elif operation in LIST_RIGHTS:
        identity.demand(LIST_RIGHTS[operation], bucket, prefix)

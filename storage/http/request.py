"""One S3 request with its signature checked, and which operation it is. The tables are the whole surface."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from urllib.parse import unquote_to_bytes

from storage.auth.canonical import Signable, parse_query
from storage.auth.key import BucketName, Identity, ObjectKey, Right, parse_bucket, parse_key
from storage.auth.sigv4 import Verified
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
    "x-amz-website-redirect-location",
    "x-amz-write-offset-bytes",
    "x-amz-copy-source-server-side-encryption",
)
ACCEPTED_VALUES: Mapping[str, frozenset[str]] = MappingProxyType(
    {
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
        ("bucket", "GET", "policy"): "GetBucketPolicy",
        ("bucket", "PUT", "policy"): "PutBucketPolicy",
        ("bucket", "DELETE", "policy"): "DeleteBucketPolicy",
        ("bucket", "GET", "policyStatus"): "GetBucketPolicyStatus",
        ("bucket", "GET", "publicAccessBlock"): "GetPublicAccessBlock",
        ("bucket", "PUT", "publicAccessBlock"): "PutPublicAccessBlock",
        ("bucket", "DELETE", "publicAccessBlock"): "DeletePublicAccessBlock",
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
        "PutObjectAcl": Right.ADMIN,  # to write is not to open what is written to others
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
        "GetBucketPolicy": Right.ADMIN,
        "PutBucketPolicy": Right.ADMIN,
        "DeleteBucketPolicy": Right.ADMIN,
        "GetBucketPolicyStatus": Right.ADMIN,
        "GetPublicAccessBlock": Right.ADMIN,
        "PutPublicAccessBlock": Right.ADMIN,
        "DeletePublicAccessBlock": Right.ADMIN,
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
_RIGHTS = {**KEY_RIGHTS, **BUCKET_RIGHTS, **LIST_RIGHTS}


@dataclass(frozen=True, slots=True)
class S3Request:
    """A request that was signed by `identity` and may be; the only thing handlers take.

    Attributes:
        peer: the address it came from.
        judged: the change that made the object whose owner, list or tags let it through; None if any object may be.
    """

    head: RequestHead
    verified: Verified
    query: Mapping[str, str]
    operation: str
    _bucket: BucketName | None
    _key: ObjectKey | None
    peer: str = ""
    judged: int | None = None

    @property
    def identity(self) -> Identity:
        """Who signed."""
        return self.verified.identity

    @property
    def target(self) -> tuple[BucketName | None, ObjectKey | None]:
        """Bucket and key, as far as the path names them."""
        return self._bucket, self._key

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

    @property
    def names_bucket(self) -> bool:
        """True for operations on a bucket or in one."""
        return self._bucket is not None

    @property
    def names_key(self) -> bool:
        """True for operations on one object."""
        return self._key is not None

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


def read_request(head: RequestHead, verified: Verified, peer: str = "") -> S3Request:
    """Which operation a verified request is; whether it may be, `storage.authority` decides. Raises: S3Error."""
    bucket, key = parse_path(head.path)
    query = dict(parse_query(head.query))
    operation = _operation(head, query, bucket, key)
    if operation is None and verified.identity.anonymous:
        raise S3Error("AccessDenied", "Access Denied")  # strangers are not told what there is
    if operation is None:
        raise S3Error("NotImplemented", f"This store does not implement: {_named(head, query, bucket, key)}.")
    _check_headers(head)
    return S3Request(head, verified, MappingProxyType(query), operation, bucket, key, peer)


def _operation(
    head: RequestHead, query: Mapping[str, str], bucket: str | None, key: str | None
) -> str | None:
    """The operation; None for what is none of ours."""
    named = sorted((SUBRESOURCES - MODIFIERS) & query.keys())
    found = OPERATIONS.get((_level(bucket, key), head.method, "".join(named))) if len(named) < 2 else None
    if found is None or head.get("x-amz-copy-source") is None:
        return found
    return COPIES.get(found, found)


def _named(head: RequestHead, query: Mapping[str, str], bucket: str | None, key: str | None) -> str:
    """What was asked for, in words."""
    named = sorted((SUBRESOURCES - MODIFIERS) & query.keys())
    copies = ["copy"] if head.get("x-amz-copy-source") is not None else []
    return " ".join([head.method, _level(bucket, key), *named, *copies])


def _level(bucket: str | None, key: str | None) -> str:
    return "service" if bucket is None else "bucket" if key is None else "object"


def _check_headers(head: RequestHead) -> None:
    for name, value in head.headers:
        accepted = ACCEPTED_VALUES.get(name)
        unknown_value = accepted is not None and value not in accepted
        if unknown_value or (accepted is None and name.startswith(REFUSED_HEADERS)):
            raise S3Error("NotImplemented", f"This store does not implement {name}: {value}.", Header=name)


def is_granted(request: S3Request, least: Right = Right.OWN) -> bool:
    """True if the key's grants are enough for the request, and not less than `least`."""
    bucket, key = request.target
    identity, operation = request.identity, request.operation
    if bucket is None or operation not in _RIGHTS:
        return bucket is None or (
            identity.sees(bucket) if least is Right.OWN else identity.may(least, bucket)
        )
    prefix = key or (request.query.get("prefix", "") if operation in LIST_RIGHTS else "")
    return identity.may(max(_RIGHTS[operation], least), bucket, prefix)

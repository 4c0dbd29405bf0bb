"""The whole surface of the store, as tables: which operations there are, what each takes a caller's right to.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/API_Operations.html
"""

from collections.abc import Mapping
from types import MappingProxyType

from storage.auth.key import Right

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
RIGHTS: Mapping[str, Right] = MappingProxyType({**KEY_RIGHTS, **BUCKET_RIGHTS, **LIST_RIGHTS})

"""What a bucket says about who may do what, and how it is put together with a key's grants. Pure.

1. An administrator's grant on all that is asked for is enough; nothing else is looked at.
2. A policy's denial is final; only the bucket's owner can always read and change the policy itself.
3. Otherwise any one of these is enough: a grant of the key; ownership, for a key with an `own` grant there; the
   policy's permission; an ACL's. Nobody signed: only the last two, and never to change a bucket's settings.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from storage.auth.acl import Acl, Permission
from storage.auth.key import Identity
from storage.auth.policy import Policy, Verdict
from storage.fault import S3Error

BLOCK_ACLS = "BlockPublicAcls"
IGNORE_ACLS = "IgnorePublicAcls"
BLOCK_POLICY = "BlockPublicPolicy"
RESTRICT = "RestrictPublicBuckets"
SWITCHES = (BLOCK_ACLS, IGNORE_ACLS, BLOCK_POLICY, RESTRICT)


@dataclass(frozen=True, slots=True)
class Need:
    """What an operation needs beside a grant.

    Attributes:
        action: its name in policies.
        on_bucket, on_object: the ACL permission that is enough, if one is.
        of_object: it is about an object that is there, and so up to that object's owner.
        setting: it reads or changes what is set on the bucket, which is nothing for those who signed nothing.
    """

    action: str
    on_bucket: Permission | None = None
    on_object: Permission | None = None
    of_object: bool = False
    setting: bool = False


_GET = Need("s3:GetObject", on_object=Permission.READ, of_object=True)
_PUT = Need("s3:PutObject", Permission.WRITE)
_LIST = Need("s3:ListBucket", Permission.READ)

NEEDS: Mapping[str, Need] = MappingProxyType(
    {
        "GetObject": _GET,
        "HeadObject": _GET,
        "GetObjectAttributes": _GET,
        "PutObject": _PUT,
        "CopyObject": _PUT,
        "CreateMultipartUpload": _PUT,
        "UploadPart": _PUT,
        "UploadPartCopy": _PUT,
        "CompleteMultipartUpload": _PUT,
        "AbortMultipartUpload": Need("s3:AbortMultipartUpload", Permission.WRITE),
        "ListParts": Need("s3:ListMultipartUploadParts", Permission.WRITE),
        "DeleteObject": Need("s3:DeleteObject", Permission.WRITE),
        "GetObjectAcl": Need("s3:GetObjectAcl", on_object=Permission.READ_ACP, of_object=True),
        "PutObjectAcl": Need("s3:PutObjectAcl", on_object=Permission.WRITE_ACP, of_object=True),
        "GetObjectTagging": Need("s3:GetObjectTagging", of_object=True),
        "PutObjectTagging": Need("s3:PutObjectTagging", of_object=True),
        "DeleteObjectTagging": Need("s3:DeleteObjectTagging", of_object=True),
        "HeadBucket": _LIST,
        "ListObjects": _LIST,
        "ListObjectsV2": _LIST,
        "ListObjectVersions": Need("s3:ListBucketVersions", Permission.READ),
        "ListMultipartUploads": Need("s3:ListBucketMultipartUploads", Permission.READ),
        "GetBucketLocation": Need("s3:GetBucketLocation", setting=True),
        "GetBucketAcl": Need("s3:GetBucketAcl", Permission.READ_ACP, setting=True),
        "PutBucketAcl": Need("s3:PutBucketAcl", Permission.WRITE_ACP, setting=True),
        "GetBucketPolicyStatus": Need("s3:GetBucketPolicyStatus", setting=True),
        "GetPublicAccessBlock": Need("s3:GetBucketPublicAccessBlock", setting=True),
        "PutPublicAccessBlock": Need("s3:PutBucketPublicAccessBlock", setting=True),
        "DeletePublicAccessBlock": Need("s3:PutBucketPublicAccessBlock", setting=True),
        "GetBucketCors": Need("s3:GetBucketCORS", setting=True),
        "PutBucketCors": Need("s3:PutBucketCORS", setting=True),
        "DeleteBucketCors": Need("s3:PutBucketCORS", setting=True),
        "DeleteBucketTagging": Need("s3:PutBucketTagging", setting=True),
        "GetBucketLifecycleConfiguration": Need("s3:GetLifecycleConfiguration", setting=True),
        "PutBucketLifecycleConfiguration": Need("s3:PutLifecycleConfiguration", setting=True),
        "DeleteBucketLifecycle": Need("s3:PutLifecycleConfiguration", setting=True),
        "GetBucketNotificationConfiguration": Need("s3:GetBucketNotification", setting=True),
        "PutBucketNotificationConfiguration": Need("s3:PutBucketNotification", setting=True),
    }
)
OWN_POLICY = frozenset({"s3:GetBucketPolicy", "s3:PutBucketPolicy", "s3:DeleteBucketPolicy"})
OF_VERSIONS: Mapping[str, str] = MappingProxyType(  # the names where a request says which version it means
    {
        "s3:GetObject": "s3:GetObjectVersion",
        "s3:DeleteObject": "s3:DeleteObjectVersion",
        "s3:GetObjectAcl": "s3:GetObjectVersionAcl",
        "s3:PutObjectAcl": "s3:PutObjectVersionAcl",
        "s3:GetObjectTagging": "s3:GetObjectVersionTagging",
        "s3:PutObjectTagging": "s3:PutObjectVersionTagging",
        "s3:DeleteObjectTagging": "s3:DeleteObjectVersionTagging",
    }
)


def need_of(operation: str) -> Need:
    """What an operation needs; of a bucket's settings the policy's name is the operation's."""
    return NEEDS.get(operation) or Need(f"s3:{operation}", setting=True)


@dataclass(frozen=True, slots=True)
class BucketAccess:
    """Whose a bucket is, and whom it lets in.

    Attributes:
        mixed: it may have objects with an owner or a list of their own.
    """

    owner: str
    acl: Acl
    policy: Policy | None = None
    switches: frozenset[str] = frozenset()
    mixed: bool = False

    @property
    def public(self) -> bool:
        """True if its policy or its ACL lets in everybody, or everybody with a key."""
        by_acl = self.acl.public and IGNORE_ACLS not in self.switches
        return by_acl or (self.policy is not None and self.policy.public)

    def demand_unblocked(self, acl: Acl) -> None:
        """Raises: S3Error AccessDenied for a list that opens anything, where that is blocked."""
        if acl.public and BLOCK_ACLS in self.switches:
            raise S3Error("AccessDenied", "Public ACLs are blocked on this bucket (BlockPublicAcls).")

    def is_owner(self, identity: Identity, bucket: str) -> bool:
        """True if the caller acts for its owner."""
        return bool(identity.user) and identity.user == self.owner and identity.may_own(bucket)

    def heeds(self, verdict: Verdict) -> bool:
        """True for a permission that counts: a public policy's does not where that is switched off."""
        restricted = RESTRICT in self.switches and self.policy is not None and self.policy.public
        return verdict is Verdict.ALLOW and not restricted

    def permits(self, identity: Identity, acl: Acl, permission: Permission | None) -> bool:
        """True if a list, its own or an object's, gives the permission."""
        ignore = IGNORE_ACLS in self.switches
        return permission is not None and acl.permits(identity, permission, ignore_public=ignore)


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that somebody asks of a bucket or a key, as far as it is known without the object."""

    identity: Identity
    bucket: str
    need: Need
    granted: bool
    verdict: Verdict = Verdict.NOTHING

    def rules_before_object(self, access: BucketAccess) -> bool | None:
        """Whether it may be; None if that is up to the object."""
        owner = access.is_owner(self.identity, self.bucket)
        if self.verdict is Verdict.DENY:
            return owner and self.need.action in OWN_POLICY
        if self.granted:
            return True
        if self.need.setting and self.identity.anonymous:
            return False
        if access.heeds(self.verdict) or access.permits(self.identity, access.acl, self.need.on_bucket):
            return True
        if self.need.of_object and (access.mixed or not owner):
            return None
        return owner

    def rules_for_object(self, access: BucketAccess, acl: Acl) -> bool:
        """Whether it may be done to the object of that owner and list."""
        own = self.identity.user == acl.owner and self.identity.may_own(self.bucket)
        return own or access.permits(self.identity, acl, self.need.on_object)

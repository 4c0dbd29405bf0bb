"""Names and rights: bucket names, object keys, access keys and what each may touch.

Raw text becomes one of these types once, at the wall; nothing behind it checks again. Keys never become
paths.
"""

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import NewType

from storage.fault import S3Error

BucketName = NewType("BucketName", str)
ObjectKey = NewType("ObjectKey", str)

MAX_KEY_BYTES = 1024  # S3's limit on the UTF-8 form of a key
FLEET = "nearfield"  # who owns what a key without a user makes: nobody in particular

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_IP_ADDRESS = re.compile(r"\d{1,3}(\.\d{1,3}){3}")
_ACCESS_KEY_ID = re.compile(r"[A-Za-z0-9_.-]{3,128}")
_USER = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def parse_bucket(raw: str) -> BucketName:
    """A bucket's name by S3's rules. Raises: S3Error InvalidBucketName."""
    bad_shape = ".." in raw or ".-" in raw or "-." in raw or _IP_ADDRESS.fullmatch(raw)
    if bad_shape or not _BUCKET.fullmatch(raw):
        raise S3Error(
            "InvalidBucketName",
            "3 to 63 of a-z, 0-9, '-' and '.', first and last a letter or digit.",
            BucketName=raw,
        )
    return BucketName(raw)


def parse_key(raw: bytes) -> ObjectKey:
    """An object's key from its decoded bytes.

    `.` and `..` segments are refused although S3 stores them: clients that mirror a bucket to a disk turn
    keys into paths. NUL is refused because no XML answer can carry it.

    Raises: S3Error KeyTooLongError, InvalidURI, InvalidArgument.
    """
    if len(raw) > MAX_KEY_BYTES:
        raise S3Error(
            "KeyTooLongError", "Your key is too long.", Size=str(len(raw)), MaxSizeAllowed=str(MAX_KEY_BYTES)
        )
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise S3Error("InvalidURI", "The key is not valid UTF-8.") from error
    if not text or "\x00" in text:
        raise S3Error("InvalidArgument", "A key is not empty and holds no NUL.")
    if any(segment in {".", ".."} for segment in text.split("/")):
        raise S3Error("InvalidArgument", "A key has no '.' or '..' segment.")
    return ObjectKey(text)


class Right(IntEnum):
    """What may be done; each right includes those below it.

    OWN is none of its own: it lets a key make buckets, and do everything in those that its user owns.
    """

    OWN = 0
    READ = 1
    WRITE = 2
    ADMIN = 3


@dataclass(frozen=True, slots=True)
class Grant:
    """One right on the keys of `bucket` that begin with `prefix`; bucket `*` is every bucket."""

    bucket: str
    prefix: str
    right: Right

    @classmethod
    def parse(cls, text: str) -> "Grant":
        """`bucket:prefix:own|read|write|admin`; a prefix of `*` or nothing is every key. Raises: ValueError."""
        bucket, _, rest = text.partition(":")
        prefix, colon, right = rest.rpartition(":")
        if not bucket or not colon or right not in {"own", "read", "write", "admin"}:
            raise ValueError(f"{text!r} is not bucket:prefix:own|read|write|admin")
        if right == "own" and prefix not in {"", "*"}:
            raise ValueError(f"{text!r}: whole buckets are owned, not prefixes")
        if bucket != "*" and not _BUCKET.fullmatch(bucket):
            raise ValueError(f"{bucket!r} is not a bucket name or *")
        return cls(bucket, "" if prefix == "*" else prefix, Right[right.upper()])

    def __str__(self) -> str:
        return f"{self.bucket}:{self.prefix}:{self.right.name.lower()}"

    def covers(self, bucket: str, prefix: str, right: Right) -> bool:
        """True if every key of `bucket` that begins with `prefix` may be used with `right`."""
        return self.right >= right and self.bucket in {"*", bucket} and prefix.startswith(self.prefix)


@dataclass(frozen=True, slots=True)
class AccessKey:
    """A caller's name. Its secret is derived, so no region stores one.

    A new generation revokes the old, unless `old_until_s` (Unix time) gives the one before it a while yet.
    Keys of one `user` act as one owner of buckets and objects; what a key without one makes is the fleet's.
    """

    id: str
    generation: int
    grants: tuple[Grant, ...]
    old_until_s: float = 0.0
    user: str = ""

    def __post_init__(self) -> None:
        if not _ACCESS_KEY_ID.fullmatch(self.id):
            raise ValueError(f"{self.id!r} is not an access key id: 3 to 128 of A-Z a-z 0-9 _ . -")
        if self.user and (self.user == FLEET or not _USER.fullmatch(self.user)):
            raise ValueError(f"{self.user!r} is not a user: 1 to 64 of A-Z a-z 0-9 _ . -, and not {FLEET}")
        if not self.user and any(grant.right is Right.OWN for grant in self.grants):
            raise ValueError(f"the key {self.id!r} has an own grant and no user who would own anything")

    def before(self) -> "tuple[AccessKey, ...]":
        """The key as it was one generation ago; nothing for the first."""
        return (replace(self, generation=self.generation - 1),) if self.generation > 1 else ()

    def secret(self, root_key: bytes) -> str:
        """The secret: 43 characters of base64url of HMAC-SHA256(root_key, "id|generation")."""
        digest = hmac.digest(root_key, f"{self.id}|{self.generation}".encode(), hashlib.sha256)
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who signed a request, and so what it may do. Only `sigv4` makes one, and ANONYMOUS is nobody's."""

    access_key: str
    grants: tuple[Grant, ...]
    user: str = ""

    @property
    def anonymous(self) -> bool:
        """True if nobody signed."""
        return not self.access_key

    @property
    def owner(self) -> str:
        """Who owns the buckets it makes."""
        return self.user or FLEET

    def may(self, right: Right, bucket: str, prefix: str = "") -> bool:
        """True if `right` is granted on all keys of `bucket` that begin with `prefix`."""
        return any(grant.covers(bucket, prefix, right) for grant in self.grants)

    def demand(self, right: Right, bucket: str, prefix: str = "") -> None:
        """Raises: S3Error AccessDenied unless `may`."""
        if not self.may(right, bucket, prefix):
            raise S3Error("AccessDenied", f"This key has no {right.name.lower()} grant here.")

    def sees(self, bucket: str) -> bool:
        """True if any grant touches `bucket`, whoever owns it."""
        return any(grant.right > Right.OWN and grant.bucket in {"*", bucket} for grant in self.grants)

    def may_own(self, bucket: str) -> bool:
        """True if it may make a bucket of that name, and use it as its owner."""
        return any(grant.right is Right.OWN and grant.bucket in {"*", bucket} for grant in self.grants)


ANONYMOUS = Identity("", ())

"""One S3 request with its signature checked, and which operation of `surface` it is."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from urllib.parse import unquote_to_bytes

from storage.auth.canonical import Signable, parse_query
from storage.auth.key import BucketName, Identity, ObjectKey, Right, parse_bucket, parse_key
from storage.auth.sigv4 import Verified
from storage.fault import S3Error
from storage.http.surface import (
    ACCEPTED_VALUES,
    COPIES,
    LIST_RIGHTS,
    MODIFIERS,
    OPERATIONS,
    REFUSED_HEADERS,
    RIGHTS,
    SUBRESOURCES,
)
from wire.http.http1 import RequestHead


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
    if bucket is None or operation not in RIGHTS:
        return bucket is None or (
            identity.sees(bucket) if least is Right.OWN else identity.may(least, bucket)
        )
    prefix = key or (request.query.get("prefix", "") if operation in LIST_RIGHTS else "")
    return identity.may(max(RIGHTS[operation], least), bucket, prefix)

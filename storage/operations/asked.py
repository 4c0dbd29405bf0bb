"""What a request about an object says: headers to keep, who may read what it writes, conditions, a version."""

import sqlite3

from storage.auth.acl import Acl, acl_from_headers, asks_acl, private
from storage.auth.key import Right
from storage.fault import S3Error
from storage.http.request import S3Request
from storage.index.conditions import Conditions
from storage.index.reads import demand_object, demand_same, no_such_bucket
from storage.index.rows import Headers, ObjectRow
from storage.store import Store

MAX_META_BYTES = 2048  # S3's limit on the names and values of x-amz-meta-*
META = "x-amz-meta-"
CONTENT_HEADERS = (
    "content-type",
    "content-encoding",
    "content-language",
    "content-disposition",
    "cache-control",
    "expires",
)


def kept_headers(request: S3Request) -> Headers:
    """The headers that are stored with an object. Raises: S3Error MetadataTooLarge."""
    kept = {name: value for name, value in request.head.headers if name in CONTENT_HEADERS}
    codings = [coding.strip() for coding in kept.pop("content-encoding", "").split(",")]
    coding = ", ".join(coding for coding in codings if coding not in {"", "aws-chunked"})
    if coding:
        kept["content-encoding"] = coding
    meta: dict[str, list[str]] = {}
    for name, value in request.head.headers:
        if name.startswith(META):
            meta.setdefault(name, []).append(value)
    kept |= {name: ",".join(values) for name, values in meta.items()}
    size = sum(len(name) - len(META) + len(value) for name, value in kept.items() if name.startswith(META))
    if size > MAX_META_BYTES:
        message = "Your metadata headers exceed the maximum allowed metadata size"
        raise S3Error("MetadataTooLarge", message, Size=str(size), MaxSizeAllowed=str(MAX_META_BYTES))
    return tuple(kept.items())


def acl_asked(store: Store, request: S3Request) -> Acl | None:
    """The owner and list of what a request writes; None for the bucket's owner and nobody else.

    A key without a user, and who signed nothing, writes for the bucket's owner. A write grant is not one to open what
    is written to others: that takes an admin or an own grant; who signed nothing has none to overstep. Raises: S3Error.
    """
    identity, user = request.identity, request.identity.user
    if not user and not asks_acl(request.head.headers):
        return None
    access = store.accesses.find(request.bucket)
    if access is None:
        raise no_such_bucket(request.bucket)
    owner = user or access.owner
    knows = store.verifier.keys.knows
    acl = acl_from_headers(request.head.headers, owner, access.owner, knows) or private(owner)
    access.demand_unblocked(acl)
    free = identity.anonymous or identity.may_own(request.bucket)
    if acl.opens(owner, access.owner) and not free:
        identity.demand(Right.ADMIN, request.bucket, request.key)
    return acl


def write_conditions(request: S3Request) -> Conditions:
    """What must hold of the object that a write replaces. Raises: S3Error."""
    return Conditions.parse(request.get("if-match"), request.get("if-none-match"))


def version_asked(request: S3Request) -> str | None:
    """The version that is meant, None for the one that is read. Raises: S3Error InvalidArgument."""
    return parse_version(request.query.get("versionId"))


def parse_version(raw: str | None) -> str | None:
    """A version id from outside. Raises: S3Error InvalidArgument."""
    if raw is not None and not (raw and raw.isascii() and raw.isprintable()):
        raise S3Error("InvalidArgument", "Invalid version id specified", ArgumentName="versionId")
    return raw


def demand_judged(db: sqlite3.Connection, request: S3Request) -> ObjectRow:
    """The object that a request is about, if it is the one that it was let through for. Raises: S3Error."""
    row = demand_object(db, request.bucket, request.key, version_asked(request))
    demand_same(row, request.judged)
    return row

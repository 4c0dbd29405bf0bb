"""Whether a request may be: what `auth.access` decides, told of one request to one store.

Most requests end at the key's grants: no policy, no list and no object is looked at. What a bucket says is read from
the index once and kept; an object is looked at only where its owner, its list or its tags decide.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl, unquote

from storage.auth.access import OF_VERSIONS, BucketAccess, Case, Need, need_of
from storage.auth.acl import ACL_HEADER, GRANT_HEADERS, private
from storage.auth.key import BucketName, ObjectKey, Right
from storage.auth.policy import ARN, NEW_TAG, OLD_TAG, SOURCE_IP, Verdict
from storage.fault import S3Error
from storage.http.request import S3Request, is_granted
from storage.index.reads import demand_object, find_object, no_such_bucket
from storage.index.rows import ObjectRow
from storage.index.tags import TAGGING, tags_of
from storage.index.versions import find_version
from storage.store import Store

NONE_THERE = 0  # no change has this number
_THEY_CHECK = frozenset({"ListBuckets", "ListChanges", "DeleteObjects"})  # each bucket or key by itself
_READ = need_of("GetObject")
_DELETE = need_of("DeleteObject")
_LIST = need_of("ListObjects")
_COPY_SOURCE = "x-amz-copy-source"
_EXPECTED = "x-amz-expected-bucket-owner"
_EXPECTED_SOURCE = "x-amz-source-expected-bucket-owner"
_HEADERS = {
    "referer": "aws:referer",
    "user-agent": "aws:useragent",
    **{
        name: f"s3:{name}"
        for name in (
            ACL_HEADER,
            *GRANT_HEADERS,
            "x-amz-content-sha256",
            "x-amz-metadata-directive",
            "x-amz-server-side-encryption",
            "x-amz-storage-class",
        )
    },
}
_PARAMETERS = {
    "prefix": "s3:prefix",
    "delimiter": "s3:delimiter",
    "max-keys": "s3:max-keys",
    "versionId": "s3:versionid",
}


@dataclass(frozen=True, slots=True)
class Ask:
    """One thing that a request asks for; `owner` is whose bucket the caller expects it to be."""

    need: Need
    bucket: BucketName
    key: ObjectKey | None
    version: str | None
    granted: bool
    owner: str | None = None


def authorise(store: Store, request: S3Request, tags: Mapping[str, str] | None = None) -> S3Request:
    """The request, if it may be. `tags`: those in its body, once they are known.

    Raises: S3Error AccessDenied, NoSuchBucket; NoSuchKey to a caller who may list the bucket.
    """
    bucket, key = request.target
    owner = request.get(_EXPECTED)
    if bucket is None and request.identity.anonymous:
        raise _denied()
    if (owner is None and is_granted(request, Right.ADMIN)) or request.operation in _THEY_CHECK:
        return request
    if request.operation == "CreateBucket" or bucket is None:
        if bucket is not None and not (is_granted(request) or request.identity.may_own(bucket)):
            raise _denied()
        return request
    version = request.query.get("versionId")
    ask = Ask(need_of(request.operation), bucket, key, version, is_granted(request), owner)
    return replace(request, judged=demand(store, request, ask, tags or {}))


def demand_read(
    store: Store, request: S3Request, bucket: BucketName, key: ObjectKey, version: str | None
) -> int | None:
    """Let a request read the source of a copy; see `demand`. Raises: S3Error."""
    granted = request.identity.may(Right.READ, bucket, key)
    return demand(store, request, Ask(_READ, bucket, key, version, granted, request.get(_EXPECTED_SOURCE)))


def demand_delete(store: Store, request: S3Request, key: ObjectKey, version: str | None) -> None:
    """Let a request delete one of the keys in its body. Raises: S3Error."""
    granted = request.identity.may(Right.WRITE, request.bucket, key)
    if request.identity.may(Right.ADMIN, request.bucket, key) and request.get(_EXPECTED) is None:
        return
    demand(store, request, Ask(_DELETE, request.bucket, key, version, granted, request.get(_EXPECTED)))


def demand(store: Store, request: S3Request, ask: Ask, tags: Mapping[str, str] | None = None) -> int | None:
    """Let it be, or refuse.

    Returns:
        Which change made the object that was looked at, NONE_THERE if there was none; None if any object may be.
    """
    access = store.accesses.find(ask.bucket)
    if access is None:
        told = ask.granted or request.identity.anonymous or request.identity.may_own(ask.bucket)
        raise no_such_bucket(ask.bucket) if told else _denied()
    if ask.owner not in {None, access.owner}:
        raise _denied()
    if ask.granted and access.policy is None:
        return None
    looked = access.policy is not None and access.policy.reads_tags
    row = _find(store, ask) if looked else None
    case = _case(request, ask, access, _context(request, tags or {}, row))
    ruling = case.rules_before_object(access)
    if ruling is None:
        looked, row = True, row or _find(store, ask)
        if row is None:
            raise _missing(store, request, ask, access)
        ruling = case.rules_for_object(access, row.acl or private(access.owner))
    if not ruling:
        raise _denied()
    return (row.seq if row else NONE_THERE) if looked else None


def _case(request: S3Request, ask: Ask, access: BucketAccess, context: Mapping[str, str]) -> Case:
    """What is asked, with what the policy says to it."""
    action = ask.need.action if ask.version is None else OF_VERSIONS.get(ask.need.action, ask.need.action)
    resource = ARN + ask.bucket + ("" if ask.key is None else f"/{ask.key}")
    verdict = Verdict.NOTHING
    if access.policy is not None:
        verdict = access.policy.decide(request.identity, action, resource, context)
    return Case(request.identity, ask.bucket, ask.need, ask.granted, verdict)


def _missing(store: Store, request: S3Request, ask: Ask, access: BucketAccess) -> S3Error:
    """What to say of an object that is not there: only who may list its name is told so."""
    listing = Ask(_LIST, ask.bucket, None, None, granted=False)
    context = {**_context(request, {}, None), "s3:prefix": ask.key or ""}
    if _case(request, listing, access, context).rules_before_object(access) and ask.key is not None:
        try:
            demand_object(store.index.reader(), ask.bucket, ask.key, ask.version)
        except S3Error as error:
            return error
    return _denied()


def _find(store: Store, ask: Ask) -> ObjectRow | None:
    """The object or the version that is asked for, if it is there and no marker."""
    if ask.key is None:
        return None
    db = store.index.reader()
    if ask.version is None:
        return find_object(db, ask.bucket, ask.key)
    row = find_version(db, ask.bucket, ask.key, ask.version)
    return None if row is None or row.marker else row


def _context(request: S3Request, tags: Mapping[str, str], row: ObjectRow | None) -> dict[str, str]:
    """What a policy's conditions may look at; each header as the handlers read it, the first of its name."""
    told = [(key, request.get(name)) for name, key in _HEADERS.items()]
    told += [(key, request.query.get(name)) for name, key in _PARAMETERS.items()]
    context = {key: value for key, value in told if value is not None}
    source = request.get(_COPY_SOURCE)
    if source is not None:
        context[f"s3:{_COPY_SOURCE}"] = unquote(source.partition("?")[0]).removeprefix("/")
    context[SOURCE_IP] = request.peer
    if request.identity.user:
        context["aws:username"] = request.identity.user
    sent = dict(parse_qsl(request.get(TAGGING) or "", keep_blank_values=True)) | dict(tags)
    context |= {NEW_TAG + name: value for name, value in sent.items()}
    return context | {OLD_TAG + name: value for name, value in (tags_of(row.headers) if row else {}).items()}


def _denied() -> S3Error:
    return S3Error("AccessDenied", "Access Denied")

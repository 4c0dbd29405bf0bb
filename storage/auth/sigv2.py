"""AWS Signature Version 2, for the clients that make no other: HMAC-SHA1 over a few lines, in a query or a header.

It covers neither the host nor the body nor most of the query, and in a query it lives as long as it says. So it is
off unless a store's settings say otherwise, and a query name that it does not cover is taken only if all it does is
page a listing.
Source: https://docs.aws.amazon.com/AmazonS3/latest/API/RESTAuthentication.html
"""

import base64
import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from itertools import product

from storage.auth.canonical import Headers, PayloadKind, Signable, parse_query
from storage.auth.claims import MAX_SKEW_S
from storage.auth.keyring import KeyRing
from storage.auth.sigv4 import Verified
from storage.fault import S3Error

SCHEME = "AWS "
CLAIM = frozenset({"AWSAccessKeyId", "Signature", "Expires"})
COVERED = frozenset(
    [
        "accelerate",
        "acl",
        "analytics",
        "cors",
        "delete",
        "inventory",
        "lifecycle",
        "location",
        "logging",
        "metrics",
        "notification",
        "object-lock",
        "partNumber",
        "policy",
        "replication",
        "requestPayment",
        "response-cache-control",
        "response-content-disposition",
        "response-content-encoding",
        "response-content-language",
        "response-content-type",
        "response-expires",
        "restore",
        "select",
        "select-type",
        "tagging",
        "torrent",
        "uploadId",
        "uploads",
        "versionId",
        "versioning",
        "versions",
        "website",
    ]
)
# What only chooses a page of a listing, or says nothing.
HARMLESS = frozenset(
    [
        "continuation-token",
        "delimiter",
        "encoding-type",
        "fetch-owner",
        "key-marker",
        "list-type",
        "marker",
        "max-keys",
        "max-parts",
        "max-uploads",
        "part-number-marker",
        "prefix",
        "start-after",
        "upload-id-marker",
        "version-id-marker",
        "x-id",
    ]
)
MAX_EXPIRES_DIGITS = 12  # a time beyond the year 30,000 is no time


@dataclass(frozen=True, slots=True)
class Claim:
    """What a request says about its own signature. `time` is the line that is signed for it."""

    access_key: str
    signature: str
    time: str


def is_claimed(request: Signable) -> bool:
    """True if the query carries such a signature, or the Authorization header and no other does."""
    names = {name for name, _ in parse_query(request.query)}
    authorization = request.get("authorization")
    if authorization is None:
        return names >= CLAIM - {"Expires"}
    return authorization.startswith(SCHEME) and not names & {*CLAIM, "X-Amz-Signature"}


def verify(request: Signable, keys: KeyRing, now: datetime) -> tuple[Headers, Verified]:
    """The headers to obey, and the signer. The path of `request` is the path-style one.

    Raises: S3Error AccessDenied, InvalidAccessKeyId, RequestTimeTooSkewed, SignatureDoesNotMatch.
    """
    query = dict(parse_query(request.query))
    _demand_covered(query)
    authorization = request.get("authorization")
    if authorization is None:
        claim, request = _claim_of_query(query, now), adopted(request)
    else:
        claim = _claim_of_header(request, authorization, now)
    found = keys.find(claim.access_key, now.timestamp())
    if found is None:
        raise S3Error("InvalidAccessKeyId", "The access key id is not known here.")
    identity, secrets = found
    demand_signer(
        secrets, [string_to_sign(each, claim.time) for each in _spellings(request)], claim.signature
    )
    return request.headers, Verified(identity, PayloadKind.UNSIGNED, None, None)


def _demand_covered(query: Mapping[str, str]) -> None:
    uncovered = sorted(name for name in query if not _is_allowed(name))
    if uncovered:
        message = f"Signature Version 2 does not cover {uncovered[0]}; sign with s3v4."
        raise S3Error("AccessDenied", message)


def adopted(request: Signable) -> Signable:
    """`request` with the headers that the signer put into the query, as SDKs do, where no header of the name came."""
    sent = {name for name, _ in request.headers}
    pairs = [(name.lower(), value) for name, value in parse_query(request.query) if _is_header(name)]
    more = tuple(
        pair for pair in pairs if pair[0] not in sent and pair[1].isascii() and pair[1].isprintable()
    )
    return replace(request, headers=request.headers + more)


def _claim_of_query(query: Mapping[str, str], now: datetime) -> Claim:
    expires = query.get("Expires", "")
    if not (expires.isascii() and expires.isdigit() and len(expires) <= MAX_EXPIRES_DIGITS):
        raise S3Error("AccessDenied", "Invalid date (should be seconds since epoch): Expires")
    if now.timestamp() > int(expires):
        raise S3Error("AccessDenied", "Request has expired")
    return Claim(query["AWSAccessKeyId"], query["Signature"], expires)


def _claim_of_header(request: Signable, authorization: str, now: datetime) -> Claim:
    """Here the query is signed for nobody's headers. `x-amz-date` is signed among its like, and not twice."""
    hidden = sorted(name for name, _ in parse_query(request.query) if _is_header(name))
    if hidden:
        raise S3Error("AccessDenied", f"{hidden[0]} is a header; the signature does not cover it in a query.")
    own, plain = request.get("x-amz-date"), request.get("date")
    try:
        at = parsedate_to_datetime(own or plain or "")
    except ValueError as error:
        raise S3Error(
            "AccessDenied", "AWS authentication requires a valid Date or x-amz-date header"
        ) from error
    if at.tzinfo is None or abs((now - at).total_seconds()) > MAX_SKEW_S:
        message = "The difference between the request time and the current time is too large."
        raise S3Error("RequestTimeTooSkewed", message)
    key, _, signature = authorization.removeprefix(SCHEME).strip().partition(":")
    return Claim(key, signature, "" if own else plain or "")


def string_to_sign(request: Signable, time: str) -> bytes:
    """What is signed: the method, three headers, the x-amz- headers, the path and the covered query."""
    lines = [request.method, request.get("content-md5") or "", request.get("content-type") or "", time]
    return "\n".join([*lines, *_amz_lines(request.headers), _resource(request)]).encode("latin-1", "replace")


def demand_signer(secrets: Iterable[str], texts: Iterable[bytes], claimed: str) -> None:
    """Raises: S3Error SignatureDoesNotMatch unless one of `secrets` signed one of `texts`; all are tried."""
    signed = [
        base64.b64encode(hmac.digest(secret.encode(), text, hashlib.sha1)).decode()
        for secret, text in product(secrets, texts)
    ]
    if not sum(hmac.compare_digest(each.encode(), claimed.encode("utf-8", "replace")) for each in signed):
        raise S3Error(
            "SignatureDoesNotMatch", "The signature does not match; check the secret key and what was signed."
        )


def _spellings(request: Signable) -> list[Signable]:
    """A bucket's path has a slash behind it for some signers, whatever was sent: botocore's, for one."""
    bucket = request.path.strip("/")
    if not bucket or "/" in bucket:
        return [request]
    return [replace(request, path=f"/{bucket}"), replace(request, path=f"/{bucket}/")]


def _is_header(name: str) -> bool:
    return name.lower().startswith("x-amz-") or name.lower() in {"content-md5", "content-type"}


def _is_allowed(name: str) -> bool:
    return name in CLAIM | COVERED | HARMLESS or _is_header(name)


def _amz_lines(headers: Headers) -> list[str]:
    named: dict[str, list[str]] = {}
    for name, value in headers:
        if name.startswith("x-amz-"):
            named.setdefault(name, []).append(value.strip())
    return [f"{name}:{','.join(values)}" for name, values in sorted(named.items())]


def _resource(request: Signable) -> str:
    """The path as it was sent, and the covered names of the query with their decoded values."""
    given = {part.partition("=")[0]: "=" in part for part in request.query.split("&")}
    pairs = sorted(pair for pair in parse_query(request.query) if pair[0] in COVERED)
    named = "&".join(f"{name}={value}" if given.get(name) else name for name, value in pairs)
    return f"{request.path}?{named}" if named else request.path

"""What a request says about its own signature, read strictly; nothing in it is proved yet."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime

from storage.auth.canonical import ALGORITHM, Claim, PayloadKind, Signable, parse_query
from storage.fault import S3Error

MAX_SKEW_S = 15 * 60  # what AWS allows between the two clocks
MAX_EXPIRES_S = 7 * 24 * 3600  # AWS's longest presigned life

_HEX64 = re.compile(r"[0-9a-f]{64}")
_STAMP = re.compile(r"\d{8}T\d{6}Z")
_LIFE = re.compile(r"-?[0-9]{1,7}")
_SCOPE_WORD = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_QUERY_CLAIM = frozenset(
    {"X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders"}
)


def read_claim(request: Signable) -> Claim:
    """The signature a request carries, in its Authorization header or its query. Raises: S3Error."""
    names = {name for name, _ in parse_query(request.query)}
    authorization = request.get("authorization")
    if "X-Amz-Signature" in names:
        if authorization is not None:
            raise S3Error(
                "InvalidArgument", "Only one auth mechanism allowed: query or Authorization header."
            )
        claim = _claim_from_query(request)
    elif authorization is not None:
        claim = _claim_from_header(request, authorization)
    elif {"AWSAccessKeyId", "Signature"} <= names:
        raise sigv2_is_off()
    else:
        raise S3Error("AccessDenied", "Anonymous access is off; sign the request.")
    _check_signed_headers(request, claim)
    return claim


def _claim_from_header(request: Signable, authorization: str) -> Claim:
    algorithm, _, rest = authorization.partition(" ")
    if algorithm == "AWS":
        raise sigv2_is_off()
    if algorithm != ALGORITHM:
        raise S3Error("InvalidRequest", f"The authorization mechanism is not supported; use {ALGORITHM}.")
    fields = dict(_field(part) for part in rest.split(","))
    at, payload = request.get("x-amz-date"), request.get("x-amz-content-sha256")
    if payload is None:
        raise S3Error("InvalidRequest", "Missing required header for this request: x-amz-content-sha256")
    if at is None:
        raise S3Error("AccessDenied", "AWS authentication requires a valid x-amz-date header.")
    return _claim("AuthorizationHeaderMalformed", fields, at, payload)


def _field(part: str) -> tuple[str, str]:
    name, _, value = part.strip().partition("=")
    return name, value


def _claim_from_query(request: Signable) -> Claim:
    code = "AuthorizationQueryParametersError"
    query = dict(parse_query(request.query))
    if not query.keys() >= _QUERY_CLAIM or query["X-Amz-Algorithm"] != ALGORITHM:
        raise S3Error(code, f"Presigned requests need {', '.join(sorted(_QUERY_CLAIM))} and {ALGORITHM}.")
    fields = {
        name.removeprefix("X-Amz-"): value for name, value in query.items() if name.startswith("X-Amz-")
    }
    if not _LIFE.fullmatch(query["X-Amz-Expires"]) or int(query["X-Amz-Expires"]) > MAX_EXPIRES_S:
        raise S3Error(code, f"X-Amz-Expires is 1 to {MAX_EXPIRES_S} seconds.")
    expires_s = int(query["X-Amz-Expires"])
    if expires_s < 1:
        raise S3Error("AccessDenied", "Request has expired")
    payload = request.get("x-amz-content-sha256") or PayloadKind.UNSIGNED.value
    return _claim(code, fields, query["X-Amz-Date"], payload, expires_s)


def _claim(
    code: str, fields: Mapping[str, str], at: str, payload: str, expires_s: int | None = None
) -> Claim:
    scope = fields.get("Credential", "").split("/")
    if len(scope) != 5 or scope[3:] != ["s3", "aws4_request"] or not all(map(_SCOPE_WORD.fullmatch, scope)):
        raise S3Error(code, "The Credential must be <key>/<yyyymmdd>/<region>/s3/aws4_request.")
    if not _STAMP.fullmatch(at) or at[:8] != scope[1]:
        raise S3Error(code, "The date must be yyyymmddThhmmssZ on the day of the Credential.")
    names = fields.get("SignedHeaders", "")
    signature = fields.get("Signature", "")
    if not names or not signature:
        raise S3Error(code, "SignedHeaders and Signature must be present.")
    return Claim(scope[0], scope[1], scope[2], at, tuple(names.split(";")), signature, payload, expires_s)


def _check_signed_headers(request: Signable, claim: Claim) -> None:
    """Host and each x-amz header present must be signed, or a relay could change what is asked."""
    signed = set(claim.signed_headers)
    unsigned = [name for name, _ in request.headers if name.startswith("x-amz-") and name not in signed]
    if "host" not in signed or unsigned:
        raise S3Error(
            "AccessDenied",
            "There were headers present in the request which were not signed.",
            HeadersNotSigned=", ".join(unsigned or ["host"]),
        )


def check_time(claim: Claim, now: datetime) -> None:
    """Raises: S3Error AccessDenied, RequestTimeTooSkewed unless the claim is of now."""
    try:
        at = _stamped(claim.at)
    except ValueError as error:
        raise S3Error("AccessDenied", "The request's date is no date.") from error
    age_s = (now - at).total_seconds()
    if claim.expires_s is not None and age_s > claim.expires_s:
        raise S3Error("AccessDenied", "Request has expired")
    if age_s < -MAX_SKEW_S or (claim.expires_s is None and age_s > MAX_SKEW_S):
        raise S3Error(
            "RequestTimeTooSkewed",
            f"The difference between the request time and the current time is too large: {_off_by(age_s)}.",
            RequestTime=claim.at,
            ServerTime=now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        )


def _off_by(age_s: float) -> str:
    """Of a request that is so old, whose clock is wrong which way: S3's words alone tell nobody what to mend."""
    minutes = round(abs(age_s) / 60)
    return f"the signer's clock is {minutes} minutes {'behind' if age_s > 0 else 'ahead of'} the store's"


def _stamped(at: str) -> datetime:
    """A stamp of _STAMP's form as a time; strptime takes longer than the signature. Raises: ValueError."""
    day, second = at[:8], at[9:15]
    return datetime(
        int(day[:4]),
        int(day[4:6]),
        int(day[6:]),
        int(second[:2]),
        int(second[2:4]),
        int(second[4:]),
        tzinfo=UTC,
    )


def payload_kind(claim: Claim) -> PayloadKind:
    """How the body is protected. Raises: S3Error InvalidArgument, NotImplemented."""
    if _HEX64.fullmatch(claim.payload):
        return PayloadKind.SIGNED
    if claim.payload.startswith("STREAMING-AWS4-ECDSA"):
        raise S3Error("NotImplemented", "SigV4A is not implemented here.")
    kind = next((kind for kind in PayloadKind if kind.value == claim.payload), PayloadKind.SIGNED)
    if kind is PayloadKind.SIGNED or (kind.chunked and claim.expires_s is not None):
        raise S3Error(
            "InvalidArgument", "x-amz-content-sha256 is no SHA-256 and no payload kind that is known here."
        )
    return kind


def sigv2_is_off() -> S3Error:
    """The refusal of Signature Version 2 where it was not asked for."""
    return S3Error(
        "NotImplemented",
        "Signature Version 2 is off here: presign with signature_version='s3v4', or set sigv2 = true for the store.",
    )

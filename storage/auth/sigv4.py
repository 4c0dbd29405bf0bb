"""AWS Signature Version 4 for S3: verify and sign; bytes and clock are arguments.

One `Verifier.verify` returns who signed and how the body is protected, or raises; there is no third way out.
Source: https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-authenticating-requests.html
"""

import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from functools import lru_cache
from urllib.parse import quote, unquote_to_bytes

from storage.auth.key import ANONYMOUS, AccessKey, Identity
from storage.auth.keyring import KeyRing
from storage.fault import S3Error

ALGORITHM = "AWS4-HMAC-SHA256"
MAX_SKEW_S = 15 * 60  # what AWS allows between the two clocks
MAX_EXPIRES_S = 7 * 24 * 3600  # AWS's longest presigned life
MAX_CACHED_KEYS = 1024  # one signing key a caller, day and region; 100 bytes each

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
Headers = tuple[tuple[str, str], ...]

_UNRESERVED = "-._~"
_HEX64 = re.compile(r"[0-9a-f]{64}")
_STAMP = re.compile(r"\d{8}T\d{6}Z")
_LIFE = re.compile(r"-?[0-9]{1,7}")
_SCOPE_WORD = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_QUERY_CLAIM = frozenset(
    {"X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders"}
)
_SIGNATURE_PARAMETERS = frozenset({"awsaccesskeyid", "signature"})  # of version 2


class PayloadKind(Enum):
    """How a request protects its body; the values are those of x-amz-content-sha256, but for SIGNED."""

    SIGNED = "<sha256 of the body>"
    UNSIGNED = "UNSIGNED-PAYLOAD"
    CHUNKS_SIGNED = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
    CHUNKS_SIGNED_TRAILER = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
    CHUNKS_UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"

    @property
    def chunked(self) -> bool:
        """True if the body is framed as aws-chunked."""
        return self.value.startswith("STREAMING-")


@dataclass(frozen=True, slots=True)
class Signable:
    """The parts of a request that a signature covers. Header names are lower-case; path and query as sent."""

    method: str
    path: str
    query: str
    headers: Headers

    def get(self, name: str) -> str | None:
        """The first header of that name."""
        return next((value for field, value in self.headers if field == name), None)


@dataclass(frozen=True, slots=True)
class Claim:
    """What a request says about its own signature; nothing in it is proved yet."""

    access_key: str
    date: str
    region: str
    at: str
    signed_headers: tuple[str, ...]
    signature: str
    payload: str
    expires_s: int | None = None

    @property
    def scope(self) -> str:
        """The credential scope."""
        return f"{self.date}/{self.region}/s3/aws4_request"


@dataclass(slots=True)
class ChunkChain:
    """The running signature over the chunks of one aws-chunked body, seeded by the request's."""

    key: bytes
    at: str
    scope: str
    previous: str

    def check_chunk(self, sha256_hex: str, claimed: str) -> None:
        """Raises: S3Error SignatureDoesNotMatch unless the chunk of that hash comes next."""
        self._advance(f"{ALGORITHM}-PAYLOAD", f"{EMPTY_SHA256}\n{sha256_hex}", claimed)

    def check_trailer(self, sha256_hex: str, claimed: str) -> None:
        """Raises: S3Error SignatureDoesNotMatch unless trailers of that hash end this body."""
        self._advance(f"{ALGORITHM}-TRAILER", sha256_hex, claimed)

    def _advance(self, label: str, hashes: str, claimed: str) -> None:
        expected = _hmac_hex(self.key, f"{label}\n{self.at}\n{self.scope}\n{self.previous}\n{hashes}")
        _demand_equal(expected, claimed)
        self.previous = expected


@dataclass(frozen=True, slots=True)
class Verified:
    """A request whose signature holds; or, of ANONYMOUS, one without any where the store lets strangers in."""

    identity: Identity
    payload: PayloadKind
    sha256: str | None  # of the body, for SIGNED
    chain: ChunkChain | None  # for the signed chunk kinds


class Verifier:
    """Checks requests against the access keys of one store.

    Attributes:
        keys: may be replaced while requests are served.
        sigv2: Signature Version 2 is honoured too, in presigned queries and forms.
        anonymous: requests that carry no signature at all are let through, as nobody's.
    """

    def __init__(
        self, keys: Iterable[AccessKey], root_key: bytes, *, sigv2: bool = False, anonymous: bool = False
    ) -> None:
        self.keys = KeyRing(keys, root_key)
        self.sigv2 = sigv2
        self.anonymous = anonymous

    def verify(self, request: Signable, now: datetime) -> Verified:
        """The signer of `request` and its body's protection.

        Raises: S3Error AccessDenied, AuthorizationHeaderMalformed, AuthorizationQueryParametersError,
            InvalidAccessKeyId, InvalidArgument, InvalidRequest, NotImplemented, RequestTimeTooSkewed,
            SignatureDoesNotMatch.
        """
        if self.anonymous and is_unsigned(request):
            return _unsigned(request)
        claim = read_claim(request)
        found = self.keys.find(claim.access_key, now.timestamp())
        if found is None:
            raise S3Error(
                "InvalidAccessKeyId", "The access key id is not known here.", AWSAccessKeyId=claim.access_key
            )
        _check_time(claim, now)
        kind = _payload_kind(claim)
        identity, secrets = found
        canonical = canonical_request(request, claim.signed_headers, claim.payload)
        key, expected = _demand_signer(secrets, claim, canonical)
        signed = kind in {PayloadKind.CHUNKS_SIGNED, PayloadKind.CHUNKS_SIGNED_TRAILER}
        chain = ChunkChain(key, claim.at, claim.scope, expected) if signed else None
        return Verified(identity, kind, claim.payload if kind is PayloadKind.SIGNED else None, chain)


def _demand_signer(secrets: Iterable[str], claim: Claim, canonical: bytes) -> tuple[bytes, str]:
    """The key and the signature under the secret that signed. Raises: S3Error SignatureDoesNotMatch for none.

    All are tried whichever fits: the time that it takes tells nothing of which.
    """
    tried = [signing_key(secret, claim.date, claim.region) for secret in secrets]
    signed = [(key, sign_canonical(key, claim, canonical)) for key in tried]
    fitting = [each for each in signed if _is_equal(each[1], claim.signature)]
    if not fitting:
        raise _mismatch()
    return fitting[0]


def is_unsigned(request: Signable) -> bool:
    """True if nothing in it looks like a signature, of whatever version; a broken one makes nobody a stranger."""
    names = {name.lower() for name, _ in parse_query(request.query)}
    return request.get("authorization") is None and not any(
        name in _SIGNATURE_PARAMETERS or name.startswith("x-amz-") for name in names
    )


def _unsigned(request: Signable) -> Verified:
    """How a body without a signature is protected: by its own hash, if that came. Raises: S3Error."""
    payload = request.get("x-amz-content-sha256") or PayloadKind.UNSIGNED.value
    kind = _payload_kind(Claim("", "", "", "", (), "", payload))
    if kind in {PayloadKind.CHUNKS_SIGNED, PayloadKind.CHUNKS_SIGNED_TRAILER}:
        raise S3Error("AccessDenied", "Signed chunks need a signed request.")
    return Verified(ANONYMOUS, kind, payload if kind is PayloadKind.SIGNED else None, None)


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


def _check_time(claim: Claim, now: datetime) -> None:
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
            "The difference between the request time and the current time is too large.",
            RequestTime=claim.at,
            ServerTime=now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        )


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


def _payload_kind(claim: Claim) -> PayloadKind:
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


def parse_query(raw: str) -> list[tuple[str, str]]:
    """The decoded pairs of a raw query, in order; `+` stays `+`. Raises: S3Error InvalidURI."""
    pairs = (part.partition("=") for part in raw.split("&") if part)
    return [(_decode(name), _decode(value)) for name, _, value in pairs]


def _decode(raw: str) -> str:
    try:
        return unquote_to_bytes(raw).decode("utf-8")
    except UnicodeDecodeError as error:
        raise S3Error("InvalidURI", "The query is not valid UTF-8.") from error


def canonical_request(request: Signable, signed_headers: Iterable[str], payload: str) -> bytes:
    """The canonical form that is hashed and signed; path and query are decoded once and encoded S3's way."""
    pairs = [(name, value) for name, value in parse_query(request.query) if name != "X-Amz-Signature"]
    encoded = sorted((quote(name, safe=_UNRESERVED), quote(value, safe=_UNRESERVED)) for name, value in pairs)
    query = "&".join(f"{name}={value}" for name, value in encoded)
    names = tuple(signed_headers)
    lines = (f"{name}:{_joined(request.headers, name)}\n" for name in names)
    path = quote(unquote_to_bytes(request.path), safe="/" + _UNRESERVED)
    text = "\n".join((request.method, path, query, "".join(lines), ";".join(names), payload))
    return text.encode("latin-1", "replace")


def _joined(headers: Headers, name: str) -> str:
    return ",".join(" ".join(value.split()) for field, value in headers if field == name)


@lru_cache(maxsize=MAX_CACHED_KEYS)
def signing_key(secret: str, date: str, region: str) -> bytes:
    """The key that signs one day's requests to one region."""
    key = f"AWS4{secret}".encode()
    for word in (date, region, "s3", "aws4_request"):
        key = hmac.digest(key, word.encode(), hashlib.sha256)
    return key


def sign_canonical(key: bytes, claim: Claim, canonical: bytes) -> str:
    """The signature, in hex, of a canonical request under the date and scope of `claim`."""
    return _hmac_hex(key, f"{ALGORITHM}\n{claim.at}\n{claim.scope}\n{hashlib.sha256(canonical).hexdigest()}")


def _hmac_hex(key: bytes, text: str) -> str:
    return hmac.digest(key, text.encode(), hashlib.sha256).hex()


def _is_equal(expected: str, claimed: str) -> bool:
    return hmac.compare_digest(expected.encode(), claimed.encode("utf-8", "replace"))


def _demand_equal(expected: str, claimed: str) -> None:
    if not _is_equal(expected, claimed):
        raise _mismatch()


def sigv2_is_off() -> S3Error:
    """The refusal of Signature Version 2 where it was not asked for."""
    return S3Error(
        "NotImplemented",
        "Signature Version 2 is off here: presign with signature_version='s3v4', or set sigv2 = true for the store.",
    )


def _mismatch() -> S3Error:
    return S3Error(
        "SignatureDoesNotMatch", "The signature does not match; check the secret key and what was signed."
    )


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs requests of one access key for one region."""

    access_key: str
    secret: str
    region: str

    def sign(self, request: Signable, payload: str, now: datetime) -> Headers:
        """`request.headers` (with host) and x-amz-date, x-amz-content-sha256 and authorization."""
        at = now.strftime("%Y%m%dT%H%M%SZ")
        headers = (*request.headers, ("x-amz-content-sha256", payload), ("x-amz-date", at))
        names = tuple(sorted({name for name, _ in headers}))
        claim = Claim(self.access_key, at[:8], self.region, at, names, "", payload)
        signature = self._signature(Signable(request.method, request.path, request.query, headers), claim)
        authorization = (
            f"{ALGORITHM} Credential={self.access_key}/{claim.scope}, "
            f"SignedHeaders={';'.join(names)}, Signature={signature}"
        )
        return (*headers, ("authorization", authorization))

    def presign(self, request: Signable, expires_s: int, now: datetime) -> str:
        """The query that lets anyone who holds it send `request` for `expires_s` seconds."""
        at = now.strftime("%Y%m%dT%H%M%SZ")
        names = tuple(sorted({name for name, _ in request.headers}))
        payload = PayloadKind.UNSIGNED.value
        claim = Claim(self.access_key, at[:8], self.region, at, names, "", payload, expires_s)
        fields = {
            "X-Amz-Algorithm": ALGORITHM,
            "X-Amz-Credential": f"{self.access_key}/{claim.scope}",
            "X-Amz-Date": at,
            "X-Amz-Expires": str(expires_s),
            "X-Amz-SignedHeaders": ";".join(names),
        }
        added = "&".join(f"{name}={quote(value, safe=_UNRESERVED)}" for name, value in fields.items())
        query = f"{request.query}&{added}" if request.query else added
        signature = self._signature(Signable(request.method, request.path, query, request.headers), claim)
        return f"{query}&X-Amz-Signature={signature}"

    def _signature(self, request: Signable, claim: Claim) -> str:
        key = signing_key(self.secret, claim.date, self.region)
        return sign_canonical(key, claim, canonical_request(request, claim.signed_headers, claim.payload))


Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The clock that production passes in."""
    return datetime.now(UTC)

"""AWS Signature Version 4, the store's side: who signed, and how the body is protected; the clock is an argument.

One `Verifier.verify` returns both or raises; there is no third way out.
Source: https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-authenticating-requests.html
"""

import hashlib
import hmac
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from storage.auth.canonical import (
    ALGORITHM,
    Claim,
    PayloadKind,
    Signable,
    canonical_request,
    hmac_hex,
    parse_query,
    sign_canonical,
    signing_key,
)
from storage.auth.claims import check_time, payload_kind, read_claim
from storage.auth.key import ANONYMOUS, AccessKey, Identity
from storage.auth.keyring import KeyRing
from storage.fault import S3Error

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
_SIGNATURE_PARAMETERS = frozenset({"awsaccesskeyid", "signature"})  # of version 2


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
        expected = hmac_hex(self.key, f"{label}\n{self.at}\n{self.scope}\n{self.previous}\n{hashes}")
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
        check_time(claim, now)
        kind = payload_kind(claim)
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
    kind = payload_kind(Claim("", "", "", "", (), "", payload))
    if kind in {PayloadKind.CHUNKS_SIGNED, PayloadKind.CHUNKS_SIGNED_TRAILER}:
        raise S3Error("AccessDenied", "Signed chunks need a signed request.")
    return Verified(ANONYMOUS, kind, payload if kind is PayloadKind.SIGNED else None, None)


def _is_equal(expected: str, claimed: str) -> bool:
    return hmac.compare_digest(expected.encode(), claimed.encode("utf-8", "replace"))


def _demand_equal(expected: str, claimed: str) -> None:
    if not _is_equal(expected, claimed):
        raise _mismatch()


def _mismatch() -> S3Error:
    return S3Error(
        "SignatureDoesNotMatch", "The signature does not match; check the secret key and what was signed."
    )


Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The clock that production passes in."""
    return datetime.now(UTC)

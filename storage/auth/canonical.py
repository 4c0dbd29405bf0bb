"""What Signature Version 4 covers, and the signature over it: bytes and secrets in, hex out.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
"""

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from urllib.parse import quote, unquote_to_bytes

from storage.fault import S3Error

ALGORITHM = "AWS4-HMAC-SHA256"
MAX_CACHED_KEYS = 1024  # one signing key a caller, day and region; 100 bytes each
UNRESERVED = "-._~"
Headers = tuple[tuple[str, str], ...]


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
    encoded = sorted((quote(name, safe=UNRESERVED), quote(value, safe=UNRESERVED)) for name, value in pairs)
    query = "&".join(f"{name}={value}" for name, value in encoded)
    names = tuple(signed_headers)
    lines = (f"{name}:{_joined(request.headers, name)}\n" for name in names)
    path = quote(unquote_to_bytes(request.path), safe="/" + UNRESERVED)
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
    return hmac_hex(key, f"{ALGORITHM}\n{claim.at}\n{claim.scope}\n{hashlib.sha256(canonical).hexdigest()}")


def hmac_hex(key: bytes, text: str) -> str:
    """One signature, in hex."""
    return hmac.digest(key, text.encode(), hashlib.sha256).hex()

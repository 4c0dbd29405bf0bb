"""A webhook: an endpoint that the operator named in the settings, and how a delivery to it is signed.

The receiver computes HMAC-SHA256(secret, timestamp + "." + body) and compares; a timestamp that is minutes old is a
replay. No request to the store can name an address: notifications name a webhook by its ARN.
"""

import hashlib
import hmac
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

ARN_PREFIX = "arn:nearfield:webhook:::"
TIMESTAMP_HEADER = "x-nearfield-timestamp"
SIGNATURE_HEADER = "x-nearfield-signature"
MIN_SECRET_BYTES = 16
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Webhook:
    """One endpoint. `ca`: a file with the only certificates to trust; None trusts the system's.

    Raises ValueError when made with what is no id, no address, or a secret that can be guessed.
    """

    id: str
    url: str
    secret: bytes
    ca: Path | None = None

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id):
            raise ValueError(f"{self.id!r} is no webhook id: 1 to 64 of A-Z a-z 0-9 _ -")
        if not _is_address(self.url):
            raise ValueError(f"{self.url!r} is no http or https address without a user and a fragment")
        if len(self.secret) < MIN_SECRET_BYTES:
            raise ValueError(f"the secret of webhook {self.id} is under {MIN_SECRET_BYTES} bytes")

    @property
    def address(self) -> tuple[str, int, bool]:
        """(host, port, whether by TLS)."""
        parts = urlsplit(self.url)
        tls = parts.scheme == "https"
        return parts.hostname or "", parts.port or (443 if tls else 80), tls

    @property
    def target(self) -> str:
        """Path and query to post to."""
        parts = urlsplit(self.url)
        return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

    def sign(self, timestamp: int, body: bytes) -> tuple[tuple[str, str], ...]:
        """The headers that prove a body of that time (Unix, s) to be from here."""
        return (
            (TIMESTAMP_HEADER, str(timestamp)),
            (SIGNATURE_HEADER, f"sha256={signature_of(self.secret, timestamp, body)}"),
        )


def _is_address(url: str) -> bool:
    if not url.isascii() or not url.isprintable() or " " in url:
        return False
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna")  # what resolving it would refuse, and not as an OSError
        port_fits = parts.port is None or parts.port > 0
    except ValueError:
        return False
    plain = parts.username is None and not parts.fragment
    return parts.scheme in {"http", "https"} and bool(host) and port_fits and plain


def signature_of(secret: bytes, timestamp: int, body: bytes) -> str:
    """HMAC-SHA256 of the timestamp, a dot and the body, in hex."""
    return hmac.digest(secret, str(timestamp).encode() + b"." + body, hashlib.sha256).hex()

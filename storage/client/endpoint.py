"""Where a store is, and requests signed for it without any SDK."""

from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import quote, urlsplit

from storage.auth.canonical import Headers, Signable
from storage.auth.signer import Signer
from storage.auth.sigv4 import utc_now

SOCKET_NAME = "store.sock"  # in the folder of an embedded store: where processes of its host get descriptors


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a store is and as whom to speak to it. `ca` is the path of a PEM file."""

    url: str
    access_key: str
    secret: str = field(repr=False)
    region: str = "us-east-1"
    ca: str | None = None

    @property
    def netloc(self) -> str:
        """The Host header."""
        return urlsplit(self.url).netloc


def url_path(bucket: str, key: str = "") -> str:
    """The percent-encoded path of an object, or of a bucket."""
    return quote(f"/{bucket}/{key}" if key else f"/{bucket}", safe="/-._~")


def sign(
    endpoint: Endpoint,
    method: str,
    path: str,
    query: str = "",
    headers: Headers = (),
    payload: str = "UNSIGNED-PAYLOAD",
    now: datetime | None = None,
) -> Headers:
    """All headers to send with a request.

    Args:
        endpoint: as whom, and the Host.
        method: such as GET.
        path: exactly as it will be sent, percent-encoded (`url_path`).
        query: the same, without `?`.
        headers: more to send and sign, lower-case names.
        payload: a SHA-256 in hex or one of S3's payload kinds.
        now: UTC; the clock if None.
    """
    request = Signable(method, path, query, (("host", endpoint.netloc), *headers))
    return _signer(endpoint).sign(request, payload, now or utc_now())


def presign(
    endpoint: Endpoint, method: str, path: str, expires_s: int, query: str = "", now: datetime | None = None
) -> str:
    """A URL that anybody who has it may use for `expires_s` seconds, at most a week."""
    request = Signable(method, path, query, (("host", endpoint.netloc),))
    return f"{endpoint.url}{path}?{_signer(endpoint).presign(request, expires_s, now or utc_now())}"


def _signer(endpoint: Endpoint) -> Signer:
    return Signer(endpoint.access_key, endpoint.secret, endpoint.region)

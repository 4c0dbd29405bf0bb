"""The token that hops of one cluster show each other, and how it is compared."""

import hashlib
import hmac

from wire.http.http1 import RequestHead
from wire.refused.refusal import Refusal

HOP_LABEL = b"nearfield hop 1"


def hop_token(root_key: bytes) -> str:
    """The hop token of the cluster with this root key: hex HMAC-SHA256."""
    return hmac.new(root_key, HOP_LABEL, hashlib.sha256).hexdigest()


def bearer(head: RequestHead) -> str | None:
    """The credentials of `Authorization: Bearer ...`, or None."""
    scheme, _, credentials = (head.get("authorization") or "").partition(" ")
    return credentials.strip() if scheme.lower() == "bearer" and credentials else None


def require_token(head: RequestHead, token: str) -> None:
    """Return if the request carries `token`. Raises Refusal 401; takes the same time wherever they differ."""
    shown = (head.get("authorization") or "").encode()
    if hmac.compare_digest(shown, f"Bearer {token}".encode()):
        return
    other = bearer(head) or ""  # the scheme's name in another case
    if not hmac.compare_digest(other.encode(), token.encode()):
        raise Refusal(
            401, "invalid_api_key", "This port is for Nearfield's own hops; use the edge's address."
        )

"""TLS contexts: 1.2 and up, HTTP/1.1 only, certificates always checked."""

import ssl
from pathlib import Path

ALPN = ["http/1.1"]


def server_context(cert: Path, key: Path) -> ssl.SSLContext:
    """A context for a listener with one certificate chain. Raises OSError (ssl.SSLError is one)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(ALPN)
    context.load_cert_chain(cert, key)
    return context


def client_context(ca: Path | None = None) -> ssl.SSLContext:
    """A context that trusts only the certificates in `ca` (None: the system's). Raises OSError."""
    context = ssl.create_default_context(cafile=None if ca is None else str(ca))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(ALPN)
    return context


def hop_name(role: str, name: str) -> str:
    """The DNS name that a hop's own certificate carries (mutual TLS between edge and region); never in any DNS."""
    return f"{name}.{role}.nearfield.internal"

"""What `[tracing]` says, as the roles that record requests are told it."""

import ssl
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from deploy.trust import secrets
from wire.trace.export import Tracing

if TYPE_CHECKING:
    from deploy.config.document import Config

PORTS = {"http": 80, "https": 443}
PATH = "/v1/traces"


def collector(endpoint: str) -> tuple[str, int, str, bool]:
    """(host, port, path, whether by TLS) of a URL, as OTEL_EXPORTER_OTLP_ENDPOINT has it. Raises ValueError."""
    url = urlsplit(endpoint)
    if url.scheme not in PORTS or not url.hostname or url.query or url.fragment or url.username is not None:
        raise ValueError(
            "must be http://HOST:PORT or https://HOST:PORT, and perhaps a path before /v1/traces"
        )
    return url.hostname, url.port or PORTS[url.scheme], url.path.rstrip("/") + PATH, url.scheme == "https"


def tracing_of(config: "Config") -> Tracing | None:
    """Raises: SecretsError for a file of the collector's that others can read; OSError, ssl.SSLError for its `ca`."""
    entry = config.tracing
    if entry is None:
        return None
    host, port, path, is_tls = collector(entry.endpoint)
    tls = ssl.create_default_context(cafile=entry.ca) if is_tls else None
    shown = entry.authorization and secrets.read_private(entry.authorization).decode().strip()
    headers = (("authorization", shown),) if shown else ()
    return Tracing(host, port, path, tls, headers, entry.sample, entry.traces_per_s)

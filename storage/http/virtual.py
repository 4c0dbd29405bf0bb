"""Virtual-host style: the bucket in the name of the host. Its path becomes the path-style one; nothing else changes.

The signature is checked over the request as it was sent: this is only for finding bucket and key.
"""

import re
from collections.abc import Collection

from wire.http.http1 import RequestHead

_DOMAIN = re.compile(r"(?=.{1,190}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")


def parse_domain(text: str) -> str:
    """A domain whose subdomains are buckets, without a port. Raises: ValueError."""
    if not _DOMAIN.fullmatch(text) or text.replace(".", "").isdigit():
        raise ValueError(f"{text!r} is no domain: lower-case labels with dots between them, no port")
    return text


def located(head: RequestHead, domains: Collection[str]) -> RequestHead:
    """`head` with a path-style path if its host is a bucket of one of `domains`; the longest that fits counts.

    What the host says is not checked here; a name that no bucket may have is refused where paths are read.
    """
    bucket = bucket_of(head.get("host") or "", domains)
    if bucket is None:
        return head
    path = f"/{bucket}{head.path}"
    return head._replace(path=path, target=f"{path}?{head.query}" if head.query else path)


def bucket_of(host: str, domains: Collection[str]) -> str | None:
    """The bucket that a Host header names, None for path style; names of hosts know no case."""
    name = host.rpartition(":")[0] if re.search(r":\d*$", host) else host
    name = name.lower().removesuffix(".")
    fitting = [domain for domain in domains if name.endswith(f".{domain}")]
    if not fitting or name in domains:
        return None
    return name.removesuffix(f".{max(fitting, key=len)}")

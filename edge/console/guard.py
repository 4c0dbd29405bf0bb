"""What a browser may send to the console, and what it is told with every answer. Pure.

Rule 1: whatever is not read by `GET` comes from a page of this very origin: scheme aside, `Origin` is `Host`. A page of
another host, or of another port of this one, is refused before its cookie is looked at.
Rule 2: no page may frame it, and it loads and runs nothing but the files of this listener: no inline script or style,
no markup made of strings (`require-trusted-types-for`), no other origin.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final

from wire.refused.refusal import Refusal

if TYPE_CHECKING:
    from wire.http.http1 import Headers, RequestHead

HALF: Final = "x-nearfield-console"  # the header of the page's half of a session
SAFE: Final = frozenset({"GET", "HEAD"})
OURS: Final = frozenset({"same-origin", "none"})  # of Sec-Fetch-Site; none: typed by the user
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
REPORT_POLICY: Final = "sandbox; default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
_ALWAYS: Final = (
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
)
PAGE: Final[Headers] = (("content-security-policy", POLICY), *_ALWAYS, ("cache-control", "no-cache"))
DATA: Final[Headers] = (
    ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
    *_ALWAYS,
    ("cache-control", "no-store"),
)
REPORT: Final[Headers] = (("content-security-policy", REPORT_POLICY), *_ALWAYS, ("cache-control", "no-store"))
_COOKIE: Final = re.compile(r"[0-9a-f]{64}")


def cookie_name(edge: str) -> str:
    """Of the session of one edge: those of others on the same host, which share its cookies, are left alone.

    By its prefix a browser takes it over TLS alone (or from this very machine), and for this very host.
    """
    return f"__Host-nearfield-{hashlib.sha256(edge.encode()).hexdigest()[:8]}"


def set_cookie(name: str, value: str, max_age_s: int) -> tuple[str, str]:
    """The header that keeps (or, with 0 s, forgets) the cookie: no script reads it, and no other site sends it."""
    return "set-cookie", f"{name}={value}; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age={max_age_s}"


def cookie(head: RequestHead, name: str) -> str:
    """The session's half that the browser keeps; empty if it sent none that could be one."""
    pairs = (pair.strip().partition("=") for pair in (head.get("cookie") or "").split(";"))
    found = next((value for key, _, value in pairs if key == name), "")
    return found if _COOKIE.fullmatch(found) else ""


def refuse_foreign(head: RequestHead) -> None:
    """Raises Refusal 403 for what a page of another origin sends, as far as a browser says so."""
    origin, site = head.get("origin"), head.get("sec-fetch-site")
    is_ours = origin is not None and origin.partition("://")[2] == head.get("host")
    if (site is not None and site not in OURS) or (origin is not None and not is_ours):
        raise Refusal(403, "forbidden", "The console answers to its own page alone.")
    if head.method not in SAFE and origin is None:
        raise Refusal(
            403, "forbidden", "The console is for its page; programs use /nearfield/ with an admin key."
        )

"""What goes wrong between us and a certificate authority, and when to ask again; pure."""

import datetime as dt
import email.utils
import json
from typing import Final

MAX_WAIT_S: Final = 24 * 3600.0  # a CA that says longer is asked tomorrow all the same
_URN: Final = "urn:ietf:params:acme:error:"


class AcmeError(Exception):
    """The CA refused, or answered what cannot be used. `kind` is RFC 8555's word for it where it said one."""

    def __init__(self, kind: str, text: str, retry_after_s: float | None = None) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind
        self.retry_after_s = retry_after_s


def refusal(status: int, retry_after: str | None, body: bytes, now: dt.datetime) -> AcmeError:
    """The error that an answer of 400 or more is (RFC 7807, RFC 8555 section 6.7)."""
    try:
        problem = json.loads(body)
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {}
    kind = str(problem.get("type", f"http {status}")).removeprefix(_URN)
    text = str(problem.get("detail", ""))[:500]
    parts = problem.get("subproblems")
    if isinstance(parts, list):
        text += "".join(f"; {part.get('detail', '')}"[:200] for part in parts[:8] if isinstance(part, dict))
    return AcmeError(kind, text, wait_s(retry_after, now))


def wait_s(value: str | None, now: dt.datetime) -> float | None:
    """A Retry-After header in seconds, as a number or a date (RFC 9110, 10.2.3); None if it says nothing."""
    if value is None:
        return None
    if value.strip().isdigit():
        return min(float(value), MAX_WAIT_S)
    try:
        at = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    at = at if at.tzinfo is not None else at.replace(tzinfo=dt.UTC)
    return min(max(0.0, (at - now).total_seconds()), MAX_WAIT_S)

"""Why one region did not answer a request, whether another one may be asked, and what the client hears at last."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from wire.refused.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wire.dial import DialError
    from wire.http.http1 import Headers

# The region says that it has no answer; another may: it is full, out of order, or too late for somebody's clock.
REPLAYABLE: Final = frozenset({409, 429, 500, 502, 503, 504})
# Codes of a region that is well but cannot take this request now: no mark against its health.
ALIVE_CODES: Final = frozenset({"model_not_ready", "not_resident", "overloaded", "deadline_exceeded"})
REPLAYABLE_CODES: Final = ALIVE_CODES | {
    "worker_lost",
    "upstream_failed",
    "region_unavailable",
    "internal_error",
}
RETRY_S: Final = 1.0
MAX_RETRY_S: Final = 3600.0  # a longer one is a mistake of whoever said it


@dataclass(frozen=True, slots=True)
class Setback:
    """One region's failure to answer, as the client would be told if no other region could be asked.

    `cause` is a few words for the route header; `failed` marks the region's health; `answered` says that the
    words are the region's own; `wait_s` is the `Retry-After` among `headers`; `via` the region that passed it on.
    """

    region: str
    cause: str
    failed: bool
    status: int
    headers: Headers
    body: bytes
    answered: bool = False
    wait_s: float | None = None
    via: str | None = None


def of_error(region: str, error: DialError, *, is_late: bool) -> Setback:
    """The region could not be reached, broke off, or was silent; `is_late`: until the request's own deadline."""
    if error.timed_out and is_late and error.phase != "connect":
        text = "No region answered in time."
        refusal = Refusal(504, "deadline_exceeded", text, "server_error")
        return of_refusal(region, error.phase, refusal, failed=False)  # a long answer is no sick region
    if error.timed_out and error.phase != "connect":
        text = f"Region {region} fell silent and no other could answer; try again."
        refusal = Refusal(504, "upstream_timeout", text, "server_error", retry_after_s=RETRY_S)
    elif error.received == 0 and error.phase in {"connect", "send", "head"}:
        text = f"Region {region} cannot be reached and no other could answer; try again."
        refusal = Refusal(503, "region_unavailable", text, "server_error", retry_after_s=RETRY_S)
    else:
        text = f"Region {region} broke off and no other could answer; try again."
        refusal = Refusal(502, "upstream_failed", text, "server_error", retry_after_s=RETRY_S)
    return of_refusal(region, error.phase, refusal)


def of_refusal(region: str, cause: str, refusal: Refusal, *, failed: bool = True) -> Setback:
    """A failure that this edge puts in its own words."""
    wait_s = refusal.retry_after_s
    return Setback(region, cause, failed, refusal.status, refusal.headers(), refusal.body(), wait_s=wait_s)


def of_garbled(region: str) -> Setback:
    """The region's answer ended well and is not whole, whatever its framing says."""
    text = f"Region {region} gave an answer that is not whole, and no other could answer; try again."
    refusal = Refusal(502, "upstream_failed", text, "server_error", retry_after_s=RETRY_S)
    return of_refusal(region, "garbled", refusal)


def of_answer(region: str, status: int, headers: Headers, body: bytes) -> Setback:
    """The region answered with a status of REPLAYABLE."""
    code = _code(body)
    kept = tuple((name, value) for name, value in headers if name in {"content-type", "retry-after"})
    cause, failed = code or str(status), code not in ALIVE_CODES and status != 429
    if code is None:
        text = f"Region {region} answered {status} without saying why, and no other could answer; try again."
        body = Refusal(status, "upstream_failed", text, "server_error").body()
        kept = (("content-type", "application/json"), *(pair for pair in kept if pair[0] == "retry-after"))
    return Setback(region, cause, failed, status, kept, body, answered=True, wait_s=_wait_s(kept))


def of_event(region: str, code: str, event: bytes) -> Setback:
    """The region's stream began with an error event whose `code` is of REPLAYABLE_CODES."""
    headers = (("content-type", "application/json"),)
    return Setback(region, code, code not in ALIVE_CODES, 503, headers, event, answered=True)


def retry_headers(last: Setback, setbacks: Iterable[Setback]) -> Headers:
    """The headers of `last`; of regions that said `Retry-After` the least, because then one is worth another try."""
    waits = [each.wait_s for each in setbacks if each.wait_s is not None and each.answered]
    if not waits or not last.answered:
        return last.headers
    kept = tuple(pair for pair in last.headers if pair[0] != "retry-after")
    return (*kept, ("retry-after", str(max(1, math.ceil(min(waits))))))


def _wait_s(headers: Headers) -> float | None:
    """Seconds of a `Retry-After`; a date or nonsense is none (our regions write whole seconds)."""
    text = dict(headers).get("retry-after", "")
    return min(float(text), MAX_RETRY_S) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _code(body: bytes) -> str | None:
    try:
        return str(json.loads(body)["error"]["code"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None

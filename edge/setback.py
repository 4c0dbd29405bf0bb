"""Why one region did not answer a request, whether another one may be asked, and what the client hears at last."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from wire.refusal import Refusal

if TYPE_CHECKING:
    from wire.dial import DialError
    from wire.http1 import Headers

REPLAYABLE: Final = frozenset({409, 502, 503})  # the region says that it has no answer; another may
# Codes of a region that is well but cannot take this request now: no mark against its health.
ALIVE_CODES: Final = frozenset({"model_not_ready", "not_resident", "overloaded"})
REPLAYABLE_CODES: Final = ALIVE_CODES | {"worker_lost", "upstream_failed", "region_unavailable"}
RETRY_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Setback:
    """One region's failure to answer, as the client would be told if no other region could be asked.

    `cause` is a few words for the route header; `failed` marks the region's health; `answered` says that the
    words are the region's own.
    """

    region: str
    cause: str
    failed: bool
    status: int
    headers: Headers
    body: bytes
    answered: bool = False


def of_error(region: str, error: DialError) -> Setback:
    """The region could not be reached, broke off, or was silent."""
    if error.timed_out and error.phase != "connect":
        text = "The region did not answer in time."
        refusal = Refusal(504, "deadline_exceeded", text, "server_error")
        return of_refusal(region, error.phase, refusal, failed=False)  # a long answer is no sick region
    if error.received == 0 and error.phase in {"connect", "send", "head"}:
        text = f"Region {region} cannot be reached and no other could answer; try again."
        refusal = Refusal(503, "region_unavailable", text, "server_error", retry_after_s=RETRY_S)
    else:
        text = f"Region {region} broke off and no other could answer; try again."
        refusal = Refusal(502, "upstream_failed", text, "server_error")
    return of_refusal(region, error.phase, refusal)


def of_refusal(region: str, cause: str, refusal: Refusal, *, failed: bool = True) -> Setback:
    """A failure that this edge puts in its own words."""
    return Setback(region, cause, failed, refusal.status, refusal.headers(), refusal.body())


def of_answer(region: str, status: int, headers: Headers, body: bytes) -> Setback:
    """The region answered with a status of REPLAYABLE."""
    code = _code(body)
    kept = tuple((name, value) for name, value in headers if name in {"content-type", "retry-after"})
    return Setback(region, code or str(status), code not in ALIVE_CODES, status, kept, body, answered=True)


def of_event(region: str, code: str, event: bytes) -> Setback:
    """The region's stream began with an error event whose `code` is of REPLAYABLE_CODES."""
    headers = (("content-type", "application/json"),)
    return Setback(region, code, code not in ALIVE_CODES, 503, headers, event, answered=True)


def _code(body: bytes) -> str | None:
    try:
        return str(json.loads(body)["error"]["code"])
    except (ValueError, TypeError, KeyError):
        return None

"""When a certificate is asked for, and how long one that failed is left alone; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edge.acme.shelf import Trouble

if TYPE_CHECKING:
    import datetime as dt

    from edge.acme.faults import AcmeError
    from edge.acme.shelf import Held

RENEW_AT: Final = 2 / 3  # of its life: 30 days before the end of 90, as Let's Encrypt advises
FIRST_WAIT_S: Final = 60.0
MAX_WAIT_S: Final = 12 * 3600.0  # two tries a day stay far below five failed proofs an hour
RATE_LIMITED_S: Final = 3 * 3600.0  # where a CA says "rateLimited" and not until when


def is_due(held: Held | None, domains: frozenset[str], now: dt.datetime) -> bool:
    """There is none, it lacks a name, or two thirds of its life are over."""
    if held is None or not domains <= held.domains:
        return True
    return now >= held.begins + (held.ends - held.begins) * RENEW_AT


def after_failure(before: Trouble, error: AcmeError, now: float, share: float) -> Trouble:
    """Twice as long each time, spread by `share` (0 to 1) over its second half; never before the CA wants it."""
    num = before.num_failed + 1
    wait_s = min(MAX_WAIT_S, FIRST_WAIT_S * 2.0 ** min(num - 1, 16)) * (0.5 + 0.5 * share)
    least_s = error.retry_after_s
    if least_s is None:
        least_s = RATE_LIMITED_S if error.kind == "rateLimited" else 0.0
    return Trouble(num, now + max(wait_s, least_s), str(error)[:1000])

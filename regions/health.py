"""What an edge thinks of a region's health, as a table over frozen values: no clock, no sockets.

Rule 1: every change of state is a row of TABLE; time is an argument.
Rule 2: groups are 2 to 8 regions, so Envoy's defaults (5 failures, 30 s) are too slow: two failures eject.
Rule 3: when nearly all regions that answer look ill, the watcher is the likelier patient: all of them are used (panic).
One that answers no probe is out of reach whoever is ill, so it is used only if none answers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

EJECT_AFTER: Final = 2  # failures in a row; one may be the request's own bad luck
EJECT_RATE: Final = 0.5  # failing half of all requests ejects too, though successes come between
RATE_WEIGHT: Final = 0.1  # of the newest outcome in the moving failure rate: about the last 10 count
RATE_MIN_SEEN: Final = 10  # outcomes before the rate means anything; more are not counted
RATE_LEAST: Final = 0.001  # less is none: the last failure is about 70 successes ago
EJECT_S: Final = 1.0  # first ejection; each one in a row doubles it
EJECT_MAX_S: Final = 30.0  # a region that is long away is still asked this often
TRIAL_S: Final = 10.0  # a trial that never came back lets the next one go after this
RAMP_S: Final = 10.0  # slow start: a region that came back gets its full share after this
# With fewer admitted, all that answer are. Envoy's 50 % is for equal shares of a load. A choice by distance asks the
# nearest first, and where two of three are truly ill a panic then fails a quarter of all requests (the budget of
# replays ends); a way that loses every tenth request gains 7 of 100 by it at the most (tests/regions/test_panic.py).
PANIC_SHARE: Final = 0.25


class Breaker(StrEnum):
    """The states of TABLE."""

    CLOSED = "closed"  # requests go
    OPEN = "open"  # ejected until `until`; then one trial may go
    TRIAL = "half_open"  # one request is out to see; the next may go at `until`


class Outcome(StrEnum):
    """What an edge saw: `FAILED` is no answer, a 502/503 that is not overload, or a cut stream."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SENT = "sent"


@dataclass(frozen=True, slots=True)
class RegionHealth:
    """One edge's memory of one region. Times are monotonic seconds; `failure_rate` is 0..1."""

    breaker: Breaker = Breaker.CLOSED
    num_failures: int = 0
    num_ejections: int = 0
    failure_rate: float = 0.0
    num_seen: int = 0
    until: float = 0.0
    recovered_at: float | None = None

    def admits(self, now: float) -> bool:
        """Whether a request may go: always when closed; when open or on trial, once its time is up."""
        return self.breaker is Breaker.CLOSED or now >= self.until

    @property
    def is_usual(self) -> bool:
        """Whether neither time nor chance has a say in what it is given."""
        return self.breaker is Breaker.CLOSED and self.recovered_at is None

    @property
    def is_down(self) -> bool:
        """Whether it answers no probe: it is away until it does."""
        return self.until == math.inf

    def share(self, now: float) -> float:
        """The part of its usual requests it should get: from 0 to 1 over RAMP_S after a recovery."""
        if self.recovered_at is None:
            return 1.0
        return min(1.0, max(0.0, (now - self.recovered_at) / RAMP_S))


HEALTHY: Final = RegionHealth()
PROVEN: Final = RegionHealth(num_seen=RATE_MIN_SEEN)  # what a healthy region comes to, and stays


def after(health: RegionHealth, outcome: Outcome, now: float) -> RegionHealth:
    """The health after `outcome` was seen at `now`."""
    return TABLE[health.breaker, outcome](health, now)


def panics(healths: Iterable[RegionHealth], now: float) -> bool:
    """Whether so few regions of those that answer are admitted that the breakers must be wrong."""
    known = list(healths)
    admitted = [health.admits(now) for health in known if not health.is_down]
    return sum(admitted) < PANIC_SHARE * len(admitted) if admitted else bool(known)


def _same(health: RegionHealth, _now: float) -> RegionHealth:
    return health


def _rate(health: RegionHealth, failed: float) -> float:
    return health.failure_rate + RATE_WEIGHT * (failed - health.failure_rate)


def _success(health: RegionHealth, now: float) -> RegionHealth:
    if health is PROVEN or health == PROVEN:
        return PROVEN  # nothing to learn: most requests go to such a region
    ramped = health.recovered_at is not None and now - health.recovered_at >= RAMP_S
    rate = _rate(health, 0.0)
    return replace(
        health,
        failure_rate=rate if rate >= RATE_LEAST else 0.0,
        num_seen=min(RATE_MIN_SEEN, health.num_seen + 1),
        num_failures=0,
        num_ejections=0 if ramped else health.num_ejections,
        recovered_at=None if ramped else health.recovered_at,
    )


def _failure(health: RegionHealth, now: float) -> RegionHealth:
    counted = replace(
        health,
        failure_rate=_rate(health, 1.0),
        num_seen=min(RATE_MIN_SEEN, health.num_seen + 1),
        num_failures=health.num_failures + 1,
    )
    outlier = counted.num_seen >= RATE_MIN_SEEN and counted.failure_rate >= EJECT_RATE
    return _ejected(counted, now) if outlier or counted.num_failures >= EJECT_AFTER else counted


def _ejected(health: RegionHealth, now: float) -> RegionHealth:
    away_s = min(EJECT_MAX_S, EJECT_S * 2.0 ** min(health.num_ejections, 16))
    return replace(health, breaker=Breaker.OPEN, until=now + away_s, num_ejections=health.num_ejections + 1)


def _tried(health: RegionHealth, now: float) -> RegionHealth:
    """A request goes to an ejected region: the trial if its time is up, else one of a panic."""
    if now < health.until:
        return health
    return replace(health, breaker=Breaker.TRIAL, until=now + TRIAL_S)


def _recovered(health: RegionHealth, now: float) -> RegionHealth:
    return RegionHealth(num_ejections=health.num_ejections, recovered_at=now)


TABLE: Final = {
    (Breaker.CLOSED, Outcome.SENT): _same,
    (Breaker.CLOSED, Outcome.SUCCEEDED): _success,
    (Breaker.CLOSED, Outcome.FAILED): _failure,
    (Breaker.OPEN, Outcome.SENT): _tried,
    (Breaker.OPEN, Outcome.SUCCEEDED): _same,  # an answer to what was sent before the ejection proves nothing
    (Breaker.OPEN, Outcome.FAILED): _same,
    (Breaker.TRIAL, Outcome.SENT): _tried,
    (Breaker.TRIAL, Outcome.SUCCEEDED): _recovered,
    (Breaker.TRIAL, Outcome.FAILED): _ejected,
}

"""Whether this POP may announce the anycast address, from what the checks see: no clock, no sockets.

Rule 1: withdrawing is quick (FALL bad checks in a row) and announcing is slow (RISE good ones), because a client that
is sent to a sick POP loses its request, and one that is sent a little farther loses milliseconds.
Rule 2: a POP that was withdrawn lately must stay well for longer, each time twice as long, before it comes back: every
move resets the connections of all clients that moved.
Rule 3: a drain de-prefers first (RFC 8326: the route stays, as a last resort) and withdraws at its deadline.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

PERIOD_S: Final = 0.2  # between two checks
RISE: Final = 3  # good checks in a row before the route is announced
FALL: Final = 2  # bad ones before it is withdrawn: one may be a lost packet
STEADY_S: Final = 2.0  # a POP that was withdrawn once lately must be well for so long, then twice that, ...
STEADY_MAX_S: Final = 60.0
LATELY_S: Final = 600.0  # a withdrawal that is longer ago counts no more
MAX_REMEMBERED: Final = 8  # withdrawals: 2 s doubled so often is far above STEADY_MAX_S
DRAIN_S: Final = 30.0  # how long a drained POP stays a last resort before its route goes


class Standing(StrEnum):
    """What this POP tells its neighbours about the anycast address."""

    WITHDRAWN = "withdrawn"  # nothing
    DRAINING = "draining"  # the route, with GRACEFUL_SHUTDOWN: used only where there is no other
    ANNOUNCED = "announced"  # the route


@dataclass(frozen=True, slots=True)
class Checks:
    """What one round of checks saw: does our own listener answer, and how many regions can it reach?"""

    listener: bool
    num_regions: int

    @property
    def good(self) -> bool:
        """A POP without a region to ask has nothing to answer with."""
        return self.listener and self.num_regions > 0


@dataclass(frozen=True, slots=True)
class GateState:
    """One gate's memory. Times are monotonic seconds.

    `num_good` and `num_bad` count checks in a row, `good_since` is when the row of good ones began. `withdrawals` are
    when the route last had to go. `drain_until` is set while somebody wants the POP drained.
    """

    standing: Standing = Standing.WITHDRAWN
    num_good: int = 0
    num_bad: int = 0
    good_since: float = 0.0
    withdrawals: tuple[float, ...] = ()
    drain_until: float | None = None


def decide(state: GateState, checks: Checks, now: float) -> GateState:
    """The state after `checks` at `now`; where its standing is another than before, that is to be announced."""
    seen = _counted(state, checks, now)
    standing = _TABLE[seen.standing](seen, now)
    if standing is Standing.WITHDRAWN is not seen.standing and seen.num_bad:
        kept = (*seen.withdrawals, now)[-MAX_REMEMBERED:]
        return replace(seen, standing=standing, withdrawals=kept)
    return replace(seen, standing=standing)


def drain(state: GateState, now: float, deadline_s: float = DRAIN_S) -> GateState:
    """Somebody wants no new clients here; asked again, the first deadline stays."""
    return state if state.drain_until is not None else replace(state, drain_until=now + deadline_s)


def undrain(state: GateState) -> GateState:
    """The drain is over; the POP comes back by its checks, without a penalty: it was not ill."""
    return replace(state, drain_until=None)


def steady_s(state: GateState, now: float) -> float:
    """How long the checks must have been good before this POP may come back."""
    num = sum(now - each < LATELY_S for each in state.withdrawals)
    return min(STEADY_MAX_S, STEADY_S * 2.0 ** (num - 1)) if num else 0.0


def _counted(state: GateState, checks: Checks, now: float) -> GateState:
    if not checks.good:
        return replace(state, num_good=0, num_bad=min(state.num_bad + 1, FALL))
    since = state.good_since if state.num_good else now
    return replace(state, num_good=min(state.num_good + 1, RISE), num_bad=0, good_since=since)


def _risen(state: GateState, now: float) -> bool:
    return state.num_good >= RISE and now - state.good_since >= steady_s(state, now)


def _from_withdrawn(state: GateState, now: float) -> Standing:
    if not _risen(state, now):
        return Standing.WITHDRAWN
    if state.drain_until is None:
        return Standing.ANNOUNCED
    return Standing.DRAINING if now < state.drain_until else Standing.WITHDRAWN


def _from_announced(state: GateState, _now: float) -> Standing:
    if state.num_bad >= FALL:
        return Standing.WITHDRAWN
    return Standing.ANNOUNCED if state.drain_until is None else Standing.DRAINING


def _from_draining(state: GateState, now: float) -> Standing:
    if state.num_bad >= FALL:
        return Standing.WITHDRAWN
    if state.drain_until is None:
        return Standing.ANNOUNCED
    return Standing.DRAINING if now < state.drain_until else Standing.WITHDRAWN


_TABLE: Final = {
    Standing.WITHDRAWN: _from_withdrawn,
    Standing.ANNOUNCED: _from_announced,
    Standing.DRAINING: _from_draining,
}

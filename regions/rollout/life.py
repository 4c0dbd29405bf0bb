"""The life of one revision in one region, as a table.

Rule 1: every change of state is a row of TABLE; a pair that is not in it raises.
Rule 2: `decide` is pure: what is desired, where every revision stands -> the events to apply, the work to do.
Rule 3: a live revision stays live until another is live or the model is removed. A failure never touches it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from regions.map.region import RolloutState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from regions.map.region import ModelFault


class Event(StrEnum):
    """What happened to a revision."""

    CHECKED = "checked"
    COPIED = "copied"
    LOADING = "loading"
    PROBED = "probed"
    ABANDONED = "abandoned"  # the node went away before it answered: load again
    REFUSED = "refused"
    SUPERSEDED = "superseded"  # another revision serves, or is desired before this one ever served
    REMOVED = "removed"  # the pointer is gone, or no longer names this region
    DRAINED = "drained"
    STOOD = "stood"  # a canary's bake
    FELL = "fell"  # in it: the old one is still live
    AGAIN = "again"  # the pointer names it (once more)


class Work(StrEnum):
    """What the controller does for a revision in some state."""

    CHECK = "check"
    COPY = "copy"
    CHOOSE = "choose"
    PROBE = "probe"
    BAKE = "bake"
    DRAIN = "drain"
    FORGET = "forget"


S, E = RolloutState, Event

TABLE: Mapping[RolloutState, Mapping[Event, RolloutState]] = {
    S.PUSHED: {E.CHECKED: S.VERIFIED, E.REFUSED: S.FAILED, E.SUPERSEDED: S.RETIRED, E.REMOVED: S.RETIRED},
    S.VERIFIED: {E.COPIED: S.REPLICATED, E.REFUSED: S.FAILED, E.SUPERSEDED: S.RETIRED, E.REMOVED: S.RETIRED},
    S.REPLICATED: {E.LOADING: S.WARMING, E.REFUSED: S.FAILED, E.SUPERSEDED: S.RETIRED, E.REMOVED: S.RETIRED},
    S.WARMING: {
        E.PROBED: S.LIVE,
        E.ABANDONED: S.REPLICATED,
        E.REFUSED: S.FAILED,
        E.SUPERSEDED: S.RETIRED,
        E.REMOVED: S.RETIRED,
    },
    S.LIVE: {E.SUPERSEDED: S.DRAINING, E.REMOVED: S.DRAINING, E.STOOD: S.LIVE, E.FELL: S.FAILED},
    S.DRAINING: {E.DRAINED: S.RETIRED, E.AGAIN: S.LIVE},
    S.RETIRED: {E.AGAIN: S.PUSHED},
    S.FAILED: {E.AGAIN: S.PUSHED, E.SUPERSEDED: S.RETIRED, E.REMOVED: S.RETIRED},
}

WORK: Mapping[RolloutState, Work] = {
    S.PUSHED: Work.CHECK,
    S.VERIFIED: Work.COPY,
    S.REPLICATED: Work.CHOOSE,
    S.WARMING: Work.PROBE,
    S.DRAINING: Work.DRAIN,
    S.RETIRED: Work.FORGET,
}


class ForbiddenMoveError(Exception):
    """An event that the table has no row for: a bug of ours, never a user's fault."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One revision's place in this region."""

    revision: str
    state: RolloutState = RolloutState.PUSHED
    fault: ModelFault | None = None

    def after(self, event: Event, fault: ModelFault | None = None) -> Rollout:
        """The rollout after `event`. Raises ForbiddenMoveError for a pair that the table lacks."""
        row = TABLE[self.state]
        if event not in row:
            raise ForbiddenMoveError(f"{self.revision[:12]} is {self.state}: '{event}' cannot happen to it")
        return replace(self, state=row[event], fault=fault)


@dataclass(frozen=True, slots=True)
class Move:
    """An event to apply now: no I/O belongs to it."""

    revision: str
    event: Event


@dataclass(frozen=True, slots=True)
class Task:
    """Work to do, outside any lock; its outcome comes back as an event."""

    revision: str
    work: Work


def decide(
    desired: str | None, rollouts: Sequence[Rollout], *, is_proven: bool = True, is_held: bool = False
) -> tuple[tuple[Move, ...], tuple[Task, ...]]:
    """What to do next for one model.

    Args:
        desired: the revision that the pointer names for this region; None when it names none.
        rollouts: every revision of the model that is known here, each once. A desired revision that is not
            among them is to be added by the caller as PUSHED first.
        is_proven: the desired revision may replace another; else, once live, it bakes beside the old one.
        is_held: it is not to be started here yet.

    Returns:
        The moves to apply at once (call again afterwards), and, when there are none, the work to do.
    """
    moves = tuple(
        Move(each.revision, event)
        for each in rollouts
        if (event := _move(desired, each, rollouts, is_proven=is_proven))
    )
    if moves:
        return moves, ()
    tasks = [Task(each.revision, WORK[each.state]) for each in rollouts if each.state in WORK]
    if is_held:
        tasks = [each for each in tasks if each != Task(desired or "", Work.CHOOSE)]
    if not is_proven:
        baking = (each for each in rollouts if each.revision == desired and each.state is RolloutState.LIVE)
        tasks += [Task(each.revision, Work.BAKE) for each in baking]
    return (), tuple(tasks)


def _move(desired: str | None, one: Rollout, rollouts: Sequence[Rollout], *, is_proven: bool) -> Event | None:
    """The event that the pointer alone causes for `one`; None when its place is right."""
    if one.revision == desired:
        return Event.AGAIN if one.state in {RolloutState.DRAINING, RolloutState.RETIRED} else None
    if one.state in {RolloutState.DRAINING, RolloutState.RETIRED}:
        return None
    if desired is None:
        return Event.REMOVED
    if one.state is not RolloutState.LIVE:
        return Event.SUPERSEDED
    replaced = any(each.revision == desired and each.state is RolloutState.LIVE for each in rollouts)
    return Event.SUPERSEDED if replaced and is_proven else None

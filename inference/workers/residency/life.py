"""The life of a worker as a table, and which idle workers make room. Pure: no clock, process or file.

A worker is one engine process that serves one revision. GONE means that its process has ended and its memory is
free, so whoever waits for room waits for that.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

TEND_S = 0.25
"""Between two looks at workers that answer; idle timeouts are seconds."""
CALM_S = 1.0
"""The same while nobody asks anything. What begins meanwhile cannot stall sooner (`pulse.LEAST_SILENCE_S`)."""


class State(enum.Enum):
    """Where a worker is in its life; values are what `/status` says."""

    LOADING = "loading"
    RESIDENT = "resident"
    DRAINING = "draining"
    GONE = "gone"


class Event(enum.Enum):
    """What can happen to a worker."""

    READY = "ready"
    """Its engine can take requests."""
    FAILED = "failed"
    """The load failed, or the engine said that it cannot go on."""
    DRAIN = "drain"
    """It is to end: unloaded, idle, or in the way of another."""
    OVERDUE = "overdue"
    """It took too long to load or to drain."""
    EXITED = "exited"
    """Its process ended (or never came to be)."""


class Act(enum.Enum):
    """What the node has to do about it."""

    ANNOUNCE = "announce"
    """Tell those who wait for the load that it is done."""
    STOP = "stop"
    """Ask the engine to finish what runs and exit."""
    KILL = "kill"
    """End the process now."""
    FAIL_CALLS = "fail_calls"
    """Give each request that runs one clean error."""
    RELEASE = "release"
    """Give its memory back and forget it."""


Move = tuple[State, tuple[Act, ...]]

_STAY_GONE: dict[tuple[State, Event], Move] = {(State.GONE, event): (State.GONE, ()) for event in Event}
MOVES: dict[tuple[State, Event], Move] = {
    **_STAY_GONE,
    (State.LOADING, Event.READY): (State.RESIDENT, (Act.ANNOUNCE,)),
    (State.LOADING, Event.FAILED): (State.DRAINING, (Act.KILL,)),
    (State.LOADING, Event.DRAIN): (State.DRAINING, (Act.KILL,)),
    (State.LOADING, Event.OVERDUE): (State.DRAINING, (Act.KILL,)),
    (State.LOADING, Event.EXITED): (State.GONE, (Act.RELEASE,)),
    (State.RESIDENT, Event.READY): (State.RESIDENT, ()),
    (State.RESIDENT, Event.FAILED): (State.DRAINING, (Act.FAIL_CALLS, Act.KILL)),
    (State.RESIDENT, Event.DRAIN): (State.DRAINING, (Act.STOP,)),
    (State.RESIDENT, Event.OVERDUE): (State.RESIDENT, ()),
    (State.RESIDENT, Event.EXITED): (State.GONE, (Act.FAIL_CALLS, Act.RELEASE)),
    (State.DRAINING, Event.READY): (State.DRAINING, ()),
    (State.DRAINING, Event.FAILED): (State.DRAINING, (Act.FAIL_CALLS, Act.KILL)),
    (State.DRAINING, Event.DRAIN): (State.DRAINING, ()),
    (State.DRAINING, Event.OVERDUE): (State.DRAINING, (Act.FAIL_CALLS, Act.KILL)),
    (State.DRAINING, Event.EXITED): (State.GONE, (Act.FAIL_CALLS, Act.RELEASE)),
}


def move(state: State, event: Event) -> Move:
    """The next state and what to do, in order."""
    return MOVES[state, event]


@dataclass(frozen=True, slots=True)
class Tenancy:
    """One worker as the choice of whom to stop sees it. `idle_s` is 0 while a request runs."""

    revision_id: str
    state: State
    num_bytes: int
    idle_s: float
    num_calls: int

    @property
    def may_go(self) -> bool:
        """Whether it could be stopped now, and nobody would miss an answer."""
        return self.state is State.RESIDENT and not self.num_calls

    def sized(self, num_bytes: int) -> Tenancy:
        """The same worker, measured by other bytes."""
        return replace(self, num_bytes=num_bytes)


def stops_for_room(
    workers: Sequence[Tenancy], need_bytes: int, budget_bytes: int, awake: Collection[str] = ()
) -> tuple[str, ...] | None:
    """Which resident workers to stop, longest idle first, so that `need_bytes` more fit the budget.

    One with a running request is never among them, nor one of `awake`. None when stopping all others is not enough.
    Workers that are draining count as room that comes by itself.
    """
    staying = [worker for worker in workers if worker.state in {State.LOADING, State.RESIDENT}]
    excess = sum(worker.num_bytes for worker in staying) + need_bytes - budget_bytes
    chosen: list[str] = []
    for worker in sorted(staying, key=lambda worker: -worker.idle_s):
        if excess <= 0:
            break
        if worker.may_go and worker.revision_id not in awake:
            chosen.append(worker.revision_id)
            excess -= worker.num_bytes
    return tuple(chosen) if excess <= 0 else None


def idle_too_long(worker: Tenancy, idle_timeout_s: float, min_replicas: int) -> bool:
    """Whether a worker is to be stopped because nobody uses it."""
    return worker.may_go and min_replicas < 1 and worker.idle_s >= idle_timeout_s


def next_look_s(terms: Iterable[tuple[Tenancy, float, int]]) -> float:
    """When to look at the workers again: by then one may have been idle for too long, or be silent.

    `terms`: each worker with its idle timeout (s) and its least number of replicas.
    """
    left_s = [
        TEND_S if worker.num_calls else timeout_s - worker.idle_s
        for worker, timeout_s, min_replicas in terms
        if worker.num_calls or min_replicas < 1
    ]
    return max(TEND_S, min([CALM_S, *left_s]))

"""The worker's table: every state with every event, and who makes room for whom."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.workers.residency.life import (
    Act,
    Event,
    State,
    Tenancy,
    idle_too_long,
    move,
    next_look_s,
    stops_for_room,
)

pairs = [(state, event) for state in State for event in Event]


@pytest.mark.parametrize(("state", "event"), pairs)
def test_every_event_has_a_place_in_every_state(state: State, event: Event) -> None:
    after, acts = move(state, event)
    order = list(State)

    assert order.index(after) >= order.index(state), "a worker never goes back"
    assert (after is State.GONE) == (event is Event.EXITED or state is State.GONE), "gone means: no process"
    assert (Act.RELEASE in acts) == (after is State.GONE and state is not State.GONE), (
        "memory is given back once"
    )
    assert (Act.KILL in acts) <= (after is State.DRAINING)
    assert (Act.ANNOUNCE in acts) == (after is State.RESIDENT and state is State.LOADING)
    if state in {State.RESIDENT, State.DRAINING} and event in {Event.FAILED, Event.EXITED}:
        assert acts[0] is Act.FAIL_CALLS, "nobody waits for ever"


@given(st.lists(st.sampled_from(list(Event)), max_size=12))
def test_any_history_ends_with_the_process(events: list[Event]) -> None:
    state = State.LOADING
    num_released = 0
    for event in [*events, Event.EXITED]:
        state, acts = move(state, event)
        num_released += acts.count(Act.RELEASE)

    assert state is State.GONE
    assert num_released == 1


def worker(name: str, size: int, idle_s: float, num_calls: int = 0, state: State = State.RESIDENT) -> Tenancy:
    return Tenancy(name, state, size, idle_s, num_calls)


def test_the_longest_idle_make_room_and_no_more_than_needed() -> None:
    workers = [worker("a", 40, 5), worker("b", 30, 50), worker("c", 30, 20)]

    assert stops_for_room(workers, 0, 100) == ()
    assert stops_for_room(workers, 20, 100) == ("b",)
    assert stops_for_room(workers, 50, 100) == ("b", "c")
    assert stops_for_room(workers, 100, 100) == ("b", "c", "a")
    assert stops_for_room(workers, 20, 100, awake={"b"}) == ("c",)
    assert stops_for_room(workers, 101, 100) is None


def test_who_works_or_loads_stays() -> None:
    workers = [worker("a", 60, 0, num_calls=1), worker("b", 30, 0, state=State.LOADING), worker("c", 10, 9)]

    assert stops_for_room(workers, 10, 100) == ("c",)
    assert stops_for_room(workers, 11, 100) is None
    assert stops_for_room([worker("d", 90, 0, state=State.DRAINING)], 50, 100) == ()


tenancies = st.builds(
    Tenancy,
    st.uuids().map(str),
    st.sampled_from(State),
    st.integers(0, 100),
    st.floats(0, 100),
    st.integers(0, 2),
)


@given(st.lists(tenancies, max_size=8), st.integers(0, 200), st.integers(0, 300))
def test_room_is_enough_and_taken_from_the_idle_only(workers: list[Tenancy], need: int, budget: int) -> None:
    chosen = stops_for_room(workers, need, budget)
    staying = [one for one in workers if one.state in {State.LOADING, State.RESIDENT}]
    busy = [one for one in staying if one.num_calls or one.state is State.LOADING]
    if chosen is None:
        assert sum(one.num_bytes for one in busy) + need > budget
        return
    left = [one for one in staying if one.revision_id not in chosen]

    assert sum(one.num_bytes for one in left) + need <= budget or not need
    assert set(busy) <= set(left)


@pytest.mark.parametrize(
    ("tenancy", "timeout_s", "min_replicas", "stops"),
    [
        (worker("a", 1, 10), 9, 0, True),
        (worker("a", 1, 10), 11, 0, False),
        (worker("a", 1, 10), 9, 1, False),
        (worker("a", 1, 10, num_calls=1), 9, 0, False),
        (worker("a", 1, 10, state=State.LOADING), 9, 0, False),
        (worker("a", 1, 10, state=State.DRAINING), 9, 0, False),
    ],
)
def test_who_is_idle_too_long(tenancy: Tenancy, timeout_s: float, min_replicas: int, stops: bool) -> None:
    assert idle_too_long(tenancy, timeout_s, min_replicas) == stops


def test_workers_are_looked_at_no_more_often_than_something_may_be_due() -> None:
    idle = Tenancy("a", State.RESIDENT, 1, 0.0, 0)
    busy = replace(idle, num_calls=1)

    assert next_look_s([]) == next_look_s([(idle, 300.0, 0), (idle, 0.5, 1)]) == 1.0
    assert next_look_s([(idle, 300.0, 0), (busy, 300.0, 1)]) == 0.25
    assert next_look_s([(idle, 300.0, 0), (replace(idle, idle_s=299.5), 300.0, 0)]) == 0.5
    assert next_look_s([(replace(idle, idle_s=500.0), 300.0, 0)]) == 0.25

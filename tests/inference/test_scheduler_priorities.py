"""Who goes first, who gives way, who is turned away, and for how long."""

import pytest

from inference.engine.orders.asked import Generate, Sampling
from inference.engine.steps.drain import MAX_RETRY_S, MIN_RETRY_S, Drain
from inference.engine.steps.events import Emitted, Ended, Failed, Preempted, Stored
from inference.engine.steps.rows import AGE_S, State
from inference.engine.steps.scheduler import Scheduler
from tests.inference.simulated import Budget


def order(name, prompt=4, most=50, **more):
    return Generate(name, tuple(range(10, 10 + prompt)), most, Sampling(), **more)


def scheduler(num_slots=1, budget=100, **more):
    return Scheduler(num_slots, frozenset(), pace=Budget(budget), **more)


def run_step(one, now=0.0, token=7):
    told = one.preempt(now)
    step = one.plan(now)
    tokens = {part.id: token for part in step if part.samples}
    return step, [*told, *one.commit(step, tokens, now, 0.01)]


def running(one, now=0.0):
    return {part.id for part in run_step(one, now)[0]}


def test_within_one_priority_it_is_first_come_and_between_them_the_lower_number():
    one = scheduler()
    for number, (name, priority) in enumerate({"a": 5, "b": 0, "c": 5, "d": 0, "e": 9}.items()):
        one.add(order(name, most=1, priority=priority), number / 10)
    assert [running(one, 1.0) for _ in range(5)] == [{"b"}, {"d"}, {"a"}, {"c"}, {"e"}]


def test_prompts_share_the_budget_by_rank():
    one = scheduler(num_slots=3, budget=6)
    one.add(order("late", prompt=20, priority=1), 0.0)
    run_step(one)
    one.add(order("soon", prompt=4), 0.0)
    step, _ = run_step(one)
    assert [(part.id, len(part.tokens)) for part in step] == [("soon", 4), ("late", 2)]


def test_who_waits_long_enough_goes_before_every_newcomer():
    one = scheduler()
    one.add(order("running", most=3), 0.0)
    run_step(one)
    one.add(order("low", most=1, priority=9), 0.0)
    one.add(order("soon", most=1), 9 * AGE_S - 1)
    one.add(order("too late", most=1), 9 * AGE_S + 1)
    seen = [running(one, 9 * AGE_S + 2) for _ in range(5)]
    assert seen == [{"running"}, {"running"}, {"soon"}, {"low"}, {"too late"}]


def test_a_row_gives_its_slot_to_a_higher_priority_and_goes_on_where_it_stopped():
    one = scheduler(num_pages=8)
    one.add(order("low", prompt=40, most=6, priority=3), 0.0)
    run_step(one, 0.0)
    run_step(one, 0.0, token=8)
    one.add(order("high", most=2), 1.0)
    step, events = run_step(one, 1.0)
    assert {part.id for part in step} == {"high"}
    assert events[0] == Preempted("low", 0, is_proven=True), "its whole blocks were kept with its first token"
    one.check()
    assert (one.num_running, one.num_waiting, one.num_preempted) == (1, 1, 1)
    run_step(one, 2.0)
    step, events = run_step(one, 3.0, token=9)
    assert [(part.id, part.start, part.tokens, part.pages) for part in step] == [
        ("low", 32, (*range(42, 50), 7, 8), (0, 1))
    ]
    assert events == [Emitted("low", 9)], "no time and no token is told twice"
    events = [event for _ in range(3) for event in run_step(one, 4.0)[1]]
    ended = events[-1]
    assert (ended.num_output, ended.num_cached, ended.decode_ms) == (6, 0, 4000.0)


def test_what_was_answered_is_kept_when_a_row_gives_way():
    one = scheduler(num_pages=8)
    one.add(order("low", prompt=14, priority=1), 0.0)
    for _ in range(3):
        run_step(one)
    one.add(order("high"), 0.0)
    assert run_step(one)[1][:2] == [Stored("low", 0, 0, (0,)), Preempted("low", 0, is_proven=True)]


def test_a_prompt_that_gives_way_is_computed_again_and_its_slot_is_not_trusted():
    one = scheduler(budget=20, num_pages=8)
    one.add(order("low", prompt=50, priority=1), 0.0)
    run_step(one)
    one.add(order("high", prompt=1, most=1), 0.0)
    assert run_step(one)[1][0] == Preempted("low", 0, is_proven=False)
    step, _ = run_step(one)
    assert [(part.id, part.start, part.pages) for part in step] == [("low", 0, ())]


@pytest.mark.parametrize(
    ("low", "high", "came_s", "gives_way"),
    [(0, 0, 1.0, False), (3, 3, 1.0, False), (3, 2, 1.0, True), (1, 2, 1.0, False), (1, 0, AGE_S + 1, False)],
)
def test_who_gives_way(low, high, came_s, gives_way):
    """Only to a higher priority, and no more once it has waited and run for its bonus."""
    one = scheduler()
    one.add(order("first", priority=low), 0.0)
    run_step(one)
    one.add(order("second", priority=high), came_s)
    assert (running(one, came_s) == {"second"}) == gives_way


def test_the_last_gives_way_and_nobody_for_a_free_slot():
    one = scheduler(num_slots=3)
    for name, priority in {"a": 4, "b": 9, "c": 0}.items():
        one.add(order(name, priority=priority), 0.0)
    run_step(one)
    one.add(order("d", priority=2), 0.0)
    assert running(one) == {"a", "c", "d"}
    one.cancel("d", 0.0)
    one.add(order("e"), 0.0)
    one.preempt(0.0)
    assert one.num_preempted == 1, "there was a free slot for e"


@pytest.mark.parametrize("state", list(State))
def test_a_preempted_row_can_be_cancelled_and_failed_in_every_state(state):
    for leave in ("cancel", "fail"):
        one = scheduler(budget=3, num_pages=4)
        one.add(order("low", prompt=3, priority=1, most=30), 0.0)
        for _ in range(5):
            run_step(one)
        one.add(order("high", prompt=1, most=1), 0.0)
        run_step(one)
        if state is not State.WAITING:
            run_step(one)
        if state is State.DECODE:
            for _ in range(4):
                run_step(one)
        events = one.cancel("low", 0.0) if leave == "cancel" else one.fail("low", "x", "y")
        assert isinstance(events[-1], Ended | Failed)
        assert (events[-1].slot is None) == (state is State.WAITING)
        assert one.is_idle
        one.check()


def test_a_full_queue_turns_away_the_last_by_rank():
    one = scheduler(max_waiting=2)
    for name in ("running", "a", "b"):
        one.add(order(name, priority=2), 0.0)
    run_step(one)
    assert [event.id for event in one.add(order("same", priority=2), 0.1)] == ["same"]
    told = one.add(order("higher"), 0.1)
    assert [(event.id, event.code, event.slot) for event in told] == [("b", "overloaded", None)]
    assert one.num_waiting == 2
    one.check()


def test_a_row_that_has_begun_to_answer_is_never_turned_away():
    one = scheduler(max_waiting=1)
    one.add(order("begun", priority=9), 0.0)
    run_step(one)
    one.add(order("high", priority=1), 0.0)
    run_step(one)
    assert (one.num_waiting, one.num_preempted) == (1, 1)
    assert [event.id for event in one.add(order("higher"), 0.0)] == ["higher"]


class TestDrain:
    def test_the_pace_of_departures_while_others_wait_is_what_a_new_one_waits_for(self):
        drain = Drain()
        drain.pass_time(100.0, is_busy=False)
        for number in range(1, 11):
            drain.pass_time(100.0 + 2 * number, is_busy=True)
            drain.depart()
        assert drain.wait_s(5) == pytest.approx(10.0)
        drain.pass_time(500.0, is_busy=False)
        assert drain.wait_s(5) == pytest.approx(10.0), "without a queue no time passes"
        drain.pass_time(520.0, is_busy=True)
        assert drain.wait_s(5) == pytest.approx(20.0), "a pause counts, although nobody left yet"

    def test_bounds(self):
        drain = Drain()
        assert drain.wait_s(100) == MIN_RETRY_S
        drain.pass_time(0.0, is_busy=False)
        drain.pass_time(900.0, is_busy=True)
        assert drain.wait_s(100) == MAX_RETRY_S

    def test_departures_in_a_batch_count_as_many(self):
        drain = Drain()
        drain.pass_time(0.0, is_busy=False)
        for number in range(1, 5):
            drain.pass_time(8.0 * number, is_busy=True)
            for _ in range(16):
                drain.depart()
        assert drain.wait_s(100) == pytest.approx(100 * 24.0 / 63, rel=0.02)

    def test_the_engine_tells_it_with_the_refusal(self):
        one = scheduler(max_waiting=3)
        for number in range(4):
            one.add(order(str(number)), 0.0)
        one.plan(0.0)
        for number in range(20):  # one leaves every two seconds, and three wait all the time
            one.cancel(str(number), 2.0 * number + 2)
            one.plan(2.0 * number + 2)
            assert one.add(order(str(number + 4)), 2.0 * number + 2) == []
        events = one.add(order("one more"), 40.0)
        assert events[0].code == "overloaded"
        assert events[0].retry_after_s == pytest.approx(3 * 2.0, rel=0.2)

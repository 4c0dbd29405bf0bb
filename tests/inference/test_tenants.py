"""Turns, slots and steps between tenants: nobody is starved, or refused for another's load."""

import random
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.engine.gpu.blocks import BlockPool
from inference.engine.orders.asked import Generate
from inference.engine.steps import seats
from inference.engine.steps import tenants as tenants_module
from inference.engine.steps.crowd import FAR
from inference.engine.steps.events import Ended, Failed, Preempted
from inference.engine.steps.pages import PAGE_TOKENS
from inference.engine.steps.rows import Row
from inference.engine.steps.tenants import ANSWER_COST, PROMPT_COST
from tests.evidence import count
from tests.inference.turns import Engine


@settings(max_examples=count(12, 1_000), deadline=None)
@given(
    seed=st.integers(0, 2**32),
    num_slots=st.integers(1, 8),
    weights=st.lists(st.integers(1, 4), min_size=2, max_size=4),
)
def test_who_always_waits_is_served_by_weight_within_the_bound(seed, num_slots, weights):
    """Each keeps requests waiting, of its own sizes; services differ by what fills the slots twice, for ever."""
    draws = random.Random(seed)
    engine = Engine(num_slots, budget=64)
    sizes = {f"t{number}": (draws.randint(1, 30), draws.randint(1, 10)) for number in range(len(weights))}
    most = (num_slots + 1) * (PROMPT_COST * 30 + ANSWER_COST * 10)
    for _ in range(200):
        for number, (name, (prompt, answer)) in enumerate(sizes.items()):
            missing = num_slots + 3 - engine.waiting(name)
            engine.add(name, max(0, missing), prompt=prompt, most=answer, weight=weights[number])
        engine.step()
        served = [engine.service[name] / weight for name, weight in zip(sizes, weights, strict=True)]
        assert max(served) - min(served) <= 2 * most
    assert min(served) > 0


@settings(max_examples=count(12, 1_000), deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 6), st.booleans())
def test_no_slot_is_free_while_someone_waits_and_everyone_ends(seed, num_slots, lends):
    """Whatever tenants, weights, priorities and cancels there are, and where rows take turns."""
    draws = random.Random(seed)
    pool = BlockPool(num_slots, 12) if lends else None
    engine = Engine(num_slots, cost=lambda rows, prompt: 0.001 + 0.001 * rows, pool=pool)
    left = 60
    while left or not engine.one.is_idle:
        if left and draws.random() < 0.4:
            left -= 1
            name = draws.choice(["hog", "hog", "hog", "b", "c"])
            sizes = {"prompt": draws.randint(1, 40), "most": draws.randint(1, 20)}
            engine.add(name, priority=draws.choice([0, 9]), weight=draws.choice([1, 1, 3]), **sizes)
        if draws.random() < 0.05 and engine.orders:
            engine.one.cancel(draws.choice(list(engine.orders)), engine.now)
        if engine.one.is_idle:
            continue
        events = engine.step()
        engine.one.check()
        assert engine.steps[-1], "somebody always moves on"
        if not lends and not any(isinstance(event, Ended) for event in events):
            is_full = not engine.one.num_waiting or engine.one.num_running == num_slots
            here = list(engine.one._tenants.here)
            level = min((each.num_requests / each.weight for each in here), default=0.0)
            few = FAR * max(1.0, level)  # a crowd saves up for its chunks
            is_crowd = all(each.num_requests > few * each.weight for each in here if each.waiting)
            assert is_full or engine.chunks or is_crowd, "prompts had what a step has for them"
        assert len(engine.steps) < 20_000
    ended = Counter(engine.ended)
    assert set(ended.values()) <= {1}


def test_a_tenant_that_comes_is_next_and_one_that_was_away_has_saved_up_nothing():
    engine = Engine(1, budget=64)
    engine.add("hog", 30, most=4)
    for _ in range(40):
        engine.step()
    engine.add("new", 20, most=4)
    for _ in range(40):
        engine.step()
    last = [engine.orders[name].tenant for name in engine.ended[-8:]]
    assert Counter(last) == {"hog": 4, "new": 4}, "in turns: neither the time before nor the queue counts"
    assert all(one != other for one, other in pairwise(last))


def test_one_tenants_long_answers_give_slots_to_others_at_once_and_only_once():
    engine = Engine(8, budget=1000)
    engine.add("hog", 20, most=1000)
    for _ in range(10):
        engine.step()
    engine.add("a", 2, most=20)
    engine.add("b", 1, most=20)
    engine.step()
    assert engine.slots() == {"hog": 6, "a": 1, "b": 1}, (
        "they do not wait for one of eight long answers to end"
    )
    for _ in range(4):
        engine.step()
    assert engine.slots() == {"hog": 5, "a": 2, "b": 1}, "and a second one when the first was paid for"
    for _ in range(25):
        engine.step()
    assert engine.slots() == {"hog": 8}
    assert engine.count(Preempted) == 3
    assert [event.id for event in engine.events if isinstance(event, Preempted)] == [
        "hog-7",
        "hog-6",
        "hog-5",
    ]


def test_nobody_takes_more_than_its_share_and_shares_follow_weights():
    engine = Engine(8, budget=1000)
    engine.add("hog", 20, most=1000)
    engine.step()
    engine.add("heavy", 20, most=1000, weight=3)
    for _ in range(30):
        engine.step()
    assert engine.slots() == {"hog": 2, "heavy": 6}
    assert engine.count(Preempted) == 6


def test_a_priority_is_within_its_tenant():
    engine = Engine(2, budget=1000)
    engine.add("a", 1, most=100, priority=9)
    engine.add("b", 1, most=100, priority=9)
    engine.step()
    engine.add("a", 1, most=3, priority=0)
    engine.step()
    assert [event.id for event in engine.events if isinstance(event, Preempted)] == ["a-0"]
    assert engine.steps[-1] == {"a": 1, "b": 1}


def test_a_full_queue_turns_away_who_has_most_in_it():
    engine = Engine(1, max_waiting=6, budget=64)
    assert not engine.add("hog", 7)
    engine.step()
    for name in ("a", "b", "a"):
        assert [event.id.partition("-")[0] for event in engine.add(name)] == ["hog"]
    assert [event.id for event in engine.add("hog")] == ["hog-10"], "its own newest"
    assert engine.one.num_waiting == 6
    engine.one.check()


@pytest.mark.parametrize(
    ("names", "gone"), [(["hog", "hog", "a"], "hog-1"), (["a", "a", "a"], "a-2"), (["a", "b", "c"], "c-2")]
)
def test_a_row_that_grows_takes_blocks_of_the_greediest_and_else_of_the_last(names, gone, monkeypatch):
    """Six blocks for three rows of two: the first to need a third gets it of who has more than its share."""
    monkeypatch.setattr(seats, "GROWTH_TOKENS", 1)
    pool = BlockPool(3, 6)
    engine = Engine(3, budget=64, pool=pool)
    for name in names:
        engine.add(name, prompt=16, most=40)
    for _ in range(17):  # of 16 + 1 tokens and room for 32, one place ahead
        engine.step()
    assert [event.id for event in engine.events if isinstance(event, Preempted)] == [gone]
    for row in engine.one._seats.rows:
        assert len(pool.blocks(row.slot)) * PAGE_TOKENS > len(row.tokens)
    engine.one.check()


def test_a_row_takes_less_than_it_wishes_before_anybody_gives_way_and_no_draft_beyond_its_blocks():
    """It asks for much, so that it seldom asks; where that is not there, what it needs is enough."""
    pool = BlockPool(2, 3)
    one = seats.Seats(pool)
    row = Row(Generate("a", (5,) * 16, 100), 0.0, 0)
    row.slot = pool.take(16)
    pool.give(pool.take(16))  # two blocks are left: its wish of 256 tokens would be 16 more
    assert one.has_room(row)
    assert [one.has_room_beyond(row, num) for num in (0, 16, 17)] == [True, True, False]
    row.tokens += [5] * 32
    assert not one.has_room(row), "three blocks are full"


def test_counters_are_bounded(monkeypatch):
    monkeypatch.setattr(tenants_module, "MAX_REMEMBERED", 5)
    engine = Engine(2, budget=64)
    for number in range(40):
        engine.add(f"t{number}", most=1)
        engine.step()
    assert list(engine.one._tenants._gone) == [f"t{number}" for number in range(35, 40)], "the last ones"
    assert not list(engine.one._tenants.here)


def test_failed_events_are_only_the_hogs():
    """Fifty requests of one come for each of three others', more than can be served: nobody else is refused or late."""
    engine = Engine(8, max_waiting=64, budget=256)
    refused = []
    for number in range(400):
        refused += engine.add("hog", 50 if number % 10 == 0 else 0, most=20)
        if number % 10 == 0:
            for name in "abc":
                refused += engine.add(name, 1, most=8)
        engine.step()
    assert {event.id.partition("-")[0] for event in refused if isinstance(event, Failed)} == {"hog"}
    ended = Counter(name.partition("-")[0] for name in engine.ended)
    assert all(ended[name] >= 38 for name in "abc"), "each is done before its next one comes"


def test_nobody_waits_behind_a_crowd_whose_prompts_save_up_for_a_step():
    """Its turn is first by what it was served, and takes none of this step: the slot is for who comes next."""
    for seed in (389, 98781):
        test_no_slot_is_free_while_someone_waits_and_everyone_ends.hypothesis.inner_test(seed, 3, lends=False)

"""Turns, slots and steps between tenants: nobody is starved, or refused for another's load."""

import random
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.engine import tenants as tenants_module
from inference.engine.blocks import BlockPool
from inference.engine.crowd import CROWD_FACTOR, FAR, surplus
from inference.engine.events import Emitted, Ended, Failed, Preempted
from inference.engine.orders import Generate
from inference.engine.pace import Pace
from inference.engine.rows import Row, State
from inference.engine.scheduler import Scheduler
from inference.engine.tenants import ANSWER_COST, PROMPT_COST, Tenants
from tests.evidence import count
from tests.inference.simulated import Budget


def order(name, tenant, prompt=4, most=50, **more):
    return Generate(name, tuple(range(10, 10 + prompt)), most, tenant=tenant, **more)


class Engine:
    """A scheduler whose steps take what `cost` says of their rows, and the service that each tenant had."""

    def __init__(self, num_slots, cost=lambda rows, prompt: 0.01, budget=None, **more):
        pace = Pace() if budget is None else Budget(budget)
        self.one = Scheduler(num_slots, frozenset(), pace=pace, **more)
        self.cost, self.now, self.number = cost, 0.0, 0
        self.orders, self.output, self.prompts, self.service = {}, Counter(), {}, Counter()
        self.events, self.steps, self.ended, self.chunks = [], [], [], 0

    def add(self, tenant, times=1, **more):
        events = []
        for _ in range(times):
            new = order(f"{tenant}-{self.number}", tenant, **more)
            self.number += 1
            self.orders[new.id] = new
            events += self.one.add(new, self.now)
        return events

    def step(self):
        events = self.one.preempt(self.now)
        step = self.one.plan(self.now)
        prompt = 0
        for part in step:
            done, end = self.prompts.get(part.id, 0), min(part.start + len(part.tokens), self.length(part.id))
            self.prompts[part.id] = max(done, end)
            tenant = self.orders[part.id].tenant
            self.service[tenant] += (
                PROMPT_COST * max(0, end - max(done, part.start)) + ANSWER_COST * part.samples
            )
            prompt += len(part.tokens) if part.start < self.length(part.id) else len(part.tokens) - 1
            self.output[part.id] += part.samples
        self.chunks = prompt
        took_s = self.cost(sum(part.start >= self.length(part.id) for part in step), prompt)
        self.now += took_s
        chosen = {part.id: 5 for part in step if part.samples}
        events += self.one.commit(step, chosen, self.now, took_s)
        self.steps.append(Counter(self.orders[part.id].tenant for part in step))
        self.events += events
        self.ended += [event.id for event in events if isinstance(event, Ended)]
        return events

    def length(self, name):
        return len(self.orders[name].tokens)

    def waiting(self, tenant):
        return sum(len(each.waiting) for each in self.one._tenants.here if each.name == tenant)

    def slots(self):
        return {each.name: each.num_running for each in self.one._tenants.here}

    def count(self, kind):
        return sum(isinstance(event, kind) for event in self.events)


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


def test_counters_are_bounded(monkeypatch):
    monkeypatch.setattr(tenants_module, "MAX_REMEMBERED", 5)
    engine = Engine(2, budget=64)
    for number in range(40):
        engine.add(f"t{number}", most=1)
        engine.step()
    assert len(engine.one._tenants._gone) == 5
    assert not list(engine.one._tenants.here)


class TestCrowd:
    """Steps that take 1 ms and 0.1 ms more for each row, as a processor's do."""

    @staticmethod
    def engine():
        engine = Engine(64, cost=lambda rows, prompt: 0.001 + 0.0001 * rows + 0.00001 * prompt)
        engine.add("hog", 100, most=2_000)
        for name in "abc":
            engine.add(name, 1, most=300)
        for _ in range(100):
            engine.step()
        return engine

    def test_the_others_steps_are_hardly_longer_and_the_hogs_rows_take_turns(self):
        engine = self.engine()
        before, start = Counter(engine.output), engine.now
        for _ in range(150):
            engine.step()
        alone_s = 0.001 + 0.0001 * 4
        assert (engine.now - start) / 150 <= alone_s * (2 * CROWD_FACTOR - 1) * 1.1
        gained = [engine.output[name] - before[name] for name in engine.orders]
        others = [
            each for name, each in zip(engine.orders, gained, strict=True) if not name.startswith("hog")
        ]
        assert others == [150] * 3, "in every step"
        oldest, *running = [
            each for name, each in zip(engine.orders, gained, strict=True) if each and "hog" in name
        ]
        assert oldest == 150, "one, as the others have"
        assert len(running) >= 60
        assert max(running) - min(running) <= 1, "one after another"

    def test_the_hogs_prompts_move_on_and_lengthen_the_others_steps_by_a_part(self):
        """A token of a prompt costs a tenth of a plain step: a chunk comes in some steps, not in each."""
        cost = {"cost": lambda rows, prompt: 0.001 + 0.0001 * rows + 0.0001 * prompt}
        engine = Engine(8, max_waiting=1_000, **cost)
        engine.add("hog", 300, prompt=200, most=5)
        engine.add("a", 1, most=3_000)
        for _ in range(300):
            engine.step()
        start, ended = engine.now, len(engine.ended)
        for _ in range(2_000):
            engine.step()
        assert (engine.now - start) / 2_000 <= 0.0012 * (2 * CROWD_FACTOR - 1) * 1.15
        assert len(engine.ended) - ended >= 2_000 * 2 // 200, "two tokens a step, at the least"
        assert all(step["a"] for step in engine.steps[-2_000:])

    def test_alone_again_it_has_the_whole_batch(self):
        engine = self.engine()
        for name in ("a-100", "b-101", "c-102"):
            engine.one.cancel(name, engine.now)
        engine.step()
        engine.step()
        assert engine.steps[-1]["hog"] == 64

    def test_where_a_fuller_step_costs_nothing_everybody_is_in_each(self):
        engine = Engine(64)
        engine.add("hog", 100, most=2_000)
        engine.add("a", 1, most=300)
        for _ in range(100):
            engine.step()
        assert engine.steps[-1] == {"hog": 63, "a": 1}

    @staticmethod
    def steps_of_four(others, row_s=0.0003, **more):
        """The late steps of four streams of one tenant beside `others` of another's."""
        engine = Engine(64, cost=lambda rows, prompt: 0.001 + row_s * rows + 0.00001 * prompt)
        engine.add("hog", 4, most=1_000, **more)
        engine.add("a", others, most=1_000)
        for _ in range(100):
            engine.step()
        return engine.steps[-40:]

    @pytest.mark.parametrize("others", [1, 2])
    def test_the_streams_of_who_waits_outside_are_in_every_second_step(self, others):
        steps = self.steps_of_four(others, has_waited=True)
        assert [step["a"] for step in steps] == [others] * 40, "in every step"
        assert sorted(step["hog"] for step in steps) == [0] * 20 + [4] * 20
        assert all(one["hog"] != other["hog"] for one, other in pairwise(steps))

    @pytest.mark.parametrize(
        ("others", "row_s", "has_waited"),
        [(1, 0.0003, False), (3, 0.0003, True), (1, 1e-7, True), (0, 0.0003, True)],
    )
    def test_they_are_in_each_if_it_wants_no_more_or_would_have_less_or_costs_nothing(
        self, others, row_s, has_waited
    ):
        steps = self.steps_of_four(others, row_s, has_waited=has_waited)
        assert {(step["hog"], step["a"]) for step in steps} == {(4, others)}

    def test_one_of_two_prompts_beside_those_who_wait_outside_has_a_step_of_its_own(self):
        engine = Engine(64, cost=lambda rows, prompt: 0.001 + 0.0003 * rows + 0.00001 * prompt)
        engine.add("hog", 4, most=1_000, has_waited=True)
        engine.add("a", 1, most=100)
        while not engine.ended:
            engine.step()
        for _ in range(2):
            engine.add("a", 1, most=1)
            engine.step()
        assert sorted(step["hog"] for step in engine.steps[-2:]) == [0, 4]
        assert [step["a"] for step in engine.steps[-2:]] == [1, 1]

    def test_what_is_beyond_what_the_others_have_is_surplus(self):
        tenants, rows = Tenants(), []
        for name, number in (("a", 1), ("b", 3), ("c", 7)):
            for each in range(number):
                rows.append(Row(order(f"{name}{each}", name, weight=number), 0.0, each))
                tenants.join(rows[-1])
        assert surplus(rows, tenants) == set(), "each has what its weight says"
        for row in rows:
            row.state = State.DECODE
        more = [Row(order(f"more{each}", "b", weight=3), 0.0, 10 + each) for each in range(10)]
        for row in more:
            assert surplus([*rows, *more], tenants) == set(), "not yet far more than others have"
            tenants.join(row)
            row.state = State.DECODE
        assert surplus([*rows, *more], tenants) == set(more), "its oldest three are in each step"
        rows[1].state = State.PREFILL
        assert surplus([*rows, *more], tenants) == {rows[1], *more[1:]}, "and none of its prompts"
        assert surplus([*rows[1:4], *more], tenants) == set(), "nobody else could be in the step"

    def test_a_prompt_of_the_others_is_computed_as_if_they_were_alone(self):
        engine = self.engine()
        engine.add("d", 1, prompt=2_000, most=1)
        steps = 0
        while not any(isinstance(each, Emitted) and each.id.startswith("d") for each in engine.step()):
            steps += 1
        alone = Engine(64, cost=lambda rows, prompt: 0.001 + 0.0001 * rows + 0.00001 * prompt)
        for name in "abc":
            alone.add(name, 1, most=300)
        for _ in range(100):
            alone.step()
        alone.add("d", 1, prompt=2_000, most=1)
        steps_alone = 0
        while not any(isinstance(each, Emitted) and each.id.startswith("d") for each in alone.step()):
            steps_alone += 1
        assert steps <= 1.5 * steps_alone + 2


class TestPace:
    def test_rows_within_a_factor_of_measured_steps(self):
        pace = Pace()
        assert pace.rows_within(3, 1.5) is None
        pace.observe(0, 4, 0.0014)
        assert pace.rows_within(2, 1.5) == 3, "of one size, rows are taken to be all that costs"
        pace.observe(0, 64, 0.0074)
        assert pace.rows_within(4, 1.5) == pytest.approx(4 + 7, abs=1)
        assert pace.rows_within(64, 1.0) == 64
        pace.observe(0, 128, 0.001)
        assert pace.rows_within(4, 1.5) == pytest.approx(4 + 7, abs=1), (
            "one odd step makes no more rows cheaper"
        )

    def test_a_chunk_beside_rows(self):
        pace = Pace()
        for _ in range(50):
            pace.observe(0, 4, 0.002)
            pace.observe(100, 4, 0.002 + 100 * 0.00001)
        assert pace.beside(4, 1.25) == pytest.approx(50, rel=0.1)
        assert 0 < pace.beside(4, 1.0001) < 1, "less than a chunk: several steps' are saved up"


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


def test_who_asks_for_less_than_its_weight_makes_no_crowd_of_others():
    """Three requests beside two that weigh more: both were put off in turns, and a slot stayed free (seed 98781)."""
    tenants, rows = Tenants(), []
    for name, number, weight in (("hog", 2, 3), ("b", 3, 1), ("c", 3, 1)):
        for each in range(number):
            rows.append(Row(order(f"{name}{each}", name, weight=weight), 0.0, each))
            tenants.join(rows[-1])
    assert surplus(rows, tenants) == set()


def test_nobody_waits_behind_a_crowd_whose_prompts_save_up_for_a_step():
    """Its turn is first by what it was served, and takes none of this step: the slot is for who comes next."""
    for seed in (389, 98781):
        test_no_slot_is_free_while_someone_waits_and_everyone_ends.hypothesis.inner_test(seed, 3, lends=False)

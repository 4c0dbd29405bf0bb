"""Steps beside a tenant that wants far more than the others: theirs are hardly longer, and its rows take turns."""

from collections import Counter
from itertools import pairwise

import pytest

from inference.engine.steps.crowd import CROWD_FACTOR, awake, surplus
from inference.engine.steps.events import Emitted
from inference.engine.steps.pace import Pace
from inference.engine.steps.rows import Row, State
from inference.engine.steps.tenants import Tenants
from tests.inference.turns import Engine, order


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

    @pytest.mark.parametrize(("turn", "beside", "num_in"), [(1, False, 4), (1, True, 0), (2, True, 4)])
    def test_it_rests_for_others_that_are_in_the_step_and_for_nobody_else(self, turn, beside, num_in):
        """Somebody always moves on: who only waits for a slot has nothing of an empty step."""
        tenants = Tenants()
        streams = [Row(order(f"hog{each}", "hog", has_waited=True), 0.0, each) for each in range(4)]
        other = Row(order("a", "a"), 0.0, 9)
        for row in (*streams, other):
            tenants.join(row)
        pace = Pace()
        for num_rows in (1, 4):
            pace.observe(0, num_rows, 0.01 * num_rows)
        assert len(awake(streams, [other] if beside else [], tenants, pace, turn)) == num_in

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


def test_who_asks_for_less_than_its_weight_makes_no_crowd_of_others():
    """Three requests beside two that weigh more: both were put off in turns, and a slot stayed free (seed 98781)."""
    tenants, rows = Tenants(), []
    for name, number, weight in (("hog", 2, 3), ("b", 3, 1), ("c", 3, 1)):
        for each in range(number):
            rows.append(Row(order(f"{name}{each}", name, weight=weight), 0.0, each))
            tenants.join(rows[-1])
    assert surplus(rows, tenants) == set()


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

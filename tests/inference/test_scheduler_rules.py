"""The scheduler, simulated without torch: every state, every event, no slot lost, nobody starved."""

import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.engine.gpu.blocks import BlockPool
from inference.engine.orders.asked import Generate, Sampling
from inference.engine.steps.events import Emitted, Ended, Failed, Stored
from inference.engine.steps.pace import (
    FIRST_PREFILL_TOKENS,
    MAX_LONELY_TOKENS,
    MAX_PREFILL_TOKENS,
    MIN_PREFILL_TOKENS,
    STALL_FACTOR,
    Pace,
)
from inference.engine.steps.rows import State
from inference.engine.steps.scheduler import Scheduler
from inference.engine.steps.slots import SlotPlan, SlotPool, plan_room, plan_slots, side_by_side
from tests.evidence import count
from tests.inference.simulated import Budget, Memory

EOS = 2


def order(name, prompt=4, most=5, **more):
    return Generate(name, tuple(range(10, 10 + prompt)), most, Sampling(), **more)


def scheduler(num_slots=2, budget=8, **more):
    return Scheduler(num_slots, frozenset({EOS}), pace=Budget(budget), **more)


def run_step(one, now=0.0, token=7):
    step = one.plan(now)
    return step, one.commit(step, {part.id: token for part in step if part.samples}, now, 0.01)


def test_a_request_from_first_to_last():
    one = scheduler()
    assert one.add(order("a", prompt=10, most=3), 1.0) == []
    first, events = run_step(one, 2.0)
    assert [(part.start, len(part.tokens), part.samples) for part in first] == [(0, 8, False)]
    assert events == []
    second, events = run_step(one, 3.0)
    assert [(part.start, part.tokens, part.samples) for part in second] == [(8, (18, 19), True)]
    assert events == [Emitted("a", 7, 1000.0, 1000.0)]
    third, events = run_step(one, 4.0)
    assert [(part.start, part.tokens) for part in third] == [(10, (7,))]
    assert events == [Emitted("a", 7)]
    _, events = run_step(one, 5.0)
    assert events == [Emitted("a", 7), Ended("a", "length", 10, 3, 2000.0, 0)]
    assert one.is_idle
    assert one.plan(6.0) == ()


def test_an_end_token_is_counted_and_not_emitted():
    one = scheduler()
    one.add(order("a"), 0.0)
    run_step(one)
    _, events = run_step(one, token=EOS)
    assert events == [Ended("a", "stop", 4, 2, 0.0, 0, EOS)]


@pytest.mark.parametrize(
    ("more", "token", "ends"),
    [
        ({"stop_ids": frozenset({9})}, 9, True),
        ({"ignore_eos": True}, EOS, False),
        ({"ignore_eos": True, "stop_ids": frozenset({EOS})}, EOS, True),
        ({"min_tokens": 2}, EOS, False),
        ({"min_tokens": 1}, EOS, True),
    ],
)
def test_what_ends_an_answer(more, token, ends):
    one = scheduler()
    one.add(order("a", **more), 0.0)
    _, events = run_step(one, token=token)
    assert isinstance(events[-1], Ended) == ends


def test_decode_rows_go_first_and_prompts_in_the_order_they_came():
    one = scheduler(num_slots=3, budget=6)
    one.add(order("a", prompt=2), 0.0)
    run_step(one)
    one.add(order("b", prompt=9), 0.0)
    one.add(order("c", prompt=2), 0.0)
    step, _ = run_step(one)
    assert [(part.id, len(part.tokens)) for part in step] == [("a", 1), ("b", 6)]
    step, _ = run_step(one)
    assert [(part.id, len(part.tokens)) for part in step] == [("a", 1), ("b", 3), ("c", 2)]


def test_who_finds_no_slot_waits_and_is_next():
    one = scheduler(num_slots=1)
    for name in "abc":
        one.add(order(name, most=1), 0.0)
    for name in "abc":
        step, events = run_step(one)
        assert {part.id for part in step} == {name}
        assert events[-1].reason == "length"
    assert one.is_idle


@pytest.mark.parametrize("state", list(State))
def test_a_cancel_in_every_state_frees_the_slot_at_once(state):
    one = scheduler(num_slots=1, budget=2)
    one.add(order("other" if state is State.WAITING else "a", prompt=3), 0.0)
    one.add(order("a" if state is State.WAITING else "next", prompt=3), 0.0)
    run_step(one)
    if state is State.DECODE:
        run_step(one)
    events = one.cancel("a", 1.0)
    assert [(event.id, event.reason) for event in events] == [("a", "cancelled")]
    assert (events[0].slot is None) == (state is State.WAITING)
    one.check()
    step, _ = run_step(one)
    assert [part.id for part in step] == ["other" if state is State.WAITING else "next"]
    assert one.cancel("a", 2.0) == []


@pytest.mark.parametrize("state", list(State))
def test_a_failure_in_every_state(state):
    one = scheduler(num_slots=1, budget=2)
    names = ("other", "a") if state is State.WAITING else ("a",)
    for name in names:
        one.add(order(name, prompt=3), 0.0)
    for _ in range(2 if state is State.DECODE else 1):
        run_step(one)
    slot = None if state is State.WAITING else 0
    assert one.fail("a", "poisoned", "why") == [Failed("a", "poisoned", "why", slot)]
    one.check()


def test_a_row_that_failed_in_the_step_is_not_committed():
    one = scheduler()
    one.add(order("a"), 0.0)
    one.add(order("b"), 0.0)
    step = one.plan(0.0)
    one.fail("a", "poisoned", "why")
    assert one.commit(step, {"b": 7}, 0.0, 0.01) == [Emitted("b", 7, 0.0, 0.0)]


def test_the_queue_is_bounded_and_ids_are_unique():
    one = scheduler(num_slots=2, max_waiting=3)
    for number in range(5):
        assert one.add(order(str(number)), 0.0) == []
    assert one.add(order("5"), 0.0)[0].code == "overloaded"
    assert one.add(order("0"), 0.0)[0].code == "bad_request"
    run_step(one)
    assert (one.num_running, one.num_waiting) == (2, 3)
    assert one.add(order("6"), 0.0)[0].code == "overloaded"


@settings(max_examples=count(60, 5_000), deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 12))
def test_no_slot_is_lost_or_shared_and_everyone_ends(seed, num_slots, budget):
    draws = random.Random(seed)
    one, alive, emitted, added = scheduler(num_slots, budget, max_waiting=6), {}, {}, 0
    while added < 25 or alive:
        if added < 25 and draws.random() < 0.5:
            new = order(
                str(added), draws.randint(1, 20), draws.randint(1, 6), min_tokens=draws.choice([0, 1])
            )
            added += 1
            if not one.add(new, 0.0):
                alive[new.id], emitted[new.id] = new, 0
        if alive and draws.random() < 0.15:
            name = draws.choice(list(alive))
            events = one.cancel(name, 0.0) if draws.random() < 0.5 else one.fail(name, "x", "y")
            assert [event.id for event in events] == [name]
            del alive[name]
        step = one.plan(0.0)
        slots = [part.slot for part in step]
        assert len(set(slots)) == len(slots) <= num_slots
        num_decoding = sum(part.start >= len(alive[part.id].tokens) for part in step)
        assert sum(len(part.tokens) for part in step) <= num_decoding + budget
        for event in one.commit(step, {p.id: draws.choice([5, EOS]) for p in step if p.samples}, 0.0, 0.01):
            if isinstance(event, Emitted):
                emitted[event.id] += 1
            else:
                gone = alive.pop(event.id)
                assert event.num_output == emitted[event.id] + (event.stop_id is not None) <= gone.max_tokens
        one.check()
        assert one.num_running + one.num_waiting == len(alive)
    assert one.is_idle


@settings(max_examples=count(25, 60), deadline=None)
@given(st.integers(0, 2**32))
def test_a_slot_is_written_from_the_front_without_a_gap(seed):
    draws = random.Random(seed)
    one, written = scheduler(3, draws.randint(1, 9)), {}
    for number in range(8):
        one.add(order(str(number), draws.randint(1, 15), draws.randint(1, 5)), 0.0)
    while not one.is_idle:
        step = one.plan(0.0)
        for part in step:
            assert part.start == written.get(part.id, 0)
            written[part.id] = part.start + len(part.tokens)
        one.commit(step, {part.id: 5 for part in step if part.samples}, 0.0, 0.01)


@settings(max_examples=count(50, 4_000), deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 30), st.integers(1, 40))
def test_behind_kept_prefixes_every_slot_holds_its_own_tokens(seed, num_pages, budget):
    draws = random.Random(seed)
    orders = [
        Generate(
            str(number),
            tuple([draws.choice([1, 5, 9])] * draws.randint(1, 60) + [7] * draws.randint(0, 40)),
            draws.randint(1, 20),
            tenant=draws.choice(["acme", "evil"]),
        )
        for number in range(14)
    ]
    one, memory, todo, sampled = scheduler(3, budget, num_pages=num_pages), Memory(orders), orders[:], {}

    def hear(events):
        for event in events:
            if isinstance(event, Stored):
                memory.store(event)
            elif isinstance(event, Ended):
                assert event.num_cached % 16 == 0
                assert event.num_cached < event.num_prompt
                memory.slots.pop(event.slot, None)

    while todo or not one.is_idle:
        if todo and draws.random() < 0.4:
            new = todo.pop()
            assert one.add(new, 0.0) == []
            sampled[new.id] = []
        if sampled and draws.random() < 0.1:
            hear(one.cancel(draws.choice(list(sampled)), 0.0))
        step = one.plan(0.0)
        assert step or one.is_idle, "somebody always moves on"
        memory.compute(step)
        for part in step:
            order = memory.orders[part.id]
            wanted = [(order.tenant, token) for token in (*order.tokens, *sampled[part.id])]
            held = memory.slots[part.slot]
            assert held == wanted[: len(held)]
            assert part.samples == (held == wanted)
        tokens = {part.id: draws.choice([1, 5, 9]) for part in step if part.samples}
        for name, token in tokens.items():
            sampled[name].append(token)
        hear(one.commit(step, tokens, 0.0, 0.01))
        one.check()


def test_choices_of_one_prompt_compute_it_once():
    one = scheduler(4, budget=1000, num_pages=64)
    for name in "abcd":
        one.add(order(name, prompt=100), 0.0)
    step, _ = run_step(one)
    assert [(part.id, len(part.tokens)) for part in step] == [("a", 100)]
    step, events = run_step(one)
    copied = [(part.id, part.start, len(part.tokens)) for part in step if part.pages]
    assert copied == [("b", 96, 4), ("c", 96, 4), ("d", 96, 4)]
    assert [event.num_cached for event in events if isinstance(event, Emitted)] == [0, 96, 96, 96]


def test_another_prompt_does_not_wait_for_one_that_begins_otherwise():
    one = scheduler(4, budget=150, num_pages=64)
    one.add(order("a", prompt=100), 0.0)
    one.add(order("b", prompt=100, tenant="evil"), 0.0)
    step, _ = run_step(one)
    assert [(part.id, len(part.tokens)) for part in step] == [("a", 100), ("b", 50)]


def test_a_cancelled_answer_is_kept_and_a_prompt_without_a_token_is_not():
    one = scheduler(2, budget=40, num_pages=64)
    one.add(order("a", prompt=70), 0.0)
    run_step(one)
    assert [type(event) for event in one.cancel("a", 0.0)] == [Ended]
    one.add(order("b", prompt=31, most=9), 0.0)
    _, events = run_step(one)
    assert events[0] == Stored("b", 0, 0, (0,))
    run_step(one)
    assert one.cancel("b", 0.0)[0] == Stored("b", 0, 16, (1,))


class TestPace:
    def test_alone_a_prompt_takes_large_chunks(self):
        assert Pace().prefill_tokens(0) == MAX_LONELY_TOKENS

    def test_beside_streams_a_chunk_lengthens_the_step_by_less_than_another_step(self):
        pace = Pace()
        assert pace.prefill_tokens(3) == FIRST_PREFILL_TOKENS
        pace.observe(0, 3, 0.100)
        pace.observe(50, 3, 0.200)
        assert pace.prefill_tokens(3) == pytest.approx(50 * (STALL_FACTOR - 1), abs=1)
        pace.observe(0, 3, 10.0)
        assert pace.prefill_tokens(3) == 2 * 50, "not more than twice as many at once"
        for _ in range(40):
            pace.observe(100, 3, 60.0)
            pace.observe(0, 3, 0.001)
        assert pace.prefill_tokens(3) == MIN_PREFILL_TOKENS

    @pytest.mark.parametrize("num_tokens", [9, 12, 15])
    def test_deep_in_a_prompt_a_chunk_is_small_enough(self, num_tokens):
        """Where so many tokens take three quarters of a plain step, so many are the next chunk, not more."""
        pace = Pace()
        for _ in range(20):
            pace.observe(0, 8, 0.010)
            pace.observe(num_tokens, 8, 0.0175)
        assert pace.prefill_tokens(8) == pytest.approx(num_tokens, abs=1)

    def test_the_fixed_cost_of_a_step_is_not_the_prompts(self):
        pace = Pace()
        pace.observe(2, 0, 0.5)
        assert pace.prefill_s_per_token is None
        pace.observe(0, 1, 0.1)
        pace.observe(10, 0, 0.3)
        assert pace.prefill_s_per_token == pytest.approx(0.02)
        pace.observe(10, 4, 0.05)
        assert 0 <= pace.prefill_s_per_token < 0.02

    def test_a_large_chunk_of_its_own_says_little_of_what_a_token_costs_beside_streams(self):
        pace = Pace()
        pace.observe(0, 3, 0.1)
        pace.observe(1000, 0, 1.1)
        pace.observe(10, 3, 0.2)
        assert pace.prefill_s_per_token == pytest.approx(0.01)
        pace.observe(1000, 0, 1.1)
        assert pace.prefill_s_per_token == pytest.approx(0.01)

    def test_the_first_chunk_beside_streams_is_a_small_one_whatever_a_large_one_cost(self):
        pace = Pace()
        pace.observe(1000, 0, 0.1)
        pace.observe(0, 3, 0.1)
        assert pace.prefill_tokens(3) == FIRST_PREFILL_TOKENS
        sizes = []
        for _ in range(4):
            pace.observe(pace.prefill_tokens(3), 3, 0.1001)
            sizes.append(pace.prefill_tokens(3))
        assert sizes == [
            2 * FIRST_PREFILL_TOKENS,
            4 * FIRST_PREFILL_TOKENS,
            MAX_PREFILL_TOKENS,
            MAX_PREFILL_TOKENS,
        ]

    def test_costs_rise_faster_than_they_fall(self):
        risen, fallen = Pace(), Pace()
        for pace, first_s, then_s in ((risen, 0.01, 0.02), (fallen, 0.02, 0.01)):
            pace.observe(0, 3, 0.1)
            pace.observe(10, 3, 0.1 + 10 * first_s)
            pace.observe(10, 3, 0.1 + 10 * then_s)
        assert risen.prefill_s_per_token > 0.015
        assert fallen.prefill_s_per_token > 0.015

    def test_where_most_wait_for_a_first_token_the_stall_may_be_longer(self):
        pace = Pace()
        pace.observe(0, 4, 0.1)
        pace.observe(100, 4, 0.2)
        alone = pace.prefill_tokens(4, 1)
        assert alone == pace.prefill_tokens(4, 4) < MAX_PREFILL_TOKENS
        assert pace.prefill_tokens(4, 8) == pytest.approx(2 * alone, abs=2)
        assert pace.prefill_tokens(1, 64) == 2 * 100

    def test_a_small_chunk_is_not_taken_for_dear_by_what_any_chunk_costs(self):
        """With 12 ms for there being a chunk at all and 0.25 a token: not ever smaller ones."""
        pace = Pace()
        pace.observe(0, 8, 0.040)
        for _ in range(20):
            chunk = pace.prefill_tokens(8)
            pace.observe(chunk, 8, 0.040 + 0.012 + chunk * 0.00025)
        assert pace.prefill_tokens(8) == pytest.approx((0.030 - 0.012) / 0.00025, rel=0.15)

    def test_chunks_shrink_as_their_context_makes_them_dearer(self):
        pace = Pace()
        pace.observe(0, 8, 0.040)
        took_s = []
        for start in range(0, 4000, 40):
            chunk = pace.prefill_tokens(8)
            took_s.append(0.040 + chunk * (0.0003 + start * 0.0000003))
            pace.observe(chunk, 8, took_s[-1])
        assert max(took_s[3:]) < 1.05 * STALL_FACTOR * 0.040

    def test_a_gap_may_be_what_a_token_has_taken_so_far(self):
        pace = Pace()
        pace.observe(0, 8, 0.1)
        pace.observe(100, 8, 0.3)
        assert pace.prefill_tokens(8, 1, patience_s=0.1) == pace.prefill_tokens(8, 1)
        assert pace.prefill_tokens(8, 1, patience_s=0.45) == pytest.approx(175, abs=1)

    def test_a_long_prompt_teaches_before_any_plain_step(self):
        pace = Pace()
        pace.observe(100, 0, 1.0)
        assert pace.prefill_s_per_token == pytest.approx(0.01)


class TestSlots:
    def test_the_lowest_free_slot_is_taken(self):
        pool = SlotPool(3)
        assert [pool.take() for _ in range(4)] == [0, 1, 2, None]
        pool.give(1)
        pool.give(0)
        assert (pool.take(), pool.num_free) == (0, 1)
        with pytest.raises(KeyError):
            pool.give(1)

    @pytest.mark.parametrize(
        ("wanted", "plan"),
        [
            ((8, 1000, 10, 100_000), SlotPlan(8, 1000, 80_000)),
            ((8, 1000, 10, 60_000), SlotPlan(6, 1000, 60_000)),
            ((8, 100_000, 10, 400_000), SlotPlan(4, 10_000, 400_000)),
            ((8, 100_000, 10, 80_000), SlotPlan(1, 4096, 40_960)),
            ((8, 100_000, 10, 20_000), SlotPlan(1, 2000, 20_000)),
            ((1, 5000, 10, 60_000), SlotPlan(1, 5000, 50_000)),
            ((8, 500, 0, 1), SlotPlan(8, 500, 0)),
        ],
    )
    def test_slots_within_a_budget(self, wanted, plan):
        names = ("max_slots", "max_len", "kv_bytes_per_token", "budget_bytes")
        assert plan_slots(**dict(zip(names, wanted, strict=True))) == plan

    def test_a_budget_for_nothing_is_an_error(self):
        with pytest.raises(ValueError, match="does not hold"):
            plan_slots(max_slots=1, max_len=10, kv_bytes_per_token=100, budget_bytes=99)

    @given(st.integers(1, 16), st.integers(1, 10**6), st.integers(1, 10**5), st.integers(10**5, 10**12))
    def test_a_plan_fits_its_budget(self, max_slots, max_len, per_token, budget):
        plan = plan_slots(
            max_slots=max_slots, max_len=max_len, kv_bytes_per_token=per_token, budget_bytes=budget
        )
        assert 1 <= plan.num_slots <= max_slots
        assert 1 <= plan.max_len <= max_len
        assert plan.kv_bytes == plan.num_slots * plan.max_len * per_token <= budget

    @given(st.integers(1, 16), st.integers(1, 10**6), st.integers(1, 10**5), st.integers(10**5, 10**12))
    def test_slots_and_pages_fit_a_budget_together(self, max_slots, max_len, per_token, budget):
        room = plan_room(
            max_slots=max_slots, max_len=max_len, kv_bytes_per_token=per_token, budget_bytes=budget
        )
        if not room.num_blocks:  # not one block of 16 tokens fits
            assert 16 * per_token > budget
            assert room.kv_bytes == room.num_slots * room.max_len * per_token <= budget
            return
        assert room.kv_bytes == (room.num_blocks + room.num_pages) * 16 * per_token <= budget
        assert room.num_pages <= room.num_blocks <= max_slots * -(-max_len // 16)
        assert 1 <= room.num_slots <= max_slots
        assert 1 <= room.max_len <= min(max_len, room.num_blocks * 16)  # any one row may grow to the end

    def test_a_share_of_the_budget_is_the_pages(self):
        room = plan_room(max_slots=8, max_len=1000, kv_bytes_per_token=10, budget_bytes=100_000)
        assert room == SlotPlan(8, 1000, 100_000, 121, 504)
        assert not room.lends
        assert plan_room(max_slots=8, max_len=500, kv_bytes_per_token=0, budget_bytes=1) == SlotPlan(
            8, 500, 0
        )

    def test_short_rows_share_the_room_of_long_ones(self):
        room = plan_room(max_slots=64, max_len=1600, kv_bytes_per_token=10, budget_bytes=400_000)
        assert (room.num_slots, room.num_blocks, room.lends) == (64, 20 * 100, True)
        pool = BlockPool(room.num_slots, room.num_blocks)
        assert None not in [pool.take(17) for _ in range(64)]
        pool = BlockPool(room.num_slots, room.num_blocks)
        assert [pool.take(1600) for _ in range(21)] == [*range(20), None]

    @given(st.dictionaries(st.integers(0, 20), st.integers(1, 3000), max_size=12))
    def test_runs_cover_all_rows_side_by_side(self, lengths_by_slot):
        slots = sorted(lengths_by_slot)
        lengths = [lengths_by_slot[slot] for slot in slots]
        runs = list(side_by_side(slots, lengths))
        assert [row for run in runs for row in run] == list(range(len(slots)))
        for run in runs:
            chosen = [lengths[row] for row in run]
            assert [slots[row] for row in run] == list(range(slots[run.start], slots[run.start] + len(run)))
            assert max(chosen) * len(run) <= sum(chosen) * 1.25 + 128


def test_no_torch_is_loaded():
    names = ", ".join(
        f"inference.engine.{name}"
        for name in ("steps.scheduler", "orders.asked", "steps.slots", "steps.pages")
    )
    code = f"import sys, {names}; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert out.stdout.strip() == "False"

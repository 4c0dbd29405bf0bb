"""Steps on a device, without one: blocks, passes begun ahead, graphs, and tokens that come late."""

import gc
import weakref
from types import SimpleNamespace

import pytest
import torch

from inference.engine.choose.sample import Broken, Sampler
from inference.engine.gpu.blocks import BlockPool, plan_blocks
from inference.engine.gpu.graphs import PLAIN_STEPS, SIZES, DecodeGraphs, Records
from inference.engine.gpu.paged_model import Ahead, PagedModel, _divided
from inference.engine.model import SLOT_FAMILIES
from inference.engine.orders.asked import Generate, Sampling
from inference.engine.steps import seats
from inference.engine.steps.events import Segment
from inference.engine.steps.scheduler import Scheduler
from inference.engine.steps.slots import SlotPlan
from tests.evidence import IS_WHOLE
from tests.inference.greedy import greedy
from tests.inference.late_device import LateDevice
from tests.inference.test_engine_exact import SmallChunks, agreed, hear, orders_of, prompts
from tests.inference.tiny import made


def engine(model, num_slots=4, num_blocks=40, num_pages=0, device=None, max_len=128):
    pool = BlockPool(num_slots, num_blocks)
    room = SlotPlan(num_slots, max_len, 1 << 20, num_pages, num_blocks)
    device = device or LateDevice()
    scheduler = Scheduler(num_slots, frozenset(), pace=SmallChunks(), num_pages=num_pages, pool=pool)
    return PagedModel(model, device, pool, room), scheduler, device


def answers(rows, scheduler, orders, *, arrive_every=0):
    """What comes out when `orders` run together; one more arrives each `arrive_every` steps."""
    out, todo, steps, samplers = {}, list(orders), 0, {}
    while todo or not scheduler.is_idle:
        while todo and (not arrive_every or steps % arrive_every == 0 or scheduler.is_idle):
            order = todo.pop(0)
            out[order.id], samplers[order.id] = [], Sampler.of(order, ())
            assert scheduler.add(order, 0.0) == []
            if arrive_every:
                break
        hear(scheduler.preempt(0.0), rows, out)
        step = scheduler.plan(0.0)
        ids, logits = rows.forward(step)
        found = rows.choose(logits, [samplers[name] for name in ids]) if ids else []
        assert not any(isinstance(each, Broken) for each in found)
        tokens = {name: each.token for name, each in zip(ids, found, strict=True)}
        hear(scheduler.commit(step, tokens, 0.0, 0.01), rows, out)
        scheduler.check()
        steps += 1
    return out


UNLIKE = ("gemma2", "gpt2", "gpt_oss", "llama", "qwen3_moe")
"""Windows and a limit of scores, no rotation, sinks, groups, experts."""


@pytest.mark.parametrize("family", sorted(SLOT_FAMILIES) if IS_WHOLE else UNLIKE)
def test_a_crowd_is_generate(family):
    """Prompts in chunks beside answers, most steps begun ahead and replayed; rows come and go."""
    model = made(family)
    orders = orders_of(prompts())
    rows, scheduler, device = engine(model)
    found = answers(rows, scheduler, orders, arrive_every=3)
    assert found == {one.id: agreed(family, one.tokens, found[one.id], one.max_tokens) for one in orders}
    assert rows.num_ahead > 10
    assert rows.prompts.sizes
    assert sum(graph.num_replays for graph in device.graphs) > 10


@pytest.fixture(scope="module")
def llama():
    """A model, requests that share a long beginning, and what `generate` answers them."""
    model = made("llama")
    head = prompts()[5]
    orders = orders_of([*(head + prompt for prompt in prompts()[:4]), head, prompts()[2]])
    return model, orders, {one.id: greedy(model, list(one.tokens), one.max_tokens) for one in orders}


def test_a_row_that_must_give_way_is_computed_again(llama, monkeypatch):
    """Blocks for two rows and a half: rows are preempted as others grow, and come back behind kept pages."""
    monkeypatch.setattr(seats, "GROWTH_TOKENS", 2)
    model, orders, expected = llama
    rows, scheduler, _ = engine(model, num_blocks=10, num_pages=6)
    assert answers(rows, scheduler, orders) == expected
    assert scheduler.num_preempted
    assert scheduler.prefixes.num_found, "kept pages were used"


def test_without_graphs_the_answers_are_the_same(llama):
    model, orders, expected = llama
    rows, scheduler, device = engine(model, device=LateDevice(graphs=False))
    assert answers(rows, scheduler, orders) == expected
    assert (rows.graphs.sizes, device.graphs) == ([], [])


def test_a_row_that_ends_leaves_the_others_their_pass(llama):
    """What was begun for four serves the three that are left; a new prompt is computed beside it."""
    model, orders, _ = llama
    rows, _, _ = engine(model)
    for slot in range(4):
        assert rows._cache._pool.take(128) == slot
    samplers = [Sampler.of(order, ()) for order in orders]

    def token(row, slot, position, word, *pages):
        return Segment(str(row), slot, position, (word,), samples=True, pages=pages)

    ids, logits = rows.forward(tuple(token(row, row, 0, 5 + row) for row in range(3)))
    words = {row: found.token for row, found in zip(ids, rows.choose(logits, samplers[:3]), strict=True)}
    before = rows.num_ahead
    step = (
        token(0, 0, 1, words["0"]),
        token(2, 2, 1, words["2"]),
        Segment("3", 3, 0, (9, 8, 7), samples=True),
    )
    ids, logits = rows.forward(step)
    assert (ids, rows.num_ahead - before) == (["0", "2", "3"], 2)
    alone, _, _ = engine(model)
    for slot, start, tokens in ((0, 0, (5, words["0"])), (1, 0, (7, words["2"])), (2, 0, (9, 8, 7))):
        alone._cache._pool.take(128)
        _, wanted = alone.forward((Segment("x", slot, start, tokens, samples=True),))
        torch.testing.assert_close(logits[slot], wanted[0], rtol=1e-5, atol=1e-5)


def test_a_row_that_came_back_behind_pages_is_not_the_one_that_was_begun(llama):
    ahead = Ahead((("a", 0, 16),), torch.zeros(1, 9))
    same = Segment("a", 0, 16, (5,), samples=True)
    back = Segment("a", 0, 16, (5,), samples=True, pages=(0,))
    assert _divided((same,), ahead) == ([same], ())
    assert _divided((back,), ahead) == ([], (back,))
    assert _divided((same,), None) == ([], (same,))


def test_the_last_token_of_a_request_begins_nothing(llama):
    rows, _, _ = engine(llama[0])
    rows._cache._pool.take(128)
    sampler = Sampler.of(Generate("a", (5,), 1, Sampling(temperature=0.0)), ())
    _, logits = rows.forward((Segment("a", 0, 0, (5,), samples=True),))
    rows.choose(logits, [sampler])
    assert rows._ahead is None


def test_a_graph_is_captured_late_and_padded_with_nobody():
    """Steps of 3 rows are recorded as 4, after a few plain ones, once every weight is there."""
    ready, seen = [], []

    def compute(step):
        seen.append(step.slots.tolist())
        return (step.ids[0] * 100 + step.positions[0] * 10 + step.slots)[:, None].float()

    device = LateDevice()
    graphs = DecodeGraphs(Records(device, compute, lambda: bool(ready)), nobody=7)
    packed = torch.tensor([[3, 4, 5], [0, 1, 2], [1, 2, 3]])
    wanted = [[301.0], [412.0], [523.0]]
    for _ in range(PLAIN_STEPS + 3):
        assert graphs.run(packed).tolist() == wanted
    assert graphs.sizes == []
    ready.append(True)
    seen.clear()
    for _ in range(3):
        assert graphs.run(packed).tolist() == wanted
    assert graphs.sizes == [4]
    assert seen[0] == [7] * 4, "what is recorded is nobody's"
    assert set(map(tuple, seen[1:])) == {(1, 2, 3, 7)}
    assert graphs.run(packed[:, :1]).tolist() == wanted[:1], "another size goes the plain way first"
    assert graphs.run(packed.repeat(1, SIZES[-1])).tolist() == wanted * SIZES[-1], "none is so large"


class Forgetful:
    """Records as a GPU does: what the work's own names held is not kept by it."""

    def capture(self, work):
        return SimpleNamespace(replay=lambda: None), work()


def test_what_a_graph_reads_is_not_given_out_again():
    """Its replays read the step's tensors where they lay. (On a GPU the next tokens were `nan`.)"""
    read = []

    def compute(step):
        read[:] = map(weakref.ref, (step.rows[0].firsts, step.rows[0].counts, step.ids))
        return torch.zeros(len(step.slots), 9)

    graphs = DecodeGraphs(Records(Forgetful(), compute, lambda: True), nobody=7)
    packed = torch.tensor([[3], [0], [1]])
    while not graphs.sizes:
        graphs.run(packed)
    gc.collect()
    assert all(each() is not None for each in read)


def test_prompts_go_by_graphs_where_they_fit(llama):
    """Of up to sixteen rows; more, or more tokens than the largest holds, are computed the plain way."""
    rows, _, _ = engine(llama[0], num_slots=20, num_blocks=100)
    for slot in range(20):
        assert rows._cache._pool.take(40) == slot

    def logits(*counts):
        step = tuple(
            Segment(str(slot), slot, 0, tuple(range(2 + slot, 2 + slot + count)), samples=slot % 3 != 1)
            for slot, count in enumerate(counts)
        )
        ids, found = rows.forward(step)
        assert ids == [
            part.id for part in sorted(step, key=lambda each: len(each.tokens) > 1) if part.samples
        ]
        return found.clone()

    few, many = (5, 9, 2, 7), (4,) * 20
    plain, crowd = logits(*few), logits(*many)
    while not rows.prompts.sizes:
        logits(*few)
    torch.testing.assert_close(logits(*few), plain, rtol=1e-5, atol=1e-5)
    assert rows.prompts.sizes == [32]
    torch.testing.assert_close(logits(*many), crowd, rtol=1e-5, atol=1e-5)
    assert rows.prompts.sizes == [32]


class TestBlocks:
    def test_a_plan_keeps_some_for_prefixes_and_one_for_nobody(self):
        room = plan_blocks(max_slots=256, max_len=100_000, kv_bytes_per_token=10, budget_bytes=160 * 1001)
        assert (room.num_blocks, room.num_pages, room.num_slots) == (800, 200, 256)
        assert (room.max_len, room.kv_bytes) == (800 * 16, 160 * 1001)

    def test_a_plan_takes_no_more_than_the_rows_can_use(self):
        room = plan_blocks(max_slots=2, max_len=33, kv_bytes_per_token=10, budget_bytes=1 << 30)
        assert (room.num_blocks, room.num_pages, room.max_len) == (6, 6, 33)

    def test_a_budget_without_two_blocks_is_refused(self):
        with pytest.raises(ValueError, match="does not hold two blocks"):
            plan_blocks(max_slots=2, max_len=33, kv_bytes_per_token=10, budget_bytes=319)

    def test_rows_get_what_they_need_in_order(self):
        pool = BlockPool(4, 5)
        assert pool.num_fitting([32, 33, 16]) == 2
        assert pool.num_fitting([81, 1]) == 0
        first = pool.take(32)
        assert (first, len(pool.blocks(first)), pool.take(49)) == (0, 2, None)
        assert pool.grow(first, 80)
        assert not pool.grow(first, 81)
        pool.check()
        held = pool.blocks(first)
        pool.give(first)
        assert pool.blocks(first) == held, "what lies there may yet be copied"
        assert pool.num_fitting([80]) == 1
        pool.check()

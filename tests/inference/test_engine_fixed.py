"""`deterministic`: a logit has the same bits alone and in any crowd, however a prompt was cut, copied or resumed."""

import random

import pytest
import torch

from inference.engine.fixed import SPAN_POSITIONS, TILE_TOKENS, FixedModel, has_experts, span
from inference.engine.model import SLOT_FAMILIES, LoneModel, SlotModel, shares_a_pass, step_model
from inference.engine.orders.asked import Generate, Sampling
from inference.engine.steps.events import Emitted, Ended, Failed, Preempted, Stored
from inference.engine.steps.pace import Pace
from inference.engine.steps.scheduler import Scheduler
from inference.engine.steps.slots import SlotPlan
from tests.evidence import IS_WHOLE
from tests.inference.tiny import VOCABULARY, made

DTYPES = (torch.float32, torch.bfloat16)
MOST_SLOTS = 16
NUM_NEW = 6
NUM_PAGES = 24
ALL = (2, 3, 8, 16)
BATCHES = (
    dict.fromkeys((*sorted(SLOT_FAMILIES), "bloom"), ALL)
    if IS_WHOLE
    else {"llama": ALL, "gemma2": (8,), "bloom": (3,), "gpt_oss": (3,), "qwen3_moe": (2,)}
)
"""The plain one; windows and soft caps; no shared pass; experts and sinks; experts."""
IN_HALVES = frozenset(BATCHES if IS_WHOLE else {"llama", "gemma2", "gpt_oss"})
IN_FULL = frozenset(BATCHES if IS_WHOLE else {"llama", "bloom", "qwen3_moe"})


class AnyChunks(Pace):
    """Chunks of a prompt that are cut anywhere."""

    def __init__(self, draws):
        super().__init__()
        self.draws = draws

    def prefill_tokens(self, *_):
        return self.draws.randrange(1, 40)


def some_orders(draws):
    """Sixteen requests, half of which begin alike, some longer than a span."""
    shared = tuple(draws.randrange(3, VOCABULARY) for _ in range(70))
    made_up = [tuple(draws.randrange(3, VOCABULARY) for _ in range(draws.randrange(1, 45))) for _ in range(8)]
    alike = [(*shared[: draws.choice((15, 16, 33, 63, 70))], *made_up[i][:9]) for i in range(8)]
    prompts = draws.sample([*made_up, *alike], 16)
    greedy = Sampling(temperature=0.0)
    return [Generate(str(i), prompt, NUM_NEW, greedy, priority=i % 3) for i, prompt in enumerate(prompts)]


def logits_of(model, orders, draws, *, num_slots):
    """Every sampled row of logits by request, of a crowd that arrives at random and is cut at random."""
    num_pages = NUM_PAGES if not isinstance(model, LoneModel) else 0
    scheduler = Scheduler(num_slots, frozenset(), pace=AnyChunks(draws), num_pages=num_pages)
    out = {order.id: [] for order in orders}
    todo = list(orders)
    while todo or not scheduler.is_idle:
        while todo and (scheduler.is_idle or draws.random() < 0.5):
            scheduler.add(todo.pop(0), 0.0)
        hear(model, scheduler.preempt(0.0))
        step = scheduler.plan(0.0)
        ids, logits = model.forward(step)
        for order_id, row in zip(ids, logits, strict=True):
            out[order_id].append(row)
        tokens = {order_id: int(row.argmax()) for order_id, row in zip(ids, logits, strict=True)}
        hear(model, scheduler.commit(step, tokens, 0.0, 0.01))
    return {order_id: torch.stack(rows) for order_id, rows in out.items()}, scheduler


def hear(model, events):
    for event in events:
        match event:
            case Stored():
                model.store(event.slot, event.start, event.pages)
            case Ended() | Failed() | Preempted():
                model.release(event.slot, scrub=False)
            case Emitted():
                pass


def alone(model, orders):
    """Each request by itself in one chunk, with nothing kept from the one before."""
    found = {}
    for order in orders:
        scheduler = Scheduler(1, frozenset())
        scheduler.add(order, 0.0)
        rows = []
        while not scheduler.is_idle:
            step = scheduler.plan(0.0)
            ids, logits = model.forward(step)
            rows.append(logits[0])
            hear(model, scheduler.commit(step, {ids[0]: int(logits[0].argmax())}, 0.0, 0.01))
        found[order.id] = torch.stack(rows)
    return found


def same_bits(found, expected):
    return {
        key
        for key in expected
        if not torch.equal(found[key].view(torch.int32), expected[key].view(torch.int32))
    }


@pytest.mark.parametrize(
    ("family", "dtype"),
    [
        pytest.param(family, dtype, id=f"{family}-{name}")
        for name, dtype, families in (
            ("fp32", torch.float32, IN_FULL),
            ("bf16", torch.bfloat16, IN_HALVES),
        )
        for family in sorted(families)
    ],
)
def test_logits_alone_and_in_crowds_of_any_size_have_the_same_bits(family, dtype):
    draws = random.Random(family)
    model = step_model(made(family, dtype=dtype), SlotPlan(MOST_SLOTS, 128, 0, NUM_PAGES), deterministic=True)
    orders = some_orders(draws)
    expected = alone(model, orders[: max(BATCHES[family])])
    for batch in BATCHES[family]:
        found, _ = logits_of(model, orders[:batch], draws, num_slots=batch)
        assert same_bits(found, {order.id: expected[order.id] for order in orders[:batch]}) == set()


@pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "bf16"])
def test_preempted_and_behind_kept_prefixes_they_have_the_same_bits(dtype):
    model = step_model(
        made("llama", dtype=dtype), SlotPlan(MOST_SLOTS, 128, 0, NUM_PAGES), deterministic=True
    )
    orders = some_orders(random.Random(3))
    expected = alone(model, orders)
    found, scheduler = logits_of(model, orders, random.Random(3), num_slots=3)
    assert same_bits(found, expected) == set()
    assert scheduler.num_preempted > 0
    assert scheduler.prefixes.num_found > 0


@pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "bf16"])
def test_without_it_the_bits_differ_so_that_this_judge_can_say_no(dtype):
    draws = random.Random(0)
    model = SlotModel(made("llama", dtype=dtype), SlotPlan(MOST_SLOTS, 128, 0, NUM_PAGES))
    orders = some_orders(draws)
    expected = alone(model, orders)
    found, _ = logits_of(model, orders, draws, num_slots=MOST_SLOTS)
    assert same_bits(found, expected)


def test_two_engines_of_different_room_give_the_same_bits():
    orders = some_orders(random.Random(2))[:5]
    small = step_model(made("llama"), SlotPlan(1, 96, 0), deterministic=True)
    large = step_model(made("llama"), SlotPlan(16, 128, 0, NUM_PAGES), deterministic=True)
    expected = alone(small, orders)
    assert same_bits(logits_of(large, orders, random.Random(1), num_slots=16)[0], expected) == set()


def test_its_answers_are_those_of_an_ordinary_engine_within_rounding():
    orders = some_orders(random.Random(4))
    ordinary = alone(SlotModel(made("gemma2"), SlotPlan(1, 128, 0)), orders)
    fixed = alone(step_model(made("gemma2"), SlotPlan(1, 128, 0), deterministic=True), orders)
    for key, rows in ordinary.items():
        torch.testing.assert_close(fixed[key], rows, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", sorted(SLOT_FAMILIES))
def test_each_family_goes_by_tiles_or_says_why_not(family):
    model = FixedModel(made(family), SlotPlan(2, 128, 0))
    assert model.width == (1 if has_experts(made(family).config) else TILE_TOKENS)


def test_a_product_that_minds_its_neighbours_is_found_out_and_goes_one_by_one():
    """As int8 weights do that scale a whole tile's activations by the largest of them."""
    model = made("llama")

    def scaled(_, inputs):
        largest = inputs[0].abs().max()
        return ((inputs[0] / largest * 127).round() / 127 * largest,)

    model.model.layers[0].mlp.down_proj.register_forward_pre_hook(scaled)
    fixed = FixedModel(model, SlotPlan(MOST_SLOTS, 128, 0, NUM_PAGES))
    assert fixed.width == 1
    orders = some_orders(random.Random(5))[:6]
    expected = alone(fixed, orders)
    assert same_bits(logits_of(fixed, orders, random.Random(6), num_slots=6)[0], expected) == set()


def test_a_row_that_is_computed_again_after_a_neighbours_fault_is_the_same():
    """The loop computes each row of a faulty step alone; a lone row's own cache must not grow by that."""
    model = step_model(made("bloom"), SlotPlan(4, 128, 0), deterministic=True)
    scheduler = Scheduler(1, frozenset())
    scheduler.add(Generate("a", (5, 6, 7, 8), 2, Sampling(temperature=0.0)), 0.0)
    step = scheduler.plan(0.0)
    assert torch.equal(model.forward(step)[1], model.forward(step)[1])


def test_models_of_no_shared_pass_are_computed_token_by_token():
    model = step_model(made("bloom"), SlotPlan(4, 128, 0), deterministic=True)
    assert isinstance(model, LoneModel)
    assert not shares_a_pass(made("bloom").config)


@pytest.mark.parametrize("window", [9, 64, 1000])
@pytest.mark.parametrize("max_len", [65, 128, 1000])
def test_a_span_holds_all_that_a_token_sees_and_is_its_own_places_business(window, max_len):
    for position in range(max_len):
        first, end = span(position, window, max_len)
        assert first <= max(0, position + 1 - window)
        assert position < end <= max_len
        assert first % SPAN_POSITIONS == 0
        assert end - first <= window + 2 * SPAN_POSITIONS

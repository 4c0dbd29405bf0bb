"""Greedy output is `generate`'s, token for token in fp32: alone, in a crowd, in chunks, past sliding windows."""

import random
from functools import cache

import pytest
import torch

from inference.engine.attend.attention import SlotCache
from inference.engine.attend.layout import PIECE_TOKENS, Chunk, StepLayout
from inference.engine.gpu.blocks import BlockPool
from inference.engine.model import SLOT_FAMILIES, LoneModel, SlotModel, shares_a_pass, step_model
from inference.engine.orders.asked import Generate, Sampling
from inference.engine.steps.events import Emitted, Ended, Failed, Preempted, Segment, Stored
from inference.engine.steps.pace import Pace
from inference.engine.steps.scheduler import Scheduler
from inference.engine.steps.slots import SlotPlan
from tests.evidence import IS_WHOLE, count
from tests.inference.greedy import greedy
from tests.inference.tiny import VOCABULARY, made

NUM_TOKENS = count(12, 24)
PROMPT_LENGTHS = (5, 1, 30, 17, 2, 40)
GREEDY = Sampling(temperature=0.0)


class SmallChunks(Pace):
    def prefill_tokens(self, *_):
        return 13


def prompts():
    draws = random.Random(0)
    return [tuple(draws.randrange(3, VOCABULARY) for _ in range(length)) for length in PROMPT_LENGTHS]


@cache
def pristine(family, seed):
    """A model that no engine has touched."""
    return made(family, seed=seed)


@cache
def generated(family, prompt, num_tokens, seed=0):
    """What `generate` says, asked once for all tests: it takes longer than ours."""
    return greedy(pristine(family, seed), prompt, num_tokens)


@torch.inference_mode()
def is_greedy(model, prompt, answer):
    """Whether each token is the likeliest after all before it: one pass tells, where `generate` makes one a token."""
    logits = model(torch.tensor([[*prompt, *answer]]), use_cache=False).logits[0, len(prompt) - 1 : -1]
    return logits.argmax(-1).tolist() == list(answer)


def agreed(family, prompt, answer, num_tokens, seed=0):
    """The answer where it is `generate`'s, else that; `generate` itself is asked for the longest prompt alone.

    All are asked of it in `make evidence`.
    """
    is_asked = IS_WHOLE or len(prompt) == max(PROMPT_LENGTHS)
    if not is_asked and len(answer) == num_tokens and is_greedy(pristine(family, seed), prompt, answer):
        return answer
    return generated(family, prompt, num_tokens, seed)


def agreed_of(family, found, some_prompts, num_tokens=None):
    """`agreed` for the answers of `orders_of(some_prompts)`, or of orders of so many tokens each."""
    lengths = [num_tokens or NUM_TOKENS + i for i in range(len(some_prompts))]
    return {
        str(i): agreed(family, prompt, found[str(i)], length)
        for i, (prompt, length) in enumerate(zip(some_prompts, lengths, strict=True))
    }


def answers(rows, orders, *, num_slots=4, arrive_every=0, scheduler=None):
    """What comes out when `orders` run together; one more arrives each `arrive_every` steps."""
    scheduler = scheduler or Scheduler(num_slots, frozenset(), pace=SmallChunks())
    out, todo, steps = {}, list(orders), 0
    while todo or not scheduler.is_idle:
        while todo and (not arrive_every or steps % arrive_every == 0 or scheduler.is_idle):
            out[todo[0].id] = []
            assert scheduler.add(todo.pop(0), 0.0) == []
            if arrive_every:
                break
        hear(scheduler.preempt(0.0), rows, out)
        step = scheduler.plan(0.0)
        ids, logits = rows.forward(step)
        tokens = dict(zip(ids, logits.argmax(-1).tolist(), strict=True)) if ids else {}
        hear(scheduler.commit(step, tokens, 0.0, 0.01), rows, out)
        scheduler.check()
        steps += 1
    return out


def hear(events, rows, out):
    for event in events:
        match event:
            case Emitted():
                out[event.id].append(event.token)
            case Stored():
                rows.store(event.slot, event.start, event.pages)
            case Ended() | Failed() | Preempted():
                rows.release(event.slot, scrub=False)


def orders_of(some_prompts):
    return [Generate(str(i), prompt, NUM_TOKENS + i, GREEDY) for i, prompt in enumerate(some_prompts)]


@pytest.mark.parametrize("family", sorted(SLOT_FAMILIES))
def test_a_crowd_in_chunks_is_generate(family):
    model = made(family)
    assert isinstance(step_model(model, SlotPlan(4, 128, 0)), SlotModel)
    found = answers(SlotModel(model, SlotPlan(4, 128, 0)), orders_of(prompts()))
    assert found == agreed_of(family, found, prompts())


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3_text", "gpt2", "qwen3"])
def test_rows_that_attend_by_products_of_our_own_are_generate(family, monkeypatch):
    """As many rows together do; of unlike lengths, and past sliding windows."""
    monkeypatch.setattr("inference.engine.attend.scores.MATMUL_ROWS", 2)
    found = answers(SlotModel(made(family), SlotPlan(6, 128, 0)), orders_of(prompts()), num_slots=6)
    assert found == agreed_of(family, found, prompts())


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gpt_oss"])
def test_chunks_that_attend_in_pieces_compute_the_same(family, monkeypatch):
    """Behind a first chunk, past a sliding window, with a softcap and with sinks; the last piece is a short one."""
    draws = random.Random(3)
    tokens = tuple(draws.randrange(3, VOCABULARY) for _ in range(45))
    chunks = [Segment("", 1, 0, tokens[:20], samples=True), Segment("", 1, 20, tokens[20:], samples=True)]
    whole, cut = (SlotModel(made(family), SlotPlan(2, 64, 0)) for _ in range(2))
    expected = [whole.forward((chunk,))[1] for chunk in chunks]
    monkeypatch.setattr("inference.engine.attend.layout.PIECE_TOKENS", 7)
    for chunk, logits in zip(chunks, expected, strict=True):
        torch.testing.assert_close(cut.forward((chunk,))[1], logits, rtol=1e-4, atol=1e-5)


def test_a_chunks_pieces_are_all_of_it():
    pieces = [*Chunk(slot=2, start=30, count=2 * PIECE_TOKENS + 1, token=5).pieces()]
    assert pieces == [
        Chunk(2, 30 + at, count, 5 + at)
        for at, count in ((0, PIECE_TOKENS), (PIECE_TOKENS, PIECE_TOKENS), (2 * PIECE_TOKENS, 1))
    ]


@pytest.mark.parametrize(
    "family",
    ["llama", "gpt2", "gemma3_text", *(("qwen2", "qwen3", "mistral", "gemma", "gemma2") if IS_WHOLE else ())],
)
def test_alone_and_arriving_late_are_the_same(family):
    model = made(family, seed=1)
    rows = SlotModel(model, SlotPlan(6, 128, 0))
    alone = {}
    for order in orders_of(prompts()):
        alone |= answers(rows, [order])
    assert answers(rows, orders_of(prompts()), num_slots=6, arrive_every=3) == alone
    assert alone["2"] == agreed(family, prompts()[2], alone["2"], NUM_TOKENS + 2, seed=1)


def shared_prompts():
    """Prompts that begin alike, some longer than a page by nothing, one or many tokens."""
    draws = random.Random(1)
    long = tuple(draws.randrange(3, VOCABULARY) for _ in range(60))
    return [long, long[:32], long[:33], (*long[:40], 5, 6, 7), long[:16], (*long[:20], 9), long]


DIFFERENT = frozenset(
    {"cohere2", "gemma2", "gemma3_text", "gpt2", "gpt_oss", "llama", "mistral", "olmo3", "phi3", "qwen3"}
)
"""Families whose attention differs: windows, sinks, soft caps, learned positions, norms of queries and keys."""


@pytest.mark.parametrize("family", sorted(SLOT_FAMILIES if IS_WHOLE else DIFFERENT))
def test_behind_kept_prefixes_an_answer_is_generate(family):
    """In a crowd that copies from each other, then again behind what the crowd left, answers included."""
    model, num_tokens = made(family), 8
    crowd, longer = shared_prompts(), []
    rows = SlotModel(model, SlotPlan(4, 128, 0, 40))
    scheduler = Scheduler(4, frozenset(), pace=SmallChunks(), num_pages=40)
    for prompts_now in (crowd, crowd, longer):  # the last is filled once there are answers
        orders = [Generate(str(i), prompt, num_tokens, GREEDY) for i, prompt in enumerate(prompts_now)]
        num_found, num_asked = scheduler.prefixes.num_found, scheduler.prefixes.num_asked
        found = answers(rows, orders, scheduler=scheduler)
        assert scheduler.prefixes.num_found > num_found
        assert scheduler.prefixes.num_asked - num_asked == sum(map(len, prompts_now))
        assert found == agreed_of(family, found, prompts_now, num_tokens)
        if prompts_now is crowd:
            longer[:] = [(*prompt, *found[str(i)], 3) for i, prompt in enumerate(crowd)]


def test_pages_that_give_way_all_the_time_spoil_nothing():
    model = made("llama")
    rows, scheduler = SlotModel(model, SlotPlan(3, 128, 0, 3)), Scheduler(3, frozenset(), num_pages=3)
    orders = [Generate(str(i), prompt, 20, GREEDY) for i, prompt in enumerate(shared_prompts() * 3)]
    found = answers(rows, orders, arrive_every=2, scheduler=scheduler)
    assert found == agreed_of("llama", found, [order.tokens for order in orders], 20)
    assert scheduler.prefixes.num_found > 0


@pytest.mark.parametrize("num_pages", [0, 40], ids=["computed again", "copied back"])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_slots_that_share_too_little_memory_give_way_and_go_on(family, num_pages, monkeypatch):
    """Six rows of up to 70 tokens and memory for 96 together: each slot's goes back when its row gives way."""
    monkeypatch.setattr("inference.engine.steps.seats.GROWTH_TOKENS", 4)
    model, crowd = made(family), prompts()
    rows = step_model(model, SlotPlan(6, 128, 0, num_pages, num_blocks=1))
    scheduler = Scheduler(6, frozenset(), pace=SmallChunks(), num_pages=num_pages, pool=BlockPool(6, 6))
    orders = [Generate(str(i), prompt, 30, GREEDY) for i, prompt in enumerate(crowd)]
    found = answers(rows, orders, scheduler=scheduler)
    assert found == agreed_of(family, found, crowd, 30)
    assert scheduler.num_preempted > 0


def test_a_slots_memory_goes_back_and_its_neighbours_stay():
    cache = SlotCache(SlotPlan(3, 4096, 0, num_blocks=1))
    cache.layout = StepLayout([Segment("", slot, 0, (1, 2), samples=False) for slot in range(3)])
    keys, values = cache.update(torch.ones(1, 2, 6, 8), torch.ones(1, 2, 6, 8), 0)
    cache.release(1, scrub=False)
    assert [float(each[slot].sum()) for each in (keys, values) for slot in range(3)] == [32, 0, 32] * 2


@pytest.mark.parametrize("num_pages", [0, 40], ids=["computed again", "copied back"])
@pytest.mark.parametrize("family", ["llama", "gemma2", "bloom"])
def test_a_preempted_answer_goes_on_as_generate_would(family, num_pages):
    model, crowd = made(family), prompts()
    num_pages = num_pages if shares_a_pass(model.config) else 0
    rows = step_model(model, SlotPlan(2, 128, 0, num_pages))
    scheduler = Scheduler(2, frozenset(), pace=SmallChunks(), num_pages=num_pages)
    orders = [Generate(str(i), prompt, 30, GREEDY, priority=9 - i) for i, prompt in enumerate(crowd)]
    found = answers(rows, orders, arrive_every=6, scheduler=scheduler)
    assert found == agreed_of(family, found, crowd, 30)
    assert scheduler.num_preempted >= 4


@pytest.mark.parametrize("family", ["bloom", "gpt_neo", "gptj", "falcon", "codegen"])
def test_any_other_family_goes_alone_and_is_generate(family):
    model = made(family)
    rows = step_model(model, SlotPlan(4, 128, 0))
    assert isinstance(rows, LoneModel)
    found = answers(rows, orders_of(prompts()[:4]))
    assert found == agreed_of(family, found, prompts()[:4])


def test_a_rope_that_looks_at_the_longest_row_does_not_share_a_pass():
    dynamic = made("llama", rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0})
    assert not shares_a_pass(dynamic.config)
    assert shares_a_pass(made("llama").config)


def test_a_poisoned_slot_does_not_reach_the_next_row_or_its_neighbour():
    model = made("llama")
    rows = SlotModel(model, SlotPlan(3, 128, 0))
    expected = answers(rows, orders_of(prompts()[:3]), num_slots=3)
    with torch.inference_mode():
        for keys, values in rows._cache._layers.values():
            keys[1] = torch.nan
            values[1] = torch.nan
    rows.release(1, scrub=True)
    assert answers(rows, orders_of(prompts()[:3]), num_slots=3) == expected


def test_bf16_alone_is_generate_up_to_a_near_tie():
    model = made("llama", dtype=torch.bfloat16)
    prompt = prompts()[2]
    expected = greedy(model, prompt, NUM_TOKENS)
    found = answers(SlotModel(model, SlotPlan(2, 128, 0)), [Generate("0", prompt, NUM_TOKENS, GREEDY)])["0"]
    first = next((i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b), None)
    if first is not None:
        fresh = made("llama", dtype=torch.bfloat16)
        logits = fresh(torch.tensor([[*prompt, *expected[:first]]])).logits[0, -1].float()
        best = logits.topk(2).values
        assert float(best[0] - best[1]) <= 0.02 * float(best[0].abs())

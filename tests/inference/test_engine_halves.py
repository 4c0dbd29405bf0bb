"""bf16 and fp16: an answer is `generate`'s, alone and in a crowd, up to a step whose best two lie within rounding.

What rounding may do is measured, not chosen: the same tokens are computed in two other orders of summation (whole at
once by the class itself, and in a crowd of ours), and the largest difference of two logits is what a lead must exceed
to be one.
"""

import pytest
import torch

from inference.engine.model import SlotModel
from inference.engine.orders.asked import Generate
from inference.engine.steps.slots import SlotPlan
from tests.evidence import IS_WHOLE
from tests.inference.greedy import greedy
from tests.inference.test_engine_exact import GREEDY, answers, prompts
from tests.inference.tiny import made

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
FAMILIES = ("llama", "qwen3", "mistral", "gemma2", "gpt2", "phi3", "gpt_oss", "olmo2", "gpt_neox", "cohere2")
TESTED = FAMILIES if IS_WHOLE else FAMILIES[:4]
NUM_NEW = 12


@torch.inference_mode()
def rounding(model, tokens):
    """The largest difference that another order of sums makes to a logit of these tokens, at any place."""
    whole = model(torch.tensor([tokens])).logits[0].float()
    one = torch.cat(
        [model(torch.tensor([tokens[: end + 1]])).logits[0, -1:].float() for end in range(len(tokens))]
    )
    return float((whole - one).abs().max()), one


def leads(logits):
    """How far the best logit of each row is ahead of the second."""
    best = logits.topk(2).values
    return best[:, 0] - best[:, 1]


def parts_within_rounding(model, prompt, found, expected):
    """True if the two answers are equal, or part where the lead is less than twice what rounding does to a logit."""
    first = next((i for i, pair in enumerate(zip(found, expected, strict=True)) if pair[0] != pair[1]), None)
    if first is None:
        return True
    noise, logits = rounding(model, [*prompt, *expected[:first]])
    return float(leads(logits)[-1]) <= 2 * noise


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("family", TESTED)
def test_in_halves_an_answer_is_generates_alone_and_in_a_crowd_up_to_a_tie(family, half):
    crowd = prompts()[1:]
    orders = [Generate(str(number), prompt, NUM_NEW, GREEDY) for number, prompt in enumerate(crowd)]
    plain = made(family, dtype=HALVES[half])
    expected = [greedy(plain, prompt, NUM_NEW) for prompt in crowd]
    rows = SlotModel(made(family, dtype=HALVES[half]), SlotPlan(4, 128, 0))
    alone = {}
    for order in orders:
        alone |= answers(rows, [order])
    together = answers(rows, orders, arrive_every=2)

    for found in (alone, together):
        for number, prompt in enumerate(crowd):
            assert parts_within_rounding(plain, prompt, found[str(number)], expected[number]), number
    equal = [alone[str(number)] == expected[number] for number in range(len(crowd))]
    assert sum(equal) >= len(crowd) // 2, "ties are rare: an engine that went its own way would be seen"


def test_what_rounding_does_is_small_against_most_leads_so_that_this_judge_can_say_no():
    model = made("llama", dtype=torch.bfloat16)
    prompt = prompts()[5]
    noise, logits = rounding(model, [*prompt, *greedy(model, prompt, NUM_NEW)])
    assert noise > 0
    assert float((leads(logits) > 2 * noise).float().mean()) > 0.8
    other = greedy(made("llama", seed=1, dtype=torch.bfloat16), prompt, NUM_NEW)
    assert not parts_within_rounding(model, prompt, other, greedy(model, prompt, NUM_NEW))

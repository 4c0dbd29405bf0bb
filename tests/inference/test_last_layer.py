"""Behind the last layer's attention only rows that sample are computed, and what they say stays the same."""

import pytest
import torch
from torch import nn

from inference.engine.model import SlotModel
from inference.engine.steps.events import Segment
from inference.engine.steps.slots import SlotPlan
from tests.inference.tiny import made

NUM_TOKENS = 9


class Counting(nn.Linear):
    """Knows how many rows it was given, and may refuse them."""

    def forward(self, input):  # noqa: A002 - torch's own name for it
        self.rows.append(input.numel() // self.in_features)
        if self.refuses:
            raise RuntimeError("not these rows")
        return super().forward(input)


def counted(module):
    module.__class__, module.rows, module.refuses = Counting, [], False
    return module


def engine_of(family):
    """A model, and it in slots."""
    model = made(family)
    return model, SlotModel(model, SlotPlan(3, 64, 0, 0))


def chunk(slot, start=0, count=NUM_TOKENS, *, samples=True):
    return Segment(f"row {slot}", slot, start, tuple(range(3, 3 + count)), samples, ())


@pytest.mark.parametrize("samples", [True, False])
def test_the_last_layer_multiplies_only_rows_that_sample(samples):
    model, rows = engine_of("llama")
    first, last = (counted(model.model.layers[place].mlp.down_proj) for place in (0, -1))
    queries = counted(model.model.layers[-1].self_attn.q_proj)
    rows.forward((chunk(0, samples=samples),))
    rows.forward((chunk(0, NUM_TOKENS, 1), chunk(1), chunk(2, samples=samples)))
    assert first.rows == queries.rows == [NUM_TOKENS, 1 + 2 * NUM_TOKENS]
    assert last.rows == ([1, 3] if samples else [2])


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox", "phi", "qwen3_moe", "gpt_oss"])
def test_what_is_said_is_what_a_whole_pass_says(family):
    _, rows = engine_of(family)
    whole = made(family)
    _, logits = rows.forward((chunk(0), chunk(1, count=4, samples=False), chunk(2, count=12)))
    for row, count in zip(logits, (NUM_TOKENS, 12), strict=True):
        with torch.inference_mode():
            wanted = whole(torch.arange(3, 3 + count)[None]).logits[0, -1]
        torch.testing.assert_close(row, wanted, rtol=1e-4, atol=1e-5)


def test_after_a_pass_that_failed_the_next_is_not_shortened():
    model, rows = engine_of("llama")
    last = counted(model.model.layers[-1].mlp.down_proj)
    last.refuses = True
    with pytest.raises(RuntimeError, match="not these rows"):
        rows.forward((chunk(0),))
    last.refuses = False
    assert model.model.layers[-1].mlp(torch.zeros(1, NUM_TOKENS, 32)).shape == (1, NUM_TOKENS, 32)
    assert last.rows == [1, NUM_TOKENS]

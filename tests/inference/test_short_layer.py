"""A Llama's layers in fewer operations say what its class says, and only layers of that kind are taken."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from inference.engine.attend.attention import SlotAttention
from inference.engine.linear.last_layer import LastLayer
from inference.engine.linear.short_layer import Norm, shorten
from inference.engine.model import SlotModel
from inference.engine.steps.events import Segment
from inference.engine.steps.slots import SlotPlan
from tests.inference.tiny import made

SHORT = ["llama", "mistral", "qwen2"]
NUM_TOKENS = 30
"""More than the window of those that have one."""


class Counting(TorchDispatchMode):
    """Counts what torch computes in it, looks at tensors that lie elsewhere left out."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation, _types, args=(), kwargs=None):
        found = operation(*args, **(kwargs or {}))
        self.count += not operation.is_view
        return found


def usual_of(model):
    """Its layers as their class has them."""
    for each in (model.base_model, *model.base_model.layers):
        each.__dict__.pop("forward")


def slots_of(model):
    return SlotModel(model, SlotPlan(3, 64, 0, 0))


def prompt(slot, count=NUM_TOKENS):
    return Segment(
        f"row {slot}", slot, 0, tuple(3 + (5 * place + slot) % 90 for place in range(count)), True, ()
    )


def next_token(slot, start=NUM_TOKENS):
    return Segment(f"row {slot}", slot, start, (7 + slot,), True, ())


@pytest.mark.parametrize("family", SHORT)
def test_prompts_and_steps_say_what_the_class_says(family):
    short, usual = slots_of(made(family)), slots_of(model := made(family))
    usual_of(model)
    for step in ((prompt(0), prompt(1, 5)), (next_token(0), prompt(2)), (next_token(1, 5), next_token(2))):
        found, wanted = (rows.forward(step) for rows in (short, usual))
        assert found[0] == wanted[0]
        torch.testing.assert_close(found[1], wanted[1], rtol=1e-4, atol=1e-5)


def test_a_step_is_many_operations_shorter():
    short, usual = (slots_of(made("llama", num_hidden_layers=12)) for _ in range(2))
    usual_of(usual._model)
    counts = []
    for rows in (short, usual):
        rows.forward((prompt(0),))
        rows.forward((next_token(0),))
        with Counting() as counting:
            rows.forward((next_token(0, NUM_TOKENS + 1),))
        counts.append(counting.count)
    assert counts[0] < 0.8 * counts[1]


@pytest.mark.parametrize("family", ["qwen3", "gemma2", "gpt2", "olmo2", "granite", "phi3"])
def test_others_stay_as_they_are(family):
    assert not shorten(made(family), SlotAttention(LastLayer(made(family))))


@pytest.mark.parametrize("changes", [{"dtype": torch.bfloat16}, {"hidden_act": "gelu"}])
def test_a_narrower_type_and_another_gate_stay_as_they_are(changes):
    model = made("llama", **changes)
    assert not shorten(model, SlotAttention(LastLayer(model)))


@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4])
def test_a_norm_is_the_class_norm(size):
    norm = LlamaRMSNorm(48, eps=1e-6)
    torch.nn.init.normal_(norm.weight)
    rows = size * torch.randn(1, 5, 48)
    rows[0, 2] = 0.0
    with torch.inference_mode():
        torch.testing.assert_close(Norm(norm).of(rows), norm(rows), rtol=1e-5, atol=1e-7)


def test_gains_are_the_same_made_together_or_one_by_one():
    """Together where every weight is here before the first pass, one by one where a pass overtakes its bytes."""
    together, one_by_one = (slots_of(made("llama")) for _ in range(2))
    together.landed()
    found, wanted = (rows.compute((prompt(0),))[1] for rows in (together, one_by_one))
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_a_broken_row_stays_broken_and_alone(poison):
    rows = torch.randn(1, 3, 48)
    rows[0, 1, 7] = poison
    with torch.inference_mode():
        found = Norm(LlamaRMSNorm(48)).of(rows)
    assert not found[0, 1].isfinite().all()
    assert found[0, [0, 2]].isfinite().all()

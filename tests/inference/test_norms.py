"""Norms in one launch: which classes are taken for what they do, and that whoever does something else is left alone."""

import pytest
import torch
from torch import nn

from inference.engine.gpu.norms import Gain, fuse_norms
from tests.inference.paged_reference import ReferenceKernels
from tests.inference.tiny import made


class Noted(ReferenceKernels):
    """Which gains were asked for, once each class is known."""

    def __init__(self):
        self.gains = []

    def normalise(self, rows, weight, epsilon, gain):
        self.gains.append(gain)
        return super().normalise(rows, weight, epsilon, gain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("family", "num_norms", "gain"),
    [
        ("llama", 5, Gain.ROUNDED),
        ("gemma2", 9, Gain.ONE_MORE),
        ("gpt_oss", 5, None),
        ("qwen3", 9, Gain.ROUNDED),
    ],
)
def test_a_class_is_known_by_what_it_gives(family, num_norms, gain, dtype):
    model, kernels = made(family).to(dtype), Noted()
    norms = [module for module in model.modules() if "RMSNorm" in type(module).__name__]
    rows = [torch.randn(2, 3, len(norm.weight)).to(dtype) for norm in norms]
    with torch.inference_mode():
        wanted = [norm(each) for norm, each in zip(norms, rows, strict=True)]
        assert fuse_norms(model, kernels) == num_norms == len(norms)
        kernels.gains.clear()
        found = [norm(each) for norm, each in zip(norms, rows, strict=True)]
    if gain is not None:
        assert {*kernels.gains} == {gain}
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=4 * torch.finfo(dtype).eps, atol=1e-6)


class OwnRMSNorm(nn.Module):
    """A class that nobody knows."""

    def __init__(self, way):
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(torch.ones(8)), 1e-6
        self.way = way

    def forward(self, rows):
        return self.way(rows)


def refuse(_rows):
    raise TypeError("this one wants a gate as well")


@pytest.mark.parametrize(
    "way", [lambda rows: rows * 2, lambda rows: rows[..., :4], lambda rows: None, refuse],
    ids=["other numbers", "another shape", "nothing", "other arguments"],
)  # fmt: skip
def test_whoever_does_something_else_is_left_alone(way):
    norm = OwnRMSNorm(way)
    assert fuse_norms(nn.Sequential(norm, nn.LayerNorm(8)), ReferenceKernels()) == 0
    assert "forward" not in vars(norm)


def test_no_weight_is_looked_at_and_no_gate_opened():
    """Weights may still be on their way, and a module's first pass is what waits for them."""
    model = made("llama")
    norm = model.model.norm
    kept = norm.weight.clone()
    norm.weight.data.fill_(torch.nan)
    norm.register_forward_pre_hook(lambda *_: pytest.fail("a gate was asked"))
    assert fuse_norms(model, ReferenceKernels()) == 5
    norm.weight.data.copy_(kept)
    rows = torch.randn(1, 2, len(kept))
    torch.testing.assert_close(norm.forward(rows), type(norm).forward(norm, rows))

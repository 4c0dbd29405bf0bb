"""A model's norms, each in one launch: transformers writes them as eight, and a step of one row waits for launches.

(Measured on an H200 with a model of 8B, one stream: of 6.7 ms a token, 4.4 are products and 1.2 were the norms.)

The classes differ in how they round and in what they do with the weight, and a new one may do anything. So nothing is
believed of a name: each class is tried on numbers of ours, and only one that gives what a kernel gives is replaced.
"""

from __future__ import annotations

import copy
import enum
from typing import TYPE_CHECKING, Any, Protocol

import torch

from inference.engine.choose.sample import ROW_FAULTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

NUM_TRIED = 5
"""Rows of random numbers that a class is tried on."""
NUM_ROUNDINGS = 4
"""How far two ways of rounding may be apart, in units of the dtype's last place: sums are added in another order."""


class Gain(enum.IntEnum):
    """What a norm's weight does."""

    ROUNDED = 0
    """Multiplies what was rounded to the model's dtype (Llama)."""
    ONE_MORE = 1
    """One more than it multiplies, then the result is rounded (Gemma)."""
    WHOLE = 2
    """Multiplies, then the result is rounded (GPT-OSS)."""


class NormKernel(Protocol):
    """A device's own part."""

    def normalise(self, rows: torch.Tensor, weight: torch.Tensor, epsilon: float, gain: Gain) -> torch.Tensor:
        """Each of the last dimension of `rows` over its root mean square, times what `gain` says."""


def fuse_norms(model: nn.Module, kernel: NormKernel) -> int:
    """Have the model's norms computed by `kernel` where that gives the same; how many."""
    gains: dict[tuple[type, torch.dtype, int], Gain | None] = {}
    count = 0
    for module in model.modules():
        epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
        weight = module._parameters.get("weight")  # noqa: SLF001 - an attribute may be anything
        if "RMSNorm" not in type(module).__name__ or weight is None or not isinstance(epsilon, float):
            continue
        kind = type(module), weight.dtype, weight.shape[-1]
        if kind not in gains:
            gains[kind] = _gain_of(module, weight, epsilon, kernel)
        if (gain := gains[kind]) is not None:
            module.forward = _fused(module, epsilon, gain, kernel)
            count += 1
    return count


def _fused(
    module: nn.Module, epsilon: float, gain: Gain, kernel: NormKernel
) -> Callable[[torch.Tensor], torch.Tensor]:
    def forward(rows: torch.Tensor) -> torch.Tensor:
        weight: Any = module.weight
        return kernel.normalise(rows, weight, epsilon, gain)

    return forward


def _gain_of(module: nn.Module, weight: torch.Tensor, epsilon: float, kernel: NormKernel) -> Gain | None:
    """Which kernel gives what this class gives; None if none does, or if it cannot be tried."""
    tried = copy.copy(module)  # without the weights, which may still be on their way
    gains = torch.rand(weight.shape, device=weight.device, dtype=torch.float32).add(0.5).to(weight.dtype)
    tried._parameters = {"weight": torch.nn.Parameter(gains, requires_grad=False)}  # noqa: SLF001 - as nn.Module has it
    rows = torch.randn(1, NUM_TRIED, weight.shape[-1], device=weight.device).mul(3.0).to(weight.dtype)
    try:
        wanted = type(module).forward(tried, rows)
    except ROW_FAULTS:
        return None
    return next(
        (gain for gain in Gain if _is_same(kernel.normalise(rows, gains, epsilon, gain), wanted)), None
    )


def _is_same(found: torch.Tensor, wanted: Any) -> bool:
    if not isinstance(wanted, torch.Tensor) or (found.dtype, found.shape) != (wanted.dtype, wanted.shape):
        return False
    tolerance = NUM_ROUNDINGS * torch.finfo(wanted.dtype).eps
    return torch.allclose(found.float(), wanted.float(), rtol=tolerance, atol=1e-6)

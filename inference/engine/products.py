"""Matrix products of a few rows on a CPU, in the layout that its library is fast in.

torch asks for `x @ weight.T`. For 8 to 32 rows of float32 the library is slow at that, and fast at the same numbers
turned, `weight @ x.T`, which needs no other copy of the weights. Measured (torch 2.13 with MKL, AVX-512, two cores;
microseconds straight, and turned with the result turned back):

    weight         8 rows          16 rows         32 rows         fewer, or 64 and more
    4096 x 1024    1,688  1,327    1,636  1,452    1,914  1,700    straight
    1024 x 4096    1,741  1,238    1,544  1,365    1,861  1,752    straight
    1536 x 512       286    295      355    290      393    357    straight
    512 x 512         61     74      125     70      447    393    straight, if anything

The turned product's bits are also the same on one thread and on two for up to 32 rows (measured for these shapes), the
straight one's are not from 16 rows on: so `threads` may choose.
"""

from __future__ import annotations

import torch
from torch import nn

LEAST_ROWS = 8
MOST_ROWS = 32
LEAST_WEIGHTS = 500_000
"""Smaller ones stay in the caches, and turning the result back costs what turning saves."""


class TurnedLinear(nn.Linear):
    """A linear layer that turns products of a few rows."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's own name for it
        """See `nn.Linear`."""
        num_rows = input.numel() // self.in_features
        if not LEAST_ROWS <= num_rows <= MOST_ROWS:
            return super().forward(input)
        turned = torch.mm(self.weight, input.reshape(num_rows, self.in_features).t())
        out = turned.t().contiguous()
        if self.bias is not None:
            out += self.bias
        return out.view(*input.shape[:-1], self.out_features)


def turn_products(model: nn.Module) -> None:
    """Have the plain float32 linear layers of `model` turn their products. Their weights stay where they are."""
    for module in model.modules():
        if type(module) is nn.Linear and _gains(module.weight):
            module.__class__ = TurnedLinear


def _gains(weight: torch.Tensor) -> bool:
    return weight.dtype is torch.float32 and weight.numel() >= LEAST_WEIGHTS

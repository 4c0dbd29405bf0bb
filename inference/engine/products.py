"""Matrix products of one row and of a few on a CPU, from the weights as they lie, by the library that is fast at them.

One row is nothing but reading the weight, and torch gives it to MKL, which is no faster on two threads than on one.
oneDNN reads the same weight on all of them, and on one no slower. Measured (torch 2.13, two cores of an AMD EPYC
with AVX-512, others at work, best of 24; GB/s of the products of a 244 M Llama's layers, in pages of 4 KiB and of
2 MiB, on one thread and on two):

    plain sum, the most there is    24  30       31  53
    MKL                             16  17       16  16
    oneDNN                          18  19       18  24
    oneDNN, packed                  13  15       18  23

Whole steps of that model, in turns: 98.5 ms by MKL on any number of threads, 76 and 61 by oneDNN on one and two. The
numbers are the same on any number of threads, and their error is the smaller one (4e-6 against 2e-5 in sums of 4,096).

For a few rows torch asks MKL for `x @ weight.T`. For 8 to 32 rows of float32 that is slow, and fast at the same
numbers turned, `weight @ x.T`, which needs no other copy of the weights. Measured (torch 2.13 with MKL, AVX-512, two
cores; microseconds straight, and turned with the result turned back):

    weight         8 rows          16 rows         32 rows         fewer, or 64 and more
    4096 x 1024    1,688  1,327    1,636  1,452    1,914  1,700    straight
    1024 x 4096    1,741  1,238    1,544  1,365    1,861  1,752    straight
    1536 x 512       286    295      355    290      393    357    straight
    512 x 512         61     74      125     70      447    393    straight, if anything

The turned product's bits are also the same on one thread and on two for up to 32 rows (measured for these shapes), the
straight one's are not from 16 rows on: so `threads` may choose.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

HAS_ONEDNN: bool = torch._C._has_mkldnn  # noqa: SLF001 - `torch.backends.mkldnn.is_available` has no types
LEAST_ROWS = 8
MOST_ROWS = 32
LEAST_WEIGHTS = 500_000
"""Smaller ones stay in the caches, and turning the result back costs what turning saves."""


class TurnedLinear(nn.Linear):
    """A linear layer that turns products of a few rows, and reads its weight on all threads for one."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's own name for it
        """See `nn.Linear`."""
        num_rows = input.numel() // self.in_features
        if num_rows == 1 and HAS_ONEDNN:
            return onednn_product(input, self.weight, self.bias)
        if not LEAST_ROWS <= num_rows <= MOST_ROWS:
            return super().forward(input)
        turned = torch.mm(self.weight, input.reshape(num_rows, self.in_features).t())
        out = turned.t().contiguous()
        if self.bias is not None:
            out += self.bias
        return out.view(*input.shape[:-1], self.out_features)


def onednn_product(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """What `linear` gives, by oneDNN: [.., in] and [out, in], which may be packed, to [.., out]. Has no gradient."""
    product: Any = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001 - what torch's own compiler calls
    out: torch.Tensor = product(rows, weight, bias, "none", [], "")
    return out


def turn_products(model: nn.Module) -> None:
    """Have the plain float32 linear layers of `model` turn their products. Their weights stay where they are."""
    for module in model.modules():
        if type(module) is nn.Linear and _gains(module.weight):
            module.__class__ = TurnedLinear


def _gains(weight: torch.Tensor) -> bool:
    return weight.dtype is torch.float32 and weight.numel() >= LEAST_WEIGHTS

"""Matrix products on a CPU, from the weights as they lie, by the library that is fast at them.

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

More rows are read the same way, by kernels that put the weight into blocks as they go; MKL is slow at a few, and at
the same numbers turned (`weight @ x.T`). Milliseconds of twelve products (four each of 1024 x 1024, 4096 x 1024 and
1024 x 4096) on one thread, others at work, least of 8:

    rows               2      4      7      8     16     32
    MKL             22.6   19.2   26.8   24.3   30.2   44.3
    MKL, turned     13.0   23.3   37.7   37.0   33.2   46.1
    oneDNN          13.8   14.8   17.2   18.4   24.7   35.7

Nor does MKL catch up where it is all arithmetic. Whole passes of a 260 M Llama at real-time priority, MKL and oneDNN
in turns, least of 7 to 9, ms (512 tokens: least of 5):

    tokens             40        64        128       512
    one thread     353  292  499  411  790  669  2924  2524
    two threads    261  169  338  225

Where there is memory for a packed copy, that is faster still (`inference.engine.linear.packing`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from inference.engine.attach.walk import modules_of

HAS_ONEDNN: bool = torch._C._has_mkldnn  # noqa: SLF001 - `torch.backends.mkldnn.is_available` has no types
SEVERAL, MOST_REPEATED = 6, 3
"""oneDNN's kernel for so many rows of packed weights is the fastest of all, at the speed of memory; those for one to
three rows are slower, so these are multiplied more than once. Microseconds at 1 to 8 rows, two threads, huge pages,
others at work (one row of 4096 x 1024 as it lies: 563):

    4096 x 1024    649  740  594  583  576  565  653  667
    1024 x 4096    653  746  593  567  547  506  592  618
    1024 x 1024    180  184  157  143  141  144  162  170

A step of the 244 M Llama, in turns, at 145 positions: 58.6 and 54.4 ms of processor time at one row on one thread, 41.6
and 40.4 by the clock on two; 53.5 and 41.2 at two rows."""
LEAST_WEIGHTS = 500_000
"""Smaller ones stay in the caches, and take less time than the way to the library."""


class OneDNNLinear(nn.Linear):
    """A linear layer that has oneDNN multiply."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's own name for it
        """See `nn.Linear`."""
        if not input.numel():  # an empty product is no product of oneDNN's
            return super().forward(input)
        return onednn_product(input, self.weight, self.bias)


def onednn_product(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """What `linear` gives, by oneDNN: [.., in] and [out, in], which may be packed, to [.., out]. Has no gradient."""
    product: Any = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001 - what torch's own compiler calls
    out: torch.Tensor = product(rows, weight, bias, "none", [], "")
    return out


def packed_product(rows: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """What `onednn_product` gives, of a packed weight: few rows are repeated until they are `SEVERAL`."""
    num_rows = rows.shape[:-1].numel()
    if not 0 < num_rows <= MOST_REPEATED:
        return onednn_product(rows, packed, bias)
    several = rows.reshape(1, num_rows, -1).expand(SEVERAL // num_rows, -1, -1)
    return onednn_product(several, packed, bias)[0].view(*rows.shape[:-1], -1)


def fit_onednn(model: nn.Module) -> None:
    """Have oneDNN multiply in the plain float32 layers of `model`. Their weights stay where they are."""
    for module in modules_of(model) if HAS_ONEDNN else ():
        if type(module) is nn.Linear and _gains(module.weight):
            object.__setattr__(module, "__class__", OneDNNLinear)  # a module's own looks for tensors first


def _gains(weight: torch.Tensor) -> bool:
    return weight.dtype is torch.float32 and weight.numel() >= LEAST_WEIGHTS

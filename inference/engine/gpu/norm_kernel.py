"""`inference.engine.gpu.norms` in Triton: one program a row. Imported only where there is a CUDA device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

if TYPE_CHECKING:
    from inference.engine.gpu.norms import Gain

ROW_WARPS = {False: 4, True: 8}
"""For a row of up to, or more than, 2,048 numbers."""


@triton.jit
def _normalise(
    rows: tl.tensor,
    weight: tl.tensor,
    found: tl.tensor,
    epsilon: tl.tensor,
    size: tl.constexpr,
    block: tl.constexpr,
    gain: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, block)
    number = tl.load(rows + row * size + at, mask=at < size, other=0.0).to(tl.float32)
    by = tl.load(weight + at, mask=at < size, other=0.0)
    number = number * tl.rsqrt(tl.sum(number * number) / size + epsilon)
    if gain == 0:  # Gain.ROUNDED
        number = number.to(found.dtype.element_ty).to(tl.float32) * by.to(tl.float32)
    elif gain == 1:  # Gain.ONE_MORE
        number = number * (1.0 + by.to(tl.float32))
    else:
        number = number * by.to(tl.float32)
    tl.store(found + row * size + at, number.to(found.dtype.element_ty), mask=at < size)


def normalise(rows: torch.Tensor, weight: torch.Tensor, epsilon: float, gain: Gain) -> torch.Tensor:
    """See `NormKernel`."""
    rows = rows.contiguous()
    size = rows.shape[-1]
    block = triton.next_power_of_2(size)
    found = torch.empty_like(rows)
    _normalise[(rows.numel() // size,)](
        *(rows, weight, found, epsilon, size, block, int(gain)), num_warps=ROW_WARPS[size > 2048]
    )
    return found

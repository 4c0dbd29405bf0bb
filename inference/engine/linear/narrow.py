"""Products in bfloat16 on a CPU, of weights that are too touchy for 8 bits.

Half the bytes, and instructions that multiply pairs: half the time of float32 at any number of rows, where 8 bits take
a third. Microseconds of oneDNN's packed products (torch 2.13, one thread of an EPYC, others at work, weights not in the
caches, least of 25; one row of float32 from the weight as it lies), at 1, 8 and 16 rows:

    weight         float32                bfloat16
    1024 x 1024      177    305    430     103    162    228
    4096 x 1024      646  1,278  1,749     451    633    893
    1024 x 4096      597  1,424  1,754     390    644    837

Inputs are rounded on their way, to 8 bits each of its own size; those that have one scale for a whole row, as in
`inference.engine.linear.int8`, are eight times as coarse. A row's bits are the same beside any others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from inference.engine.linear.joined import Product, biases, stacked
from inference.engine.linear.products import HAS_ONEDNN, packed_product

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn


NARROWED = frozenset({torch.float32, torch.bfloat16})
"""What is put into it: float16 has more digits, and no instructions here."""


class NarrowProduct(Product):
    """Weights in bfloat16, in blocks as oneDNN reads them."""

    weight_bytes = torch.bfloat16.itemsize

    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        super().__init__(linears)
        with torch.inference_mode():
            weight = stacked(linears).bfloat16()
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)  # noqa: SLF001 - as in `packing`
            self._bias = biases(linears)

    def whole(self, given: torch.Tensor, rest: torch.Tensor | None = None) -> torch.Tensor:
        """See `Product`."""
        out = packed_product(given.bfloat16(), self._packed, None).float()
        for added in (self._bias, rest):
            if added is not None:
                out.add_(added)
        return out


def is_faster() -> bool:
    """Whether this processor multiplies such numbers itself; others would take longer than for float32."""
    return HAS_ONEDNN and torch.cpu._is_avx512_bf16_supported()  # noqa: SLF001 - torch has no public name for it

"""Numbers as whole levels of a scale of their row: -127 to 127 times what one is worth.

What `inference.engine.linear.int8` multiplies. The levels are not rounded here: the product does that.
"""

from __future__ import annotations

import torch

LARGEST = 127
LEAST_SCALE = torch.finfo(torch.float32).tiny
BLOCK = 64
"""Numbers that are rotated together, where so many divide the input. Least cosine of a Llama's logits as in
`engine.linear.int8`, of blocks of 16, 64 and 256: 0.99907, 0.99915 and 0.99919, before square ones were rotated."""

Scaled = tuple[torch.Tensor, torch.Tensor | float]


class Levels:
    """The last input by its scales, for whoever is given the same one next: attention and a gate beside it, say.

    Nobody changes a linear layer's input in its place: training would not survive it.
    """

    def __init__(self) -> None:
        self._input: torch.Tensor | None = None
        self._made: Scaled | None = None

    def of(self, given: torch.Tensor) -> Scaled:
        """See `scaled`."""
        if self._made is None or self._input is not given:
            self._input, self._made = given, scaled(given.float())
        return self._made


def mixing(num: int) -> torch.Tensor:
    """Hadamard's matrix of ones and minus ones, [block, block]: its square is the block times the identity.

    The block is the largest power of two up to `BLOCK` that divides `num`.
    """
    mix = torch.ones(1, 1)
    while len(mix) < BLOCK and num % (2 * len(mix)) == 0:
        mix = torch.cat([torch.cat([mix, mix], 1), torch.cat([mix, -mix], 1)])
    return mix


def mixed(rows: torch.Tensor, mix: torch.Tensor) -> torch.Tensor:
    """[rows, in], each block of numbers next to each other times `mix`.

    The bits of a row are the same whatever lies beside it (measured with MKL, `test_engine_int8`).
    """
    return (rows.reshape(-1, len(mix)) @ mix).view(rows.shape)


def scaled(rows: torch.Tensor) -> Scaled:
    """[.., in] for the product, not rounded yet, and what a level of them is worth, [.., 1].

    One row stays as it is and its scale is a number, by which the product divides itself. Its bits are those that it
    has among others: both ways multiply by the scale's inverse, and what comes out first by the input's scale and then
    by the weights', which are ones to the product. Of a step of one row, whose operations take longer to be called than
    to be done, that and sums made along the way leave out 470 of 1,700.
    """
    if rows.numel() == rows.shape[-1]:
        return rows, _scale(rows)
    scales = scales_of(rows)
    return rows * scales.reciprocal(), scales


def _scale(row: torch.Tensor) -> float:
    """What `scales_of` finds, of one row: a quotient of two floats that is rounded twice is rounded as by once."""
    largest = row.abs().max().item()
    return max(largest / LARGEST, LEAST_SCALE)  # of NaN, the first of both: Python's `max` keeps it


def scales_of(rows: torch.Tensor) -> torch.Tensor:
    """[.., 1], what one level is worth: next to nothing in a row of zeros; no number in a row that is broken.

    An infinite or NaN scale makes all that the row gives infinite or NaN, so whoever looks at its logits sees it.

    torch's norms and `aminmax` along rows take eight times as long as `abs` and `amax`: 190 us for 16 x 4096.
    """
    return rows.abs().amax(-1, keepdim=True).div_(LARGEST).clamp_min_(LEAST_SCALE)

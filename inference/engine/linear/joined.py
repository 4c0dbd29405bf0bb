"""Linear layers that have been replaced: what one input makes with the weights of some, all below each other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Sequence

SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""What transformers' classes call layers of one parent that are given the same input. Where one of them is given
another, it is still right, and slower."""


class Product(ABC):
    """The product of one input with several layers' weights.

    Each layer takes its own part, the first of them computes all. `weight_bytes`: of one weight.
    """

    weight_bytes: int

    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        self.sizes = [linear.out_features for linear in linears]
        self.in_features = linears[0].in_features
        self._input: torch.Tensor | None = None
        self._parts: dict[int, torch.Tensor] = {}

    @abstractmethod
    def whole(self, given: torch.Tensor, rest: torch.Tensor | None = None) -> torch.Tensor:
        """[.., out of all layers] in float32 next to [.., in], added to `rest`, if there is one."""

    def take(self, number: int, given: torch.Tensor) -> torch.Tensor:
        """[.., out] of one layer next to [.., in]."""
        if self._input is not given or number not in self._parts:
            parts = torch.split(self.whole(given).to(given.dtype), self.sizes, -1)
            self._input, self._parts = given, dict(enumerate(parts))
        own = self._parts.pop(number)
        if not self._parts:
            self._input = None
        return own


class JoinedLinear(nn.Module):
    """What a linear layer computes: its part of a product.

    `num_weights`, `num_bytes`: of its own.
    """

    def __init__(self, product: Product, number: int = 0) -> None:
        super().__init__()
        self.in_features, self.out_features = product.in_features, product.sizes[number]
        self.num_weights = self.in_features * self.out_features
        self.num_bytes = self.num_weights * product.weight_bytes
        self._product, self._number = product, number

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's own name for it
        """See `nn.Linear`."""
        return self._product.take(self._number, input)


def product_of(*layers: nn.Module) -> Product | None:
    """The product whose layers these are, all of them and in its order; None if there is none.

    A layer with a `forward` of its own, which may leave out rows, is none of them.
    """
    product = getattr(layers[0], "_product", None)
    if not isinstance(product, Product):
        return None
    numbers = [getattr(each, "_number", None) for each in layers if "forward" not in vars(each)]
    is_one = all(getattr(each, "_product", None) is product for each in layers)
    return product if is_one and numbers == [*range(len(product.sizes))] else None


def stacked(linears: Sequence[nn.Linear]) -> torch.Tensor:
    """Their weights one below the other, [all out, in] in float32."""
    return torch.cat([linear.weight.float() for linear in linears])


def biases(linears: Sequence[nn.Linear]) -> torch.Tensor | None:
    """One below the other, zeros where a layer has none; None if none has one."""
    if all(linear.bias is None for linear in linears):
        return None
    return torch.cat(
        [torch.zeros(each.out_features) if each.bias is None else each.bias.float() for each in linears]
    )

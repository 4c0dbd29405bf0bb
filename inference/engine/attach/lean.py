"""Linear layers that are made to be filled, without what a layer made to be trained needs.

An empty model is made under torch's device mode, which takes every call that makes a tensor through Python, and each
layer goes through its initialisers only to find that they do nothing. That is 18.5 us for each of the seven layers
of a Llama's block; without both it is 7.4 (torch 2.13, one core of an AMD EPYC, least of 15).
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import Parameter

if TYPE_CHECKING:
    from collections.abc import Iterator

_USUAL: Any = nn.Linear.__init__


@contextmanager
def lean_linears() -> Iterator[None]:
    """Within it plain `nn.Linear`s are made on the meta device, in the default dtype.

    Classes of their own are made as ever: their initialisers may do more.
    """
    nn.Linear.__init__ = _LEAN  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Linear.__init__ = _USUAL  # type: ignore[method-assign]


def _made(self: nn.Linear, in_features: int, out_features: int, bias: bool = True, **options: Any) -> None:
    if type(self) is not nn.Linear or options:
        _USUAL(self, in_features, out_features, bias, **options)
        return
    nn.Module.__init__(self)
    self.__dict__.update(in_features=in_features, out_features=out_features)
    with torch._C.DisableTorchFunction():  # noqa: SLF001 - the mode's way through Python, see above
        self._parameters["weight"] = Parameter(torch.empty((out_features, in_features), device="meta"))
        self._parameters["bias"] = Parameter(torch.empty(out_features, device="meta")) if bias else None


_LEAN: Any = _made

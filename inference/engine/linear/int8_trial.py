"""What a model does with its linear layers beside multiplying by them, found out by trying.

A class may derive from `nn.Linear` and give something else (Llama 4's router gives two tensors), and a model may read
the weights of a layer itself (Mamba's step size, RWKV's rescaling). Neither can be told from a name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.functional import linear

from inference.engine.choose.sample import ROW_FAULTS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from transformers import PreTrainedModel

LinearPlace = tuple[nn.Module, str, nn.Linear]
"""A layer by its parent and its name there."""
IN, OUT, NUM_ROWS = 6, 4, 3
NUM_TOKENS = 2


class _Hollow(nn.Module):
    """In the place of a layer: an output of its shape, and no weight."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's own name for it
        return input.new_zeros(*input.shape[:-1], self.out_features)


def is_product(kind: type[nn.Linear]) -> bool:
    """Whether layers of this class give what `nn.Linear` gives."""
    if kind.forward is nn.Linear.forward:
        return True
    tried, rows = nn.Linear(IN, OUT), torch.randn(1, NUM_ROWS, IN)
    wanted = linear(rows, tried.weight, tried.bias)
    tried.__class__ = kind
    try:
        found = tried(rows)
    except ROW_FAULTS:
        return False
    if not isinstance(found, torch.Tensor) or found.shape != wanted.shape:
        return False
    return torch.allclose(found, wanted, atol=1e-5)


def reads_weights(model: PreTrainedModel, places: Iterable[LinearPlace]) -> bool:
    """Whether one pass asks a layer at these `places` for its weight. The model is as before afterwards.

    A pass that fails for anything else says nothing: shapes alone (the meta device) do not satisfy every model.
    """
    held = list(places)
    tokens = torch.zeros(1, NUM_TOKENS, dtype=torch.long, device=model.device)
    was_training = model.training
    model.train(mode=False)  # RWKV rescales its weights only then
    for parent, name, layer in held:
        setattr(parent, name, _Hollow(layer))
    try:
        with torch.inference_mode():
            model(input_ids=tokens, use_cache=False)
    except AttributeError as error:
        return isinstance(error.obj, _Hollow) and error.name in {"weight", "bias"}
    except (*ROW_FAULTS, NotImplementedError):
        return False
    finally:
        model.train(was_training)
        for parent, name, layer in held:
            setattr(parent, name, layer)
    return False

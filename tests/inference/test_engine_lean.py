"""Lean linear layers: what torch makes on the meta device, to the last attribute."""

import pytest
import torch
from torch import nn
from transformers import initialization

from inference.engine.attach.lean import lean_linears


class Own(nn.Linear):
    """One that does more when it is made."""

    def __init__(self, *given, **named):
        super().__init__(*given, **named)
        self.note = "made"


def made(kind, *given, lean, **named):
    with torch.device("meta"), initialization.no_init_weights():
        if not lean:
            return kind(*given, **named)
        with lean_linears():
            return kind(*given, **named)


def told(layer):
    """Its attributes; of tensors all that a tensor without memory has."""
    own = {name: value for name, value in vars(layer).items() if name != "_parameters"}
    tensors = {
        name: held if held is None else (type(held), held.shape, held.dtype, held.device, held.requires_grad)
        for name, held in vars(layer)["_parameters"].items()
    }
    return type(layer), own, list(tensors.items())


@pytest.mark.parametrize("kind", [nn.Linear, Own])
@pytest.mark.parametrize(
    ("given", "named"),
    [
        ((3, 5), {}),
        ((3, 5, False), {}),
        ((3,), {"out_features": 5, "bias": False}),
        ((3, 5), {"device": "cpu", "dtype": torch.bfloat16}),
    ],
)
def test_it_is_what_torch_makes(kind, given, named):
    assert told(made(kind, *given, lean=True, **named)) == told(made(kind, *given, lean=False, **named))


def test_the_default_dtype_holds():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert made(nn.Linear, 3, 5, lean=True).weight.dtype is torch.bfloat16
    finally:
        torch.set_default_dtype(before)


def test_torch_has_its_own_back():
    usual = nn.Linear.__init__
    with lean_linears():
        assert nn.Linear.__init__ is not usual
    assert nn.Linear.__init__ is usual


def test_torch_has_its_own_back_after_a_fault():
    usual = nn.Linear.__init__
    with pytest.raises(TypeError):
        made(nn.Linear, "not a number", lean=True)
    assert nn.Linear.__init__ is usual

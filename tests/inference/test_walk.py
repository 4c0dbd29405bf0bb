"""A model's modules in one loop: those that torch gives, in its order, shared and absent ones too."""

import pytest
from torch import nn

from inference.engine.attach.walk import modules_of, names_of
from tests.inference.tiny import made


class Shared(nn.Module):
    """One module in two places, one of them in another, and a place that is empty."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.both = nn.Sequential(nn.ReLU(), self.first)
        self.none = None
        self.register_module("absent", None)
        self.last = self.both


@pytest.mark.parametrize(
    "make",
    [Shared, lambda: nn.Linear(1, 1), lambda: made("llama"), lambda: made("gpt2"), lambda: made("mixtral")],
)
def test_it_gives_what_torch_gives_in_its_order(make):
    model = make()
    assert modules_of(model) == list(model.modules())
    assert list(names_of(model).items()) == list(model.named_modules(remove_duplicate=False))

"""The engine that `bench engine` starts: its weights lie as a node's, and are what they were."""

import torch
from torch import nn

from bench.engines.child import lay_as_landed


def test_weights_are_the_same_and_shared_ones_stay_shared():
    model = nn.Sequential(nn.Embedding(600, 2000), nn.Linear(2000, 600, bias=False))
    model[1].weight = model[0].weight
    before, address = model[0].weight.detach().clone(), model[0].weight.data_ptr()
    lay_as_landed(model)
    assert torch.equal(model[0].weight, before)
    assert model[0].weight.data_ptr() != address
    assert model[0].weight is model[1].weight

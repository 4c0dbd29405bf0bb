"""Small passes run on one thread, large ones on all."""

import pytest
import torch
from torch import nn

from inference.engine.threads import CACHED_BYTES, PARALLEL_PRODUCTS, fit_each_pass, wanted


@pytest.mark.parametrize(
    ("num_weights", "num_bytes", "num_tokens", "threads"),
    [
        (3_000_000, 12_000_000, 1, 1),
        (3_000_000, 12_000_000, 24, 1),
        (12_000_000, 48_000_000, 384, 4),
        (12_000_000, CACHED_BYTES + 1, 1, 4),
        (1, 4, int(PARALLEL_PRODUCTS), 4),
    ],
)
def test_threads_follow_the_work(num_weights, num_bytes, num_tokens, threads):
    assert wanted(num_weights, num_bytes, num_tokens, 4) == threads


class Seen(nn.Module):
    """A model that notes the thread count that it runs with."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1_000_000))
        self.threads = []

    def forward(self, input_ids):
        self.threads.append(torch.get_num_threads())


def test_each_pass_is_fitted():
    before, model = torch.get_num_threads(), Seen()
    fit_each_pass(model, 2)
    try:
        for num_tokens in (1, 3_000, 1):
            model(input_ids=torch.zeros(1, num_tokens, dtype=torch.long))
    finally:
        torch.set_num_threads(before)

    assert model.threads == [1, 2, 1]

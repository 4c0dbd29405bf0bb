"""Small passes run on one thread, large ones on all."""

import time

import pytest
import torch
from torch import nn

from inference.engine.threads import (
    CACHED_BYTES,
    FIRST_PATIENCE,
    PARALLEL_PRODUCTS,
    Choice,
    fit_each_pass,
    wanted,
)


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


def told(choice, num_passes, seconds):
    """The threads of so many passes, which take what `seconds` says for each number of them."""
    chosen = []
    for _ in range(num_passes):
        chosen.append(choice.threads())
        choice.note(chosen[-1], seconds[chosen[-1]])
    return chosen


def test_the_faster_number_of_threads_is_kept():
    chosen = told(Choice(2), 400, {1: 2.0, 2: 1.0})
    assert chosen.count(1) < 10
    assert 1 in chosen[10:], "the other one is tried again"


def test_a_busy_neighbour_changes_it_and_its_end_changes_it_back():
    choice = Choice(2)
    told(choice, 200, {1: 2.0, 2: 1.0})
    busy = told(choice, 1_500, {1: 3.0, 2: 5.0})
    idle = told(choice, 3_000, {1: 2.0, 2: 1.0})

    assert busy[-50:].count(1) > 45
    assert idle[-50:].count(2) > 45


def test_one_odd_pass_changes_nothing():
    choice = Choice(2)
    told(choice, 100, {1: 2.0, 2: 1.0})
    choice.note(2, 100.0)
    assert told(choice, 300, {1: 2.0, 2: 1.0}).count(1) < 10


def test_all_threads_come_back_soon_after_a_neighbour_left():
    choice = Choice(2)
    told(choice, 50, {1: 3.0, 2: 5.0})
    assert choice.threads() == 1
    idle = told(choice, 2 * FIRST_PATIENCE, {1: 2.0, 2: 1.0})
    assert idle[FIRST_PATIENCE:].count(2) > FIRST_PATIENCE - 2


def test_a_choice_begins_with_one_pass_of_the_slower_kind():
    assert told(Choice(2), FIRST_PATIENCE, {1: 2.0, 2: 1.0}).count(1) == 1


class Large(Seen):
    """More weights than stay in the caches; a pass on one thread is the faster one."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(CACHED_BYTES // 4 + 1))

    def forward(self, input_ids):
        super().forward(input_ids)
        time.sleep(0.02 if torch.get_num_threads() > 1 else 0.0)


@pytest.mark.parametrize(("measured", "num_tokens", "threads"), [(True, 1, 1), (True, 64, 2), (False, 1, 2)])
def test_few_rows_of_a_large_model_are_measured(measured, num_tokens, threads):
    before, model = torch.get_num_threads(), Large()
    fit_each_pass(model, 2, measured=measured)
    try:
        for _ in range(4 + FIRST_PATIENCE):
            model(input_ids=torch.zeros(1, num_tokens, dtype=torch.long))
            if model.threads[-4:] == [threads] * 4 and len(model.threads) > FIRST_PATIENCE:
                break
    finally:
        torch.set_num_threads(before)

    assert model.threads[-1] == threads


def test_a_pass_with_a_chunk_in_it_tries_nothing():
    before, model = torch.get_num_threads(), Large()
    model.forward = lambda **_: model.threads.append(torch.get_num_threads())
    fit_each_pass(model, 2)
    try:
        for _ in range(4 * FIRST_PATIENCE):
            model(input_ids=torch.zeros(1, 24, dtype=torch.long), logits_to_keep=torch.zeros(8))
    finally:
        torch.set_num_threads(before)

    assert set(model.threads) == {2}

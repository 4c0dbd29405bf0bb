"""Keys and values copied to kept pages and back: the same bits, and as one span where the pages are side by side."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from inference.engine.attend.attention import SlotCache
from inference.engine.attend.layout import StepLayout
from inference.engine.steps.events import Segment
from inference.engine.steps.pages import PAGE_TOKENS
from inference.engine.steps.slots import SlotPlan

NUM_TOKENS = 3 * PAGE_TOKENS


class Asked(TorchDispatchMode):
    """The names of torch's operations while it is entered."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def filled(num_layers=2):
    """A cache of two slots whose first holds random keys and values of three pages, and these."""
    cache = SlotCache(SlotPlan(2, 128, 0, 8))
    cache.layout = StepLayout([Segment("", 0, 0, tuple(range(NUM_TOKENS)), samples=False)])
    given = [torch.randn(2, 1, 2, NUM_TOKENS, 4) for _ in range(num_layers)]
    for number, (keys, values) in enumerate(given):
        cache.update(keys, values, number)
    return cache, given


def held(cache, slot):
    return [
        torch.stack([room[slot, :, :NUM_TOKENS] for room in cache._layers[number]])[:, None]
        for number in cache._layers
    ]


@pytest.mark.parametrize("pages", [(0, 1, 2), (5, 6, 7), (2, 1, 0), (0, 1, 5), (4, 0, 1)])
def test_what_comes_back_is_what_was_kept(pages):
    cache, given = filled()
    cache.keep(0, 0, pages)
    cache.restore(1, 0, pages)
    assert all(map(torch.equal, held(cache, 1), given))


@pytest.mark.parametrize(
    ("pages", "is_span"), [((3,), True), ((0, 1, 2), True), ((2, 1, 0), False), ((0, 1, 5), False)]
)
def test_a_span_is_no_list_to_torch(pages, is_span):
    """Torch copies by a list on all threads, and whoever asks next waits until the last of them has woken."""
    cache, _ = filled()
    with Asked() as asked:
        cache.keep(0, 0, pages)
        cache.restore(1, 0, pages)
    assert ({"index", "index_put_"} & asked.names == set()) is is_span
    assert "copy_" in asked.names

"""Products of one row and of a few: the same numbers, the same weights, and only where they gain."""

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from inference.engine.products import HAS_ONEDNN, LEAST_ROWS, MOST_ROWS, TurnedLinear, turn_products

IN, OUT = 600, 1000


def layer(*, bias=False, dtype=torch.float32, size=OUT):
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(IN, size, bias=bias, dtype=dtype))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    "shape", [(1, 1), (1, LEAST_ROWS), (2, LEAST_ROWS), (1, MOST_ROWS), (1, MOST_ROWS + 1), (9,)]
)
def test_numbers_are_the_same(bias, shape):
    model = layer(bias=bias)
    given = torch.randn(*shape, IN)
    with torch.inference_mode():
        straight = model(given)
        turn_products(model)
        turned = model(given)

    assert type(model[0]) is TurnedLinear
    assert turned.shape == straight.shape
    assert turned.is_contiguous()
    assert torch.allclose(turned, straight, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_rows", [1, 12])
def test_input_may_lie_in_any_way(num_rows):
    model = layer()
    given = torch.randn(IN, 13)[:, :num_rows].t()[None]
    with torch.inference_mode():
        straight = model(given)
        turn_products(model)
        assert torch.allclose(model(given), straight, rtol=1e-5, atol=1e-5)


def test_a_row_is_the_same_wherever_it_lies():
    """What fixed shapes (`inference.engine.fixed`) live by."""
    model = layer()
    turn_products(model)
    given = torch.randn(1, 16, IN)
    order = torch.randperm(16)
    with torch.inference_mode():
        assert torch.equal(model(given)[:, order], model(given[:, order]))


@pytest.mark.parametrize("size", [(IN, OUT), (4096, 256), (512, 2000)])
def test_the_number_of_threads_changes_no_bit_of_one_row(size):
    """What `inference.engine.threads` may choose by."""
    model, before = nn.Sequential(nn.Linear(*size, bias=False)), torch.get_num_threads()
    turn_products(model)
    given, found = torch.randn(1, 1, size[0]), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            with torch.inference_mode():
                found.append(model(given))
    finally:
        torch.set_num_threads(before)

    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.skipif(not HAS_ONEDNN, reason="a torch without oneDNN")
def test_one_row_goes_to_the_library_that_reads_on_all_threads():
    model = layer()
    turn_products(model)
    with profile(activities=[ProfilerActivity.CPU]) as seen, torch.inference_mode():
        model(torch.randn(1, 1, IN))
    assert "mkldnn::_linear_pointwise" in {event.name for event in seen.events()}


def test_weights_stay_where_they_are():
    model = layer()
    before = model[0].weight.data_ptr(), set(model.state_dict())
    turn_products(model)
    assert (model[0].weight.data_ptr(), set(model.state_dict())) == before


@pytest.mark.parametrize(
    "kept", [layer(dtype=torch.bfloat16), layer(size=10)], ids=["another dtype", "small"]
)
def test_others_are_left_alone(kept):
    turn_products(kept)
    assert type(kept[0]) is nn.Linear

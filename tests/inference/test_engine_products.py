"""Products of one row and of many: the same numbers, the same weights, and only where they gain."""

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from inference.engine.linear.products import HAS_ONEDNN, OneDNNLinear, fit_onednn
from inference.engine.threads import FEW_TOKENS

pytestmark = pytest.mark.skipif(not HAS_ONEDNN, reason="a torch without oneDNN")
IN, OUT = 600, 1000


def layer(*, bias=False, dtype=torch.float32, size=OUT):
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(IN, size, bias=bias, dtype=dtype))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 8), (1, 32), (1, 33), (1, 512), (9,), (0,)])
def test_numbers_are_the_same(bias, shape):
    model = layer(bias=bias)
    given = torch.randn(*shape, IN)
    with torch.inference_mode():
        straight = model(given)
        fit_onednn(model)
        found = model(given)

    assert type(model[0]) is OneDNNLinear
    assert found.shape == straight.shape
    assert found.is_contiguous()
    assert torch.allclose(found, straight, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_rows", [1, 12])
def test_input_may_lie_in_any_way(num_rows):
    model = layer()
    given = torch.randn(IN, 13)[:, :num_rows].t()[None]
    with torch.inference_mode():
        straight = model(given)
        fit_onednn(model)
        assert torch.allclose(model(given), straight, rtol=1e-5, atol=1e-5)


def test_a_row_is_the_same_wherever_it_lies():
    """What fixed shapes (`inference.engine.fixed`) live by."""
    model = layer()
    fit_onednn(model)
    given = torch.randn(1, 16, IN)
    order = torch.randperm(16)
    with torch.inference_mode():
        assert torch.equal(model(given)[:, order], model(given[:, order]))


@pytest.mark.parametrize("size", [(IN, OUT), (4096, 256), (512, 2000)])
@pytest.mark.parametrize("num_rows", [1, 2, 7, 16, FEW_TOKENS])
def test_the_number_of_threads_changes_no_bit(num_rows, size):
    """What `inference.engine.threads` may choose by."""
    model, before = nn.Sequential(nn.Linear(*size, bias=False)), torch.get_num_threads()
    fit_onednn(model)
    given, found = torch.randn(1, num_rows, size[0]), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            with torch.inference_mode():
                found.append(model(given))
    finally:
        torch.set_num_threads(before)

    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("num_rows", [1, 32, 64, 512])
def test_rows_go_to_the_library_that_reads_on_all_threads(num_rows):
    model = layer()
    fit_onednn(model)
    with profile(activities=[ProfilerActivity.CPU]) as seen, torch.inference_mode():
        model(torch.randn(1, num_rows, IN))
    assert "mkldnn::_linear_pointwise" in {event.name for event in seen.events()}


def test_weights_stay_where_they_are():
    model = layer()
    before = model[0].weight.data_ptr(), set(model.state_dict())
    fit_onednn(model)
    assert (model[0].weight.data_ptr(), set(model.state_dict())) == before


@pytest.mark.parametrize(
    "kept", [layer(dtype=torch.bfloat16), layer(size=10)], ids=["another dtype", "small"]
)
def test_others_are_left_alone(kept):
    fit_onednn(kept)
    assert type(kept[0]) is nn.Linear

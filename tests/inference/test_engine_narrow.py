"""Products in bfloat16: near float32, each row its own, in one piece for siblings."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cosine_similarity

from inference.engine.linear.joined import JoinedLinear, product_of
from inference.engine.linear.narrow import NarrowProduct, is_faster
from inference.engine.linear.products import HAS_ONEDNN
from inference.engine.model import SlotModel
from inference.engine.steps.events import Segment
from inference.engine.steps.slots import SlotPlan
from tests.inference.tiny import made

needs_onednn = pytest.mark.skipif(not HAS_ONEDNN, reason="weights are put in blocks by oneDNN")
needs_instructions = pytest.mark.skipif(not is_faster(), reason="elsewhere it is not used")
IN, SIZES = 256, (320, 64, 33)
OF_A_LAYER = (
    ("self_attn", ("q_proj", "k_proj", "v_proj")),
    ("self_attn", ("o_proj",)),
    ("mlp", ("gate_proj", "up_proj")),
    ("mlp", ("down_proj",)),
)


def products(*, bias=False, dtype=torch.float32):
    torch.manual_seed(3)
    linears = [nn.Linear(IN, size, bias=bias and size != 64, dtype=dtype).eval() for size in SIZES]
    product = NarrowProduct(linears)
    return linears, [JoinedLinear(product, number) for number in range(len(SIZES))]


@needs_onednn
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("num_rows", [1, 2, 17])
@torch.inference_mode()
def test_layers_of_one_product_are_what_each_is(dtype, bias, num_rows):
    linears, narrow = products(bias=bias, dtype=dtype)
    given = torch.randn(1, num_rows, IN, dtype=dtype)
    for linear, own in zip(linears, narrow, strict=True):
        expected, found = linear(given), own(given)
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        assert cosine_similarity(found.float(), expected.float(), dim=-1).min() > 0.9999


@needs_onednn
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("num_rows", [1, 5])
@torch.inference_mode()
def test_what_is_added_is_added_in_float32(bias, num_rows):
    linear = nn.Linear(IN, 96, bias=bias)
    product = NarrowProduct([linear])
    given, rest = torch.randn(1, num_rows, IN), 1000 * torch.randn(1, num_rows, 96)
    before = rest.clone()
    torch.testing.assert_close(product.whole(given, rest) - product.whole(given), rest, rtol=1e-6, atol=1e-3)
    assert torch.equal(rest, before)


@needs_instructions
@pytest.mark.parametrize(("num_in", "num_out"), [(256, 320), (1024, 1536), (512, 96)])
@torch.inference_mode()
def test_a_row_is_bitwise_the_same_whatever_lies_beside_it(num_in, num_out):
    product = NarrowProduct([nn.Linear(num_in, num_out, bias=False)])
    given = torch.randn(16, num_in)
    given[3], given[5] = torch.nan, torch.inf
    together = product.whole(given)
    sane = [number for number in range(16) if number not in {3, 5}]
    assert not together[[3, 5]].isfinite().any()
    for number in sane:
        assert torch.equal(together[number], product.whole(given[number : number + 1])[0])
    assert torch.equal(together[sane], product.whole(given[sane]))


@needs_onednn
def test_a_layer_takes_its_products_in_one_piece():
    """And gives what it gives layer by layer."""
    model = made("llama")
    for layer in model.model.layers:
        for parent, names in OF_A_LAYER:
            own = layer.get_submodule(parent)
            product = NarrowProduct([getattr(own, name) for name in names])
            for number, name in enumerate(names):
                setattr(own, name, JoinedLinear(product, number))
    step = (Segment("a", 0, 0, tuple(range(3, 30)), True, ()), Segment("b", 1, 0, (5,), True, ()))
    usual = SlotModel(model, SlotPlan(2, 64, 0))
    found = usual.forward(step)[1]
    assert product_of(model.model.layers[0].self_attn.o_proj) is not None
    for each in (model.base_model, *model.base_model.layers):
        each.__dict__.pop("forward")
    torch.testing.assert_close(found, usual.forward(step)[1], rtol=1e-3, atol=1e-3)

"""`quantize = "int8"`: close to float32, each row its own, and refused where it does not apply."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cosine_similarity

from inference.engine.classes import ConfigRefused
from inference.engine.linear import int8
from inference.engine.linear.int8 import Int8Product, check_processor, check_quantisable, quantise
from inference.engine.linear.joined import JoinedLinear, product_of
from inference.engine.linear.levels import BLOCK, Levels, mixed, mixing
from inference.engine.linear.narrow import NarrowProduct
from inference.engine.model import LoneModel, step_model
from inference.engine.steps.events import Segment
from inference.engine.steps.slots import SlotPlan
from inference.engine.threads import CACHED_BYTES, fit_each_pass
from tests.inference.tiny import made

needs_vnni = pytest.mark.skipif(
    not torch.cpu._is_vnni_supported(), reason="int8 is refused on a processor without VNNI"
)
IN, OUT = 256, 320
NARROW = 192
"""Fewer than `IN`: such a layer rotates its input."""
FAMILIES = ("llama", "qwen2", "mistral", "gemma2", "phi3", "stablelm", "gpt_neox", "opt", "cohere2", "olmo2")


def kind_of(layer):
    return type(getattr(layer, "_product", layer))


def alone(linear):
    return JoinedLinear(Int8Product([linear], Levels()))


def layers(*, bias=False, dtype=torch.float32, out=OUT):
    torch.manual_seed(5)
    linear = nn.Linear(IN, out, bias=bias, dtype=dtype).eval()
    with torch.inference_mode():
        return linear, alone(linear)


@needs_vnni
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("num_rows", [1, 2, 16, 33])
@pytest.mark.parametrize("out", [OUT, NARROW])
@torch.inference_mode()
def test_it_is_close_to_the_layer(dtype, bias, num_rows, out):
    linear, quantised = layers(bias=bias, dtype=dtype, out=out)
    given = torch.randn(1, num_rows, IN, dtype=dtype)
    expected, found = linear(given), quantised(given)

    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    assert cosine_similarity(found.float(), expected.float(), dim=-1).min() > 0.999


@needs_vnni
@pytest.mark.parametrize("out", [OUT, NARROW])
@torch.inference_mode()
def test_no_rows_give_no_rows(out):
    """As `nn.Linear` does: an expert that no token goes to is given none."""
    linear, quantised = layers(out=out)
    given = torch.randn(1, 0, IN)
    assert quantised(given).shape == linear(given).shape


@needs_vnni
@pytest.mark.parametrize("out", [OUT, NARROW, NARROW - 3])
@torch.inference_mode()
def test_a_row_is_bitwise_the_same_whatever_lies_beside_it(out):
    _, quantised = layers(out=out)
    given = torch.randn(12, IN)
    given[3] *= 1e6
    given[5] = torch.nan
    given[7, 4] = torch.inf
    given[8, 4] = -torch.inf
    given[9] = 0
    given[10, 4] = 2e30
    together = quantised(given)

    for number in (0, 1, 2, 3, 4, 6, 9, 10, 11):
        assert torch.equal(together[number], quantised(given[number : number + 1])[0])
    assert not together[9].any()
    assert not together[[5, 7, 8]].isfinite().any(), "a broken row is seen, and only it"
    assert together[[0, 1, 2, 3, 4, 6, 9, 10, 11]].isfinite().all()
    for number in (5, 7, 8):
        assert not quantised(given[number : number + 1]).isfinite().any()


@needs_vnni
@pytest.mark.parametrize("num_rows", [1, 2, 17])
@torch.inference_mode()
def test_sums_of_the_largest_levels_are_exact(num_rows):
    """Instructions of 8 bits that join neighbours in 16 would cut these off."""
    linear = nn.Linear(IN, OUT, bias=False)
    linear.weight.fill_(127.0)
    linear.weight[:, 1::2] *= -1
    given = torch.full((num_rows, IN), 127.0)
    given[:, 1::2] *= -1
    quantised = alone(linear)
    assert torch.equal(quantised(given), torch.full((num_rows, OUT), IN * 127.0 * 127.0))
    assert torch.equal(quantised(given.abs()), torch.zeros(num_rows, OUT))


@needs_vnni
@torch.inference_mode()
def test_outliers_of_the_weights_keep_to_their_rows():
    linear, _ = layers()
    linear.weight[17] *= 1e4
    given = torch.randn(4, IN)
    expected, found = linear(given), alone(linear)(given)
    others = [number for number in range(OUT) if number != 17]
    assert cosine_similarity(found[:, others], expected[:, others], dim=-1).min() > 0.999


@needs_vnni
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_answers_nearly_as_in_float32(family):
    """Tiny layers round worst: 32 numbers to a sum. Real sizes: `bench engine --only int8`."""
    step = (Segment("a", 0, 0, tuple(range(3, 30)), samples=True),)
    exact = step_model(made(family), SlotPlan(2, 64, 0)).forward(step)[1]
    model = made(family)
    assert quantise(model) > 0
    found = step_model(model, SlotPlan(2, 64, 0)).forward(step)[1]

    assert found.isfinite().all()
    assert cosine_similarity(found, exact).item() > 0.98
    assert not torch.equal(found, exact)


@needs_vnni
@pytest.mark.parametrize("in_16_bits", [False, True])
def test_embeddings_stay_and_the_head_has_16_bits_at_least(in_16_bits, monkeypatch):
    """Though they are one weight, as here."""
    monkeypatch.setattr(int8, "is_faster", lambda: in_16_bits)
    model = made("llama")
    table, stored = model.model.embed_tokens.weight, model.model.embed_tokens.weight.clone()
    num_bytes = quantise(model)

    assert model.model.embed_tokens.weight is table
    assert torch.equal(table, stored)
    assert kind_of(model.lm_head) is (NarrowProduct if in_16_bits else nn.Linear)
    assert num_bytes == sum(each.num_bytes for each in model.modules() if isinstance(each, JoinedLinear))
    in_head = 2 * table.numel() if in_16_bits else 0
    assert num_bytes == 2 * (32 * 32 * 2 + 16 * 32 * 2 + 3 * 32 * 48) + in_head


@needs_vnni
def test_a_head_whose_weight_is_read_stays(monkeypatch):
    monkeypatch.setattr(int8, "is_faster", lambda: True)
    model = made("llama")
    forward = model.forward

    def reading(**inputs):
        out = forward(**inputs)
        out.logits = out.logits / model.lm_head.weight.norm()
        return out

    model.forward = reading
    quantise(model)
    assert kind_of(model.lm_head) is nn.Linear
    assert kind_of(model.model.layers[0].mlp.up_proj) is Int8Product


@needs_vnni
@pytest.mark.parametrize("in_16_bits", [False, True])
@pytest.mark.parametrize(("count", "num_whole"), [(5, 0), (6, 1), (24, 2), (40, 2)])
def test_the_first_layers_and_the_next_ones_attention_have_no_8_bits(
    count, num_whole, in_16_bits, monkeypatch
):
    """What they round off grows in all the others."""
    monkeypatch.setattr(int8, "is_faster", lambda: in_16_bits)
    config = made("llama").config
    config.num_hidden_layers = count
    model = type(made("llama"))(config).eval()
    quantise(model)
    is_in_8_bits = [kind_of(each.mlp.down_proj) is Int8Product for each in model.model.layers]
    attention = [kind_of(each.self_attn.o_proj) is Int8Product for each in model.model.layers]
    assert is_in_8_bits == [number >= num_whole for number in range(count)]
    assert attention == [number >= 3 * num_whole for number in range(count)]
    kinds = {
        kind_of(each) for each in model.model.layers.modules() if isinstance(each, nn.Linear | JoinedLinear)
    }
    first = {NarrowProduct if in_16_bits else nn.Linear} if num_whole else set()
    assert kinds == {Int8Product} | first


@needs_vnni
@torch.inference_mode()
def test_rotated_rows_of_few_large_numbers_lose_little():
    """A large number among small ones: what one scale would round away is kept where their block shares it."""
    linear, quantised = layers(out=NARROW)
    given = torch.randn(6, IN) * 0.03
    given[:, 7::BLOCK] = 4.0
    rounded = (given / (4 / 127)).round() * (4 / 127)
    lost, kept = ((linear(given) - each).norm() for each in (linear(rounded), quantised(given)))
    assert kept < lost


@pytest.mark.parametrize(("num", "block"), [(4096, 64), (11008, 64), (96, 32), (20, 4), (33, 1)])
def test_rotating_the_weight_as_well_changes_no_product(num, block):
    mix = mixing(num)
    rows, weight = torch.randn(3, num), torch.randn(5, num)
    assert len(mix) == block
    assert set(mix.abs().flatten().tolist()) == {1.0}
    torch.testing.assert_close(
        mixed(rows, mix) @ mixed(weight, mix / block).T, rows @ weight.T, rtol=1e-4, atol=1e-3
    )


@needs_vnni
@torch.inference_mode()
def test_layers_of_one_product_are_what_each_would_be_alone():
    """Whoever asks first, and asked for an input that the others are not given."""
    torch.manual_seed(7)
    linears = [nn.Linear(IN, size, bias=size != IN).eval() for size in (IN, 64, 3 * IN)]
    product = Int8Product(linears, Levels())
    together = [JoinedLinear(product, number) for number in range(3)]
    inputs = [torch.randn(1, count, IN) for count in (1, 5, 5)]
    for order in ((0, 1, 2), (2, 0, 1), (1, 1, 0)):
        for given in inputs:
            for number in order:
                found = together[number](given)
                assert found.shape == (1, given.shape[1], linears[number].out_features)
                assert cosine_similarity(found, linears[number](given), dim=-1).min() > 0.999
                assert torch.equal(found, together[number](given.clone()))


@needs_vnni
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("num_rows", [0, 1, 4])
@pytest.mark.parametrize("out", [OUT, NARROW])
@torch.inference_mode()
def test_a_sum_made_along_the_way_is_the_sum(bias, num_rows, out):
    _, quantised = layers(bias=bias, out=out)
    given, rest = torch.randn(1, num_rows, IN), torch.randn(1, num_rows, out)
    before = rest.clone()
    found = product_of(quantised).whole(given, rest)
    torch.testing.assert_close(found, quantised(given) + rest, rtol=1e-6, atol=1e-5)
    assert torch.equal(rest, before)


@needs_vnni
@torch.inference_mode()
def test_one_row_of_any_size_has_the_bits_it_has_among_others():
    """One alone is divided by the product itself, and has its scale as a number."""
    _, quantised = layers()
    given = torch.randn(64, IN) * torch.logspace(-44, 29, 64)[:, None]
    together = quantised(given)
    assert together.isfinite().all()
    assert torch.equal(together, torch.cat([quantised(row[None]) for row in given]))


@needs_vnni
@torch.inference_mode()
def test_a_product_is_asked_for_by_all_its_layers_in_their_order():
    linears = [nn.Linear(IN, size) for size in (IN, 64, 32)]
    product = Int8Product(linears, Levels())
    first, second, third = (JoinedLinear(product, number) for number in range(3))
    assert product_of(first, second, third) is product
    for others in (
        (first, third, second),
        (first, second),
        (first,),
        (first, second, alone(linears[2])),
        linears,
    ):
        assert product_of(*others) is None
    third.forward = third.forward
    assert product_of(first, second, third) is None, "it may leave out rows"


@needs_vnni
@torch.inference_mode()
def test_layers_share_what_they_are_given_and_nothing_else():
    linear, lone = layers()
    levels = Levels()
    first, second = (JoinedLinear(Int8Product([linear], levels)) for _ in range(2))
    for given in (torch.randn(3, IN), torch.randn(3, IN)):
        assert torch.equal(first(given), lone(given))
        assert torch.equal(second(given), lone(given))


@needs_vnni
def test_siblings_are_computed_together():
    model = made("llama")
    quantise(model)
    attention, mlp = model.model.layers[0].self_attn, model.model.layers[0].mlp
    assert attention.q_proj._product is attention.k_proj._product is attention.v_proj._product
    assert mlp.gate_proj._product is mlp.up_proj._product
    assert (
        len({id(each._product) for each in (attention.q_proj, attention.o_proj, mlp.up_proj, mlp.down_proj)})
        == 4
    )


@needs_vnni
def test_nothing_of_an_input_is_kept_once_all_have_theirs():
    model = made("llama")
    quantise(model)
    step_model(model, SlotPlan(2, 64, 0)).forward((Segment("a", 0, 0, tuple(range(3, 30)), samples=True),))
    products = {each._product for each in model.modules() if isinstance(each, JoinedLinear)}
    assert products
    assert all(each._input is None and not each._parts for each in products)


@needs_vnni
def test_packed_weights_count_as_weights_for_the_threads():
    with torch.inference_mode():
        quantised = alone(nn.Linear(8, 8, bias=False))
    quantised.num_bytes = CACHED_BYTES + 1
    seen = []

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = quantised

        def forward(self, input_ids):
            seen.append((torch.get_num_threads(), input_ids.numel()))

    before, model = torch.get_num_threads(), Model()
    fit_each_pass(model, 2, measured=False)
    try:
        model(input_ids=torch.zeros(1, 1, dtype=torch.long))
    finally:
        torch.set_num_threads(before)
    assert seen == [(2, 1)]


@pytest.mark.parametrize("family", ["gpt2", "qwen3_moe", "bert"])
def test_models_that_gain_nothing_are_refused(family):
    with pytest.raises(ConfigRefused) as refused:
        check_quantisable(made(family))
    assert refused.value.code == "cannot_quantize"
    assert "quantize" in refused.value.next_step


ROUTED = {"num_local_experts": 2, "intermediate_size_mlp": 64, "head_dim": 8, "interleave_moe_layer_step": 4}


@pytest.mark.parametrize("family", ["mamba", "rwkv"])
def test_a_model_that_reads_its_layers_weights_itself_is_refused(family):
    model = made(family)
    layers = [each for each in model.modules() if isinstance(each, nn.Linear)]
    with pytest.raises(ConfigRefused, match="reads the weights"):
        check_quantisable(model)
    with pytest.raises(ConfigRefused, match="reads the weights"), torch.device("meta"):
        check_quantisable(type(model)(model.config))
    assert [each for each in model.modules() if isinstance(each, nn.Linear)] == layers, "all are back"


@needs_vnni
def test_a_layer_that_gives_something_else_than_a_product_stays():
    """Llama 4's router is an `nn.Linear` by inheritance and gives two tensors; Falcon's layers are products."""
    step = (Segment("a", 0, 0, tuple(range(3, 30)), samples=True),)
    exact = LoneModel(made("llama4_text", num_hidden_layers=4, **ROUTED)).forward(step)[1]
    model = made("llama4_text", num_hidden_layers=4, **ROUTED)
    check_quantisable(model)
    quantise(model)
    found = LoneModel(model).forward(step)[1]
    falcon = made("falcon")

    assert cosine_similarity(found, exact).item() > 0.98
    assert quantise(falcon) > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_the_others_are_not(family):
    with torch.device("meta"):
        check_quantisable(type(made(family))(made(family).config))


def test_a_gpu_is_refused():
    with pytest.raises(ConfigRefused, match="cuda:0"):
        check_processor("cuda:0")

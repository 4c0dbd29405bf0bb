"""`quantize = "int8"`: close to float32, each row its own, and refused where it does not apply."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cosine_similarity

from inference.engine.classes import ConfigRefused
from inference.engine.events import Segment
from inference.engine.int8 import (
    MIDDLE,
    OUT_OF_REACH,
    Int8Linear,
    Levels,
    check_processor,
    check_quantisable,
    quantise,
    two_levels,
)
from inference.engine.model import step_model
from inference.engine.slots import SlotPlan
from inference.engine.threads import CACHED_BYTES, fit_each_pass
from tests.inference.tiny import made

needs_vnni = pytest.mark.skipif(
    not torch.cpu._is_vnni_supported(), reason="int8 is refused on a processor without VNNI"
)
IN, OUT = 256, 320
NARROW = 192
"""Fewer than `IN`: such a layer puts its input into two levels."""
FAMILIES = ("llama", "qwen2", "mistral", "gemma2", "phi3", "stablelm", "gpt_neox", "opt", "cohere2", "olmo2")


def layers(*, bias=False, dtype=torch.float32, out=OUT):
    torch.manual_seed(5)
    linear = nn.Linear(IN, out, bias=bias, dtype=dtype).eval()
    with torch.inference_mode():
        return linear, Int8Linear(linear)


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
@pytest.mark.parametrize("out", [OUT, NARROW, NARROW - 3])
@torch.inference_mode()
def test_a_row_is_bitwise_the_same_whatever_lies_beside_it(out):
    _, quantised = layers(out=out)
    given = torch.randn(12, IN)
    given[3] *= 1e6
    given[5] = torch.nan
    given[7, 4] = torch.inf
    given[8, 4] = 2 * OUT_OF_REACH
    given[9] = 0
    together = quantised(given)

    for number in (0, 1, 2, 3, 4, 6, 9, 10, 11):
        assert torch.equal(together[number], quantised(given[number : number + 1])[0])
    assert not together[9].any()
    assert together[[5, 7, 8]].isnan().all(), "a broken row is seen, and only it"


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
    assert torch.equal(Int8Linear(linear)(given), torch.full((num_rows, OUT), IN * 127.0 * 127.0))
    assert torch.equal(Int8Linear(linear)(given.abs()), torch.zeros(num_rows, OUT))


@needs_vnni
@torch.inference_mode()
def test_outliers_of_the_weights_keep_to_their_rows():
    linear, _ = layers()
    linear.weight[17] *= 1e4
    given = torch.randn(4, IN)
    expected, found = linear(given), Int8Linear(linear)(given)
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
def test_head_and_embeddings_stay():
    model = made("llama")
    head, table = model.lm_head.weight.data_ptr(), model.model.embed_tokens.weight.data_ptr()
    num_bytes = quantise(model)

    assert (model.lm_head.weight.data_ptr(), model.model.embed_tokens.weight.data_ptr()) == (head, table)
    assert num_bytes == sum(each.num_bytes for each in model.modules() if isinstance(each, Int8Linear))
    assert num_bytes == 2 * (32 * 32 * 2 + 16 * 32 * 2 + 3 * 32 * 48)


@needs_vnni
@pytest.mark.parametrize(("count", "num_whole"), [(5, 0), (6, 1), (24, 2), (40, 2)])
def test_the_first_layers_stay_and_the_next_ones_attention(count, num_whole):
    """What they round off grows in all the others."""
    config = made("llama").config
    config.num_hidden_layers = count
    model = type(made("llama"))(config).eval()
    quantise(model)
    is_stored = [isinstance(each.mlp.down_proj, nn.Linear) for each in model.model.layers]
    attention = [isinstance(each.self_attn.o_proj, nn.Linear) for each in model.model.layers]
    assert is_stored == [number < num_whole for number in range(count)]
    assert attention == [number < 2 * num_whole for number in range(count)]


@needs_vnni
@torch.inference_mode()
def test_an_input_in_two_levels_loses_hardly_anything():
    """One large number in a row of small ones: what one scale of 8 bits rounds away, the second level keeps."""
    rows = torch.randn(3, IN) * 0.01
    rows[:, 7] = 100.0
    coarse, fine, scales = two_levels(rows)
    again = (coarse.float() + fine.float() / MIDDLE) * scales

    assert (again - rows).abs().max() <= 100 / 127 / 254 / 2 * 1.01
    assert not coarse[:, :7].any(), "eight bits alone would have nothing of these"
    assert fine.abs().max() <= 127


@needs_vnni
@torch.inference_mode()
def test_layers_share_what_they_are_given_and_nothing_else():
    linear, alone = layers()
    levels = Levels()
    first, second = Int8Linear(linear, levels), Int8Linear(linear, levels)
    for given in (torch.randn(3, IN), torch.randn(3, IN)):
        assert torch.equal(first(given), alone(given))
        assert torch.equal(second(given), alone(given))


@needs_vnni
def test_packed_weights_count_as_weights_for_the_threads():
    with torch.inference_mode():
        quantised = Int8Linear(nn.Linear(8, 8, bias=False))
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


@pytest.mark.parametrize("family", FAMILIES)
def test_the_others_are_not(family):
    with torch.device("meta"):
        check_quantisable(type(made(family))(made(family).config))


def test_a_gpu_is_refused():
    with pytest.raises(ConfigRefused, match="cuda:0"):
        check_processor("cuda:0")

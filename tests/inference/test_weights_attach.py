"""Weights: every expected tensor is filled once from the landing, without a copy where none is needed."""

import threading
import time

import pytest
import torch

from inference.engine.attach.filling import AttachError, _empty, _place, filled
from inference.engine.attach.weights import attach
from inference.engine.classes import class_of, config_of
from inference.engine.model import SLOT_FAMILIES
from tests.inference.tiny import (
    config_values,
    extent_bytes,
    facts_of,
    landed_model,
    landing_of,
    made,
    revision_of,
    stored_tensors,
)
from weights_cache.memory.view import LandingError, open_landing
from weights_cache.model.plan import MappedFile

FAMILIES = [
    "llama",
    "qwen2",
    "qwen3",
    "mistral",
    "gpt2",
    "gemma",
    "gemma2",
    "gemma3_text",
    "phi",
    "phi3",
    "gpt_neox",
]
IDS = torch.tensor([[5, 9, 3, 44, 17]])


def attached(model, landing, *, dtype="auto", gated=False, kind="generate"):
    config = config_of(model.config.to_dict())
    return attach(landing.revision, landing, class_of(config, kind), config, dtype=dtype, gated=gated)


def logits(model):
    with torch.inference_mode():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize("num_shards", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_the_saved_model_bit_for_bit(family, num_shards):
    model = made(family)
    _, landing, _ = landed_model(model, num_shards)
    found = attached(model, landing)
    assert found.copied_bytes == 0
    assert found.gates is None
    assert torch.equal(logits(found.model), logits(model))
    assert not [name for name, part in found.model.named_buffers() if part.is_meta]


def state_of(model):
    parts = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {name: (part.data_ptr() if part.nbytes else 0, part.shape, part.dtype) for name, part in parts}


@pytest.mark.parametrize("family", sorted(SLOT_FAMILIES))
def test_tensors_put_in_their_places_make_the_model_that_from_pretrained_makes(family, monkeypatch):
    model = made(family)
    config = config_of(model.config.to_dict())
    held = dict(model.named_buffers(remove_duplicate=False))
    asked = (class_of(config, "generate"), config, stored_tensors(model), torch.float32)
    wanted = filled(*asked, straight=False)
    monkeypatch.setattr(type(wanted), "from_pretrained", None)  # not asked: it goes the short way
    found = filled(*asked)
    weights = wanted.state_dict(keep_vars=True)
    assert {name: part for name, part in state_of(found).items() if name in weights} == {
        name: part for name, part in state_of(wanted).items() if name in weights
    }
    buffers = dict(found.named_buffers(remove_duplicate=False))
    assert buffers.keys() == held.keys()
    assert all(torch.equal(part, held[name]) for name, part in buffers.items())
    assert not any(part.training for part in found.modules())
    assert torch.equal(logits(found), logits(wanted))


def test_only_what_holds_nothing_to_initialise_is_passed_over():
    given = made("llama")
    config = config_of(given.config.to_dict())
    model = _empty(class_of(config, "generate"), config, torch.float32)
    model.model.layers[0].mlp.kept = torch.ones(1)
    _place(model, stored_tensors(given))
    done = {name for name, part in model.named_modules() if "_is_hf_initialized" in vars(part)}
    assert {"model.layers.1", "model.layers.0.self_attn", "model.layers.0.mlp.up_proj"} <= done
    assert (
        not {"", "model", "model.layers", "model.layers.0", "model.layers.0.mlp", "model.rotary_emb"} & done
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_as_it_is_stored(dtype):
    model = made("llama", dtype=dtype)
    _, landing, _ = landed_model(model)
    found = attached(model, landing)
    assert (found.copied_bytes, found.model.dtype) == (0, dtype)
    assert torch.equal(logits(found.model), logits(model))


def test_a_conversion_is_counted():
    model = made("llama", dtype=torch.bfloat16)
    _, landing, _ = landed_model(model)
    found = attached(model, landing, dtype="float32", gated=True)
    assert found.gates is None
    assert found.copied_bytes == sum(tensor.numel() * 4 for tensor in stored_tensors(model).values())
    assert torch.equal(logits(found.model), logits(model.float()))


def test_ties_are_one_tensor():
    model = made("llama")
    _, landing, _ = landed_model(model)
    found = attached(model, landing).model
    assert found.lm_head.weight.data_ptr() == found.model.embed_tokens.weight.data_ptr()


@pytest.mark.parametrize("same", [True, False])
def test_a_tied_pair_that_is_stored_twice_is_compared_first(same):
    model = made("llama")
    tensors = stored_tensors(model)
    head = tensors["model.embed_tokens.weight"].clone() if same else torch.randn(97, 32)
    revision, blobs = revision_of([tensors | {"lm_head.weight": head}], facts_of(model))
    found = attached(model, landing_of(revision, blobs), gated=True)
    assert found.gates is None
    assert torch.equal(found.model.lm_head.weight, head)


def test_extra_tensors_are_not_used():
    model = made("gpt2")
    tensors = stored_tensors(model) | {"transformer.h.0.attn.bias": torch.ones(1, 1, 8, 8, dtype=torch.bool)}
    revision, blobs = revision_of([tensors], facts_of(model))
    assert torch.equal(logits(attached(model, landing_of(revision, blobs)).model), logits(model))


def test_a_missing_tensor_is_refused():
    model = made("llama")
    tensors = stored_tensors(model)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    revision, blobs = revision_of([tensors], facts_of(model))
    with pytest.raises(AttachError, match="up_proj") as caught:
        attached(model, landing_of(revision, blobs))
    assert caught.value.code == "missing_tensors"


def test_a_wrong_shape_is_refused():
    model = made("llama")
    tensors = stored_tensors(model) | {"model.norm.weight": torch.ones(31)}
    revision, blobs = revision_of([tensors], facts_of(model))
    with pytest.raises(AttachError) as caught:
        attached(model, landing_of(revision, blobs))
    assert caught.value.code == "bad_weights"


def test_experts_are_merged_and_counted():
    model = made("qwen3_moe")
    values = {}
    for name, tensor in stored_tensors(model).items():
        if name.endswith("experts.gate_up_proj"):
            stem = name.removesuffix("gate_up_proj")
            for number, expert in enumerate(tensor):
                gate, up = expert.chunk(2, dim=0)
                values[f"{stem}{number}.gate_proj.weight"] = gate.contiguous()
                values[f"{stem}{number}.up_proj.weight"] = up.contiguous()
        elif name.endswith("experts.down_proj"):
            stem = name.removesuffix("down_proj")
            values |= {
                f"{stem}{number}.down_proj.weight": expert.contiguous()
                for number, expert in enumerate(tensor)
            }
        else:
            values[name] = tensor
    revision, blobs = revision_of([values], facts_of(model))
    found = attached(model, landing_of(revision, blobs), gated=True)
    assert found.copied_bytes > 0
    assert found.gates is None
    assert torch.equal(logits(found.model), logits(model))


def test_an_unaligned_tensor_is_copied():
    model = made("llama")
    tensors = {"a": torch.ones(3, dtype=torch.uint8)}
    revision, blobs = revision_of([tensors | stored_tensors(model)], facts_of(model))
    found = attached(model, landing_of(revision, blobs), gated=True)
    assert torch.equal(logits(found.model), logits(model))


class TestGates:
    def test_layers_run_as_their_bytes_land(self):
        model = made("llama", num_hidden_layers=4, tie_word_embeddings=False)
        revision, landing, blobs = landed_model(model, 2, landed=False)
        found = attached(model, landing, gated=True)
        assert found.gates.num_closed == 1 + 4 + 2
        result = []
        running = threading.Thread(target=lambda: result.append(logits(found.model)))
        running.start()
        for number in range(len(revision.extents)):
            time.sleep(0.005)
            assert not result
            landing.land(number, extent_bytes(revision, blobs, number))
        running.join()
        assert torch.equal(result[0], logits(model))
        assert found.gates.num_closed == 0
        assert found.gates.waited_ms > 0
        num_waits = landing.num_waits
        logits(found.model)
        assert landing.num_waits == num_waits

    def test_nothing_waits_for_a_later_layer(self):
        model = made("llama", num_hidden_layers=3, tie_word_embeddings=False)
        revision, landing, blobs = landed_model(model, landed=False)
        found = attached(model, landing, gated=True)
        ran = []
        for number, layer in enumerate(found.model.model.layers):
            layer.register_forward_hook(lambda *_, number=number: ran.append(number))
        running = threading.Thread(target=lambda: logits(found.model))
        running.start()
        for number, extent in enumerate(revision.extents):
            if extent.layer <= 1:
                landing.land(number, extent_bytes(revision, blobs, number))
        time.sleep(0.2)
        assert ran == [0, 1]
        for number in range(len(revision.extents)):
            landing.land(number, extent_bytes(revision, blobs, number))
        running.join()
        assert ran == [0, 1, 2]

    @pytest.mark.parametrize("family", ["qwen3", "gpt2", "gemma3_text", "gpt_neox", "phi"])
    def test_every_family_waits_for_all_it_uses(self, family):
        model = made(family)
        revision, landing, blobs = landed_model(model, 2, landed=False)
        found = attached(model, landing, gated=True)
        assert found.gates is not None
        for number in reversed(range(len(revision.extents))):
            landing.buffer[:] = bytes(landing.buffer)
            landing.land(number, extent_bytes(revision, blobs, number))
        assert torch.equal(logits(found.model), logits(model))
        assert found.gates.num_closed == 0

    def test_a_failed_extent_ends_the_pass(self):
        model = made("llama")
        revision, landing, blobs = landed_model(model, landed=False)
        found = attached(model, landing, gated=True)
        for number in range(len(revision.extents) - 1):
            landing.land(number, extent_bytes(revision, blobs, number))
        landing.fail(len(revision.extents) - 1)
        with pytest.raises(LandingError):
            logits(found.model)


def test_the_real_view_of_a_landing_fits():
    model = made("mistral")
    revision, landing, _ = landed_model(model, 2)
    view = open_landing(revision, *landing.fds)
    config = config_of(config_values("mistral"))
    found = attach(revision, view, class_of(config, "generate"), config, dtype="auto", gated=True)
    assert torch.equal(logits(found.model), logits(model))
    assert found.gates.num_closed == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_a_view_of_mapped_files_gives_the_same_bits_without_a_copy(family, tmp_path):
    """The files as the store of this host hands them over: one mapped, from the middle of a blob, one landed."""
    model = made(family)
    revision, landing, blobs = landed_model(model, 2)
    path = tmp_path / "blob"
    path.write_bytes(bytes(123 * 64) + blobs[1])
    data_start = min(tensor.offset for tensor in revision.tensors if tensor.file == 1)
    mapped = MappedFile(1, 123 * 64 + data_start)
    with path.open("rb") as file:
        view = open_landing(revision, *landing.fds, (mapped,), (file.fileno(),))
    config = config_of(model.config.to_dict())
    found = attach(revision, view, class_of(config, "generate"), config, dtype="auto", gated=False)

    assert found.copied_bytes == 0
    assert torch.equal(logits(found.model), logits(model))

"""Weights on a device: bit for bit those of the model, however late the copies are, and one fault ends it all."""

import threading
import time
from types import SimpleNamespace

import pytest
import torch

from inference.engine.attach.filling import AttachError
from inference.engine.classes import class_of, config_of
from inference.engine.gpu import copier as copier_module
from inference.engine.gpu.attach import DeviceGates, attach_on
from inference.engine.gpu.copier import Copier
from inference.engine.gpu.device import DeviceError
from inference.engine.gpu.ring import Part, Ring, sends
from inference.engine.gpu.ring_fill import Filler
from tests.inference.late_device import LateDevice, Mark, overlap, span
from tests.inference.test_weights_attach import FAMILIES, logits
from tests.inference.tiny import (
    extent_bytes,
    facts_of,
    landed_model,
    landing_of,
    made,
    revision_of,
    stored_tensors,
)
from weights_cache.memory.view import LandingError

SMALL = Ring(2, 1024)
"""So small that every tensor of a tiny model is cut and every slot is used many times."""


def put_on(device, model, landing, *, dtype="auto", gated=False, kind="generate"):
    config = config_of(model.config.to_dict())
    model_class = class_of(config, kind)
    return attach_on(
        device, landing.revision, landing, model_class, config, dtype=dtype, gated=gated, ring=SMALL
    )


def is_elsewhere(model, landing):
    """No weight lies in the landing: the device's memory is its own."""
    host = range(
        start := torch.frombuffer(landing.buffer, dtype=torch.uint8).data_ptr(), start + len(landing.buffer)
    )
    return not any(overlap(span(weight), host) for weight in model.state_dict().values())


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("family", [*FAMILIES, "qwen3_moe", "gpt_oss", "opt"])
def test_logits_are_those_of_the_saved_model_bit_for_bit(family, gated):
    model = made(family)
    _, landing, _ = landed_model(model, 2)
    device = LateDevice()
    found = put_on(device, model, landing, gated=gated)
    assert (found.gates is not None) == gated
    assert is_elsewhere(found.model, landing)
    assert torch.equal(logits(found.model), logits(model))
    stored_bytes = sum(tensor.nbytes for tensor in stored_tensors(model).values())
    assert found.copier.num_bytes == device.copied_bytes == stored_bytes
    assert device.pinned_bytes == SMALL.num_slots * SMALL.slot_bytes
    assert not [name for name, part in found.model.named_buffers() if part.is_meta]


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_a_dtype_is_converted_on_the_device(stored, gated):
    model = made("qwen3", dtype=stored)
    _, landing, _ = landed_model(model)
    device = LateDevice()
    found = put_on(device, model, landing, dtype="float32", gated=gated)
    assert found.copied_bytes == 0, "nothing is converted on the host"
    places = sum(-(-weight.nbytes // 256) * 256 for weight in found.model.parameters())
    assert device.device_bytes <= places + SMALL.num_slots * SMALL.slot_bytes, "a second copy of the weights"
    assert {weight.dtype for weight in found.model.parameters()} == {torch.float32}
    assert torch.equal(logits(found.model), logits(model.float()))
    assert found.copier.num_bytes == sum(tensor.nbytes for tensor in stored_tensors(model).values()) // 2


def test_ties_are_one_tensor():
    model = made("llama")
    _, landing, _ = landed_model(model)
    found = put_on(LateDevice(), model, landing).model
    assert found.lm_head.weight is found.model.embed_tokens.weight


@pytest.mark.parametrize("same", [True, False])
def test_a_tied_pair_that_is_stored_twice_is_compared_first(same):
    model = made("llama")
    tensors = stored_tensors(model)
    head = tensors["model.embed_tokens.weight"].clone() if same else torch.randn(97, 32)
    revision, blobs = revision_of([tensors | {"lm_head.weight": head}], facts_of(model))
    landing = landing_of(revision, blobs)
    found = put_on(LateDevice(), model, landing, gated=True)
    assert found.gates is None
    assert is_elsewhere(found.model, landing)
    assert torch.equal(found.model.lm_head.weight, head)


def test_unaligned_and_unused_tensors_do_no_harm():
    model = made("gpt2")
    tensors = {"a": torch.ones(3, dtype=torch.uint8)} | stored_tensors(model)
    revision, blobs = revision_of([tensors], facts_of(model))
    found = put_on(LateDevice(), model, landing_of(revision, blobs), gated=True)
    assert found.gates is not None, "the device's places are aligned, whatever the file's are"
    assert torch.equal(logits(found.model), logits(model))


def test_experts_that_are_merged_are_made_on_the_host_first():
    model = made("qwen3_moe")
    values = {}
    for name, tensor in stored_tensors(model).items():
        stem, _, last = name.rpartition("experts.")
        if last == "gate_up_proj":
            for number, (gate, up) in enumerate(each.chunk(2, dim=0) for each in tensor):
                values[f"{stem}experts.{number}.gate_proj.weight"] = gate.contiguous()
                values[f"{stem}experts.{number}.up_proj.weight"] = up.contiguous()
        elif last == "down_proj":
            values |= {
                f"{stem}experts.{n}.down_proj.weight": each.contiguous() for n, each in enumerate(tensor)
            }
        else:
            values[name] = tensor
    revision, blobs = revision_of([values], facts_of(model))
    landing = landing_of(revision, blobs)
    found = put_on(LateDevice(), model, landing, gated=True)
    assert found.gates is None
    assert found.copied_bytes > 0
    assert is_elsewhere(found.model, landing)
    assert torch.equal(logits(found.model), logits(model))


def test_a_missing_tensor_is_refused_before_a_byte_is_here():
    model = made("llama")
    tensors = stored_tensors(model)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    revision, blobs = revision_of([tensors], facts_of(model))
    with pytest.raises(AttachError, match="up_proj"):
        put_on(LateDevice(), model, landing_of(revision, blobs, landed=False), gated=True)


def test_layers_run_as_their_bytes_come():
    """Nothing waits for a later layer, and nothing runs before its own is on the device."""
    model = made("llama", num_hidden_layers=3, tie_word_embeddings=False)
    revision, landing, blobs = landed_model(model, landed=False)
    found = put_on(LateDevice(), model, landing, gated=True)
    assert found.gates.num_closed == 1 + 3 + 2
    ran, result = {}, []
    changed = threading.Condition()

    def note(number):
        with changed:
            ran[number] = bytes(landing.ready)
            changed.notify_all()

    for number, layer in enumerate(found.model.model.layers):
        layer.register_forward_hook(lambda *_, number=number: note(number))
    running = threading.Thread(target=lambda: result.append(logits(found.model)))
    running.start()
    for last in (0, 1, 2):
        for number, extent in enumerate(revision.extents):
            if extent.layer == last or (extent.layer < 0 == last):
                landing.land(number, extent_bytes(revision, blobs, number))
        with changed:
            assert changed.wait_for(lambda: last in ran, 60)  # noqa: B023 - asked at once
        assert list(ran) == list(range(last + 1))
    assert not result
    for number in range(len(revision.extents)):
        landing.land(number, extent_bytes(revision, blobs, number))
    running.join()
    wanted = model.state_dict()
    assert all(torch.equal(weight, wanted[name]) for name, weight in found.model.state_dict().items())
    # weights that lie elsewhere are multiplied in another order by some processors' routines
    torch.testing.assert_close(result[0], logits(model), rtol=1e-5, atol=1e-5)
    assert found.gates.num_closed == 0
    assert found.gates.waited_ms > 0


@pytest.mark.parametrize("gated", [False, True])
def test_a_failed_extent_ends_the_start(gated):
    model = made("llama")
    _, landing, _ = landed_model(model)
    landing.fail(len(landing.ready) - 1)
    with pytest.raises(LandingError, match="extent"):
        logits(put_on(LateDevice(), model, landing, gated=gated).model)


@pytest.mark.parametrize("gated", [False, True])
def test_a_failed_copy_ends_the_start_with_one_error(gated):
    model = made("llama")
    _, landing, _ = landed_model(model)
    with pytest.raises(DeviceError, match="illegal memory access") as caught:
        logits(put_on(LateDevice(fault_after=20), model, landing, gated=gated).model)
    assert caught.value.code == "copy_failed"


def without_slot_waits(monkeypatch):
    """The host fills a slot that the device still reads."""
    monkeypatch.setattr(
        copier_module,
        "Filler",
        lambda ring, source, slots, read: Filler(ring, source, slots, [Mark() for _ in read]),
    )


def without_fill_waits(monkeypatch):
    """The device is told to copy a slot before the host has filled it."""
    monkeypatch.setattr(Copier, "_wait_fill", lambda self, slot, filler: None)


def without_stream_waits(monkeypatch):
    """A layer runs while its bytes are on their way."""
    monkeypatch.setattr(Mark, "wait", lambda self: None)
    monkeypatch.setattr(
        Copier,
        "_copy",
        lambda self, parts, filler: [self._take(step, filler) for step in sends(parts, SMALL)],
    )


def without_host_waits(monkeypatch):
    """A layer runs before its copies are even told."""
    monkeypatch.setattr(Copier, "wait_layer", lambda self, layer: self._marks.get(layer, Mark()).wait())
    monkeypatch.setattr(Copier, "start", lambda self, parts: None)


@pytest.mark.parametrize(
    "forget", [without_slot_waits, without_fill_waits, without_stream_waits, without_host_waits]
)
def test_each_wait_is_needed(monkeypatch, forget):
    """The test of the tests: leave one out, and the logits are not the model's."""
    model = made("llama")
    _, landing, _ = landed_model(model)
    forget(monkeypatch)
    found = put_on(LateDevice(), model, landing, gated=True)
    assert not torch.equal(logits(found.model), logits(model))


def test_a_module_waits_for_the_last_layer_of_its_weights():
    """A name may put a module's tensors in several layers of the plan."""
    asked = []
    copier = SimpleNamespace(wait_layer=asked.append)
    parts = [Part(n, layer, tensor, 0, 0, 8) for n, (layer, tensor) in enumerate([(0, 0), (2, 1), (2, 0)])]
    model = torch.nn.Linear(2, 2)
    gates = DeviceGates(model, {"weight": 0, "bias": 1}, parts, copier)
    for _ in range(2):
        model(torch.ones(2))
    assert asked == [2]
    assert gates.num_closed == 0


def test_the_figures_leave_out_the_wait_for_bytes():
    model = made("llama")
    revision, landing, blobs = landed_model(model, landed=False)
    found = put_on(LateDevice(), model, landing, gated=True)
    assert found.copier.h2d_ms is None
    time.sleep(0.05)
    for number in range(len(revision.extents)):
        landing.land(number, extent_bytes(revision, blobs, number))
    logits(found.model)
    while found.copier.h2d_ms is None:
        time.sleep(0.001)
    assert found.copier.waited_ms > 0
    assert 0 < found.copier.h2d_ms < found.copier.total_ms

"""A whole engine on a pretended device: the same tokens, what the start cost, and every tensor where the model is."""

import threading

import pytest
import torch

from inference.devices import parse_device
from inference.engine import generation, process
from inference.engine.gpu.device import DeviceError, bring_up, open_device
from inference.engine.gpu.ring import Ring
from inference.engine.model import SlotModel
from inference.engine.steps.events import Segment
from inference.engine.steps.slots import SlotPlan
from inference.link import EngineLink, FrameReader, LinkError, frame_bytes, link_pair
from inference.spec import EngineSpec, SpecError
from inference.workers.loading import LoadReport
from tests.inference.late_device import LateDevice
from tests.inference.test_shell_fork import PROMPT, expected
from tests.inference.tiny import landed_model, made

ORDER = {"op": "add", "id": "a", "tokens": PROMPT, "max_tokens": 8, "temperature": 0.0}


def heard(device, landing, config, monkeypatch, orders=(ORDER, {"op": "stop"}), **spec):
    """All that an engine on `device` says to `orders`."""
    monkeypatch.setattr(process, "open_device", lambda name: device)
    monkeypatch.setattr(process, "fit", lambda *_: pytest.fail("that is for passes on the CPU"))
    node, ours = link_pair()
    value = {"revision": landing.revision.as_value(), "config": config, "device": "cuda:0", "max_slots": 2}
    link = EngineLink(ours)

    def run():
        try:
            with process.FatalReport(link):
                process._serve(EngineSpec.from_value(value | spec), landing.fds, link)
        except (DeviceError, LinkError):
            pass  # told over the link
        finally:
            ours.close()

    node.sendall(b"".join(map(frame_bytes, orders)))
    engine = threading.Thread(target=run)
    engine.start()
    frames, messages = FrameReader(), []
    with node:
        while data := node.recv(65536):
            messages += frames.receive(data)
    engine.join()
    return messages


@pytest.mark.parametrize("gated", [True, False])
def test_the_tokens_are_generates_and_the_copies_are_told(monkeypatch, gated):
    model = made("qwen3")
    revision, landing, _ = landed_model(model)
    messages = heard(LateDevice(), landing, model.config.to_dict(), monkeypatch, gated=gated)
    ready = messages[0]
    assert [t for m in messages if m["op"] == "tokens" for t in m["tokens"]] == expected(model, 8)
    assert (ready["op"], ready["gated"], ready["copied_bytes"]) == ("ready", gated, 0)
    assert ready["h2d_bytes"] == sum(tensor.length for tensor in revision.tensors)
    assert set(ready["phases"]) == {"context", "attach", "wait", "warm", "h2d"}
    assert all(ms >= 0 for ms in ready["phases"].values())
    assert (ready["phases"]["h2d"] > 0) != gated, "a gated start does not wait for the copies"
    report = LoadReport(h2d_bytes=ready["h2d_bytes"], h2d_ms=ready["phases"]["h2d"] or None)
    for message in messages:
        report.note_stats(message)
    assert report.device()["h2d_ms"] > 0, "the copies of a gated start are told later"


def test_the_copies_are_told_before_the_first_request_ends(monkeypatch):
    monkeypatch.setattr(generation, "STATS_S", 2e6)  # what a short answer needs is not left to them
    model = made("qwen3")
    _, landing, _ = landed_model(model)
    messages = heard(LateDevice(), landing, model.config.to_dict(), monkeypatch, gated=True)
    told = [number for number, message in enumerate(messages) if "h2d_ms" in message]
    ended = [number for number, message in enumerate(messages) if message["op"] == "done"]
    assert len(told) == len(ended) == 1
    assert told < ended


def test_a_failed_copy_is_one_clear_last_message(monkeypatch):
    model = made("llama")
    _, landing, _ = landed_model(model)
    last = heard(LateDevice(fault_after=0), landing, model.config.to_dict(), monkeypatch)[-1]
    assert (last["op"], last["code"]) == ("fatal", "copy_failed")
    assert "illegal memory access" in last["message"]


@pytest.mark.parametrize("free_bytes", [0, 700 << 20])
def test_a_device_that_is_full_is_one_clear_error_before_the_load(monkeypatch, free_bytes):
    model, device = made("llama"), LateDevice(free_bytes=free_bytes)
    _, landing, _ = landed_model(model)
    (last,) = heard(
        device, landing, model.config.to_dict(), monkeypatch, orders=()
    )  # it ends without reading any
    assert (last["op"], last["code"]) == ("fatal", "device_memory_full")
    assert f"has {free_bytes:,} bytes free" in last["message"]
    assert device.device_bytes == 0, "nothing was taken"


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "gemma3_text", "qwen2"])
def test_every_tensor_of_a_step_is_where_the_model_is(family):
    """torch's `meta` device computes nothing and refuses tensors of another device, as a GPU does."""
    model = SlotModel(made(family).to("meta"), SlotPlan(4, 64, 0))
    for step in (
        (Segment("a", 0, 0, (5, 9, 3), samples=True), Segment("b", 1, 0, tuple(range(12)), samples=False)),
        (Segment("a", 0, 3, (5,), samples=True), Segment("b", 1, 12, (7,), samples=True)),
    ):
        layout, logits = model.compute(step)
        assert logits.device.type == "meta"
        assert logits.shape == (len(layout.sampled_ids), 97)


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is one")
def test_a_device_that_is_not_here_is_one_clear_error():
    with pytest.raises(DeviceError, match="cuda:0 cannot be used") as caught:
        open_device("cuda:0")
    assert caught.value.code == "device_unavailable"
    assert bring_up("cuda:0") == caught.value.message


def test_a_spare_has_pinned_its_ring_before_it_knows_its_model(monkeypatch):
    late = LateDevice()
    monkeypatch.setattr("inference.engine.gpu.device.Cuda", lambda name: late)
    assert bring_up("cuda:0") == ""
    assert late.pinned_bytes == Ring().num_slots * Ring().slot_bytes


def test_the_cpu_is_no_device():
    assert open_device("cpu") is None
    assert bring_up("cpu") == ""


@pytest.mark.parametrize("name", ["cpu", "cuda:0", "cuda:7", "cuda:63"])
def test_a_device_has_a_name(name):
    assert parse_device(name) == name
    assert EngineSpec.from_value({"revision": {}, "config": {}, "device": name}).device == name


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("cuda", "cuda:0"),
        ("gpu", "cuda:0"),
        ("GPU1", "cuda:1"),
        ("cuda:64", "cuda:0"),
        ("cuda:01", "cuda:1"),
        ("cuda:-1", "cuda:1"),
        ("CPU", "cpu"),
        ("", "cpu"),
        ("cuda:0\n", "cuda:0"),
        ("2" * 5000, "cuda:0"),
    ],
)
def test_another_one_is_refused_with_what_was_meant(wrong, meant):
    with pytest.raises(ValueError, match=f'did you mean "{meant}"'):
        parse_device(wrong)
    with pytest.raises(SpecError, match=meant):
        EngineSpec.from_value({"revision": {}, "config": {}, "device": wrong})


def test_a_device_is_a_string():
    with pytest.raises(SpecError, match="string"):
        EngineSpec.from_value({"revision": {}, "config": {}, "device": 0})

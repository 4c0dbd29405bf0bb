"""On a real GPU: what the pretended one cannot show. `pytest -m gpu`; skipped where there is none."""

import asyncio
import dataclasses
from pathlib import Path

import pytest
import torch

from inference.engine.classes import class_of, config_of
from inference.engine.gpu.attach import attach_on
from inference.engine.gpu.device import Cuda, DeviceError
from inference.engine.gpu.norms import fuse_norms
from inference.engine.gpu.ring import Ring
from inference.workers.shell.link import ShellLink
from tests.inference.test_paged_kernels import check
from tests.inference.test_shell_fork import Engine, expected
from tests.inference.test_weights_attach import IDS, logits
from tests.inference.tiny import landed_model, made

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
GPU = "cuda:0"


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "qwen3_moe"])
def test_weights_arrive_bit_for_bit(family, gated, dtype):
    model = made(family)
    _, landing, _ = landed_model(model, 2)
    config = config_of(model.config.to_dict())
    found = attach_on(
        *(Cuda(GPU), landing.revision, landing, class_of(config, "generate"), config),
        dtype=dtype,
        gated=gated,
        ring=Ring(2, 4096),
    )
    with torch.inference_mode():
        out = found.model(input_ids=IDS.to(GPU)).logits.float().cpu()
    wanted = model.to(found.model.dtype)
    for name, weight in found.model.state_dict().items():
        assert weight.device == torch.device(GPU)
        assert torch.equal(weight.cpu(), wanted.state_dict()[name]), name
    torch.testing.assert_close(
        out, logits(wanted).float(), rtol=0.05, atol=0.5 if dtype == "bfloat16" else 0.01
    )


def test_a_model_that_does_not_fit_is_one_clear_error():
    with pytest.raises(DeviceError, match="bytes free") as caught:
        Cuda(GPU).empty(1 << 50)
    assert caught.value.code == "device_memory_full"


class There:
    """A device's kernels for tensors that are here."""

    def __init__(self, kernels):
        self.kernels = kernels

    def write(self, keys, values, pages, *places):
        moved = [each.to(GPU) for each in pages]
        self.kernels.write(keys.to(GPU), values.to(GPU), moved, *(each.to(GPU) for each in places))
        for here, there in zip(pages, moved, strict=True):
            here.copy_(there)

    def attend(self, tokens, pages, asked, out):
        fields = {each.name: getattr(asked, each.name) for each in dataclasses.fields(asked)}
        moved = {name: each.to(GPU) for name, each in fields.items() if isinstance(each, torch.Tensor)}
        found = out.to(GPU)
        there = tuple(each.to(GPU) for each in pages)
        self.kernels.attend(tokens.to(GPU), there, dataclasses.replace(asked, **moved), found)
        out.copy_(found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1, 64, 64), (2, 3, 80, 16), (8, 4, 128, 128), (1, 5, 256, 256)])
@pytest.mark.parametrize("rows", [[(700, 1), (3, 1), (0, 1)], [(30, 90), (0, 1), (0, 200)]])
@pytest.mark.parametrize("processors", [1, 132])
def test_the_kernels_as_compiled(dtype, shape, rows, processors):
    from inference.engine.gpu.kernels import TritonKernels

    made = {"dtype": dtype, "shape": shape, "rows": rows, "processors": processors, "seed": 1}
    for others in ((1000, None, False), (33, 3.0, True)):
        window, softcap, has_sinks = others
        more = {"window": window, "softcap": softcap, "has_sinks": has_sinks}
        check(There(TritonKernels(processors)), made | more)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss", "qwen3"])
def test_every_norm_is_one_launch(family, dtype):
    """Each of three ways to multiply, and of rows of heads: the classes' own numbers, but for roundings."""
    model = made(family).to(GPU, dtype)
    norms = [module for module in model.modules() if "RMSNorm" in type(module).__name__]
    rows = [torch.randn(2, 3, 5, len(norm.weight), device=GPU, dtype=dtype).transpose(1, 2) for norm in norms]
    with torch.inference_mode():
        wanted = [norm(each) for norm, each in zip(norms, rows, strict=True)]
        assert fuse_norms(model, Cuda(GPU).kernels()) == len(norms)
        found = [norm(each) for norm, each in zip(norms, rows, strict=True)]
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=4 * torch.finfo(dtype).eps, atol=1e-6)


def open_files(pid):
    return [str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir()]


async def test_a_spare_answers_and_the_shell_has_no_context(tmp_path):
    shell = await ShellLink.start(tmp_path, device=GPU, num_spares=1)
    try:
        for _ in range(3):  # with a spare, and perhaps bare: the answers are the same
            model = made("llama")
            _, landing, _ = landed_model(model, eos_token_ids=())
            engine = await Engine.fork(shell, landing, model.config.to_dict(), device=GPU)
            await engine.add("a")
            ready = await engine.until("ready")
            print({"fork_ms": engine.ms, **ready["phases"]})
            await engine.until("done", "a")
            assert engine.tokens("a") == expected(model, 8)
            await engine.link.send({"op": "stop"})
            assert await shell.exited(engine.pid) == 0
            await engine.close()
            await asyncio.sleep(5)  # the next spare comes up
        assert "/dev/nvidia-uvm" not in open_files(shell.pid), "CUDA was touched before the fork"
    finally:
        await shell.close()

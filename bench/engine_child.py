"""The engines of `bench engine`, each in a process of its own: `python -m bench.engine_child WHOSE ORDER FD`.

ORDER is JSON: {"model": folder or "tiny", "threads", "slots", "max_len", "pages", "deterministic", "quantize",
"eos_ids"} (the last three may be left out) for `ours`, which then speaks the engine's link over FD; {"model",
"threads", "runs": [[streams, prompt tokens, new tokens], ..]} for `theirs`, transformers' continuous batching, which
prints one line of JSON: the seconds of each run; {"model", "threads", "tokens"} for `cosine`, which prints how near the
logits in 8 bits are to those as stored.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from typing import TYPE_CHECKING, Any

import torch

from inference.engine.blocks import plan_blocks
from inference.engine.device import open_device
from inference.engine.generation import GenerateLoop
from inference.engine.int8 import quantise
from inference.engine.model import step_model
from inference.engine.orders import Bounds
from inference.engine.process import paged
from inference.engine.products import turn_products
from inference.engine.scheduler import Scheduler
from inference.engine.slots import SlotPlan
from inference.engine.threads import fit_each_pass
from inference.engine.weights import Attached
from inference.link import EngineLink

if TYPE_CHECKING:
    from inference.engine.device import Device

TINY: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
"""25 million weights: large enough that a step is arithmetic and not Python."""
EIGHT_B: dict[str, Any] = {
    "vocab_size": 128_256,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
}
"""Llama 3 8B's sizes, for a GPU: 8.03 billion weights, 16.06 GB in bfloat16; 128 KiB of keys and values a token."""
KV_BYTES = 2 * 2 * EIGHT_B["num_hidden_layers"] * EIGHT_B["num_key_value_heads"] * 128
PAGE_TOKENS = 16  # of theirs: as ours
SEED = 1


def main() -> None:
    """Be one of them."""
    whose, order = sys.argv[1], json.loads(sys.argv[2])
    torch.set_num_threads(order["threads"])
    if whose == "ours":
        device = open_device(order["device"]) if "device" in order else None
        if device is None:
            _serve(order, int(sys.argv[3]))
        else:
            _serve_on(device, order, int(sys.argv[3]))
    elif whose == "cosine":
        print(least_cosine(_model(order, "sdpa").eval(), order["tokens"]), flush=True)
    else:
        print(json.dumps([_batched(order, *run) for run in order["runs"]]), flush=True)


def _model(order: dict[str, Any], attention: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    if order["model"] == "8b":
        config = AutoConfig.for_model("llama", **EIGHT_B)
        make: Any = AutoModelForCausalLM.from_config
        with torch.device(order["device"]):
            return make(config, attn_implementation=attention, dtype=torch.bfloat16)
    if order["model"] != "tiny":
        return AutoModelForCausalLM.from_pretrained(order["model"], attn_implementation=attention)
    torch.manual_seed(SEED)
    config = AutoConfig.for_model("llama", **TINY)
    make = AutoModelForCausalLM.from_config
    return make(config, attn_implementation=attention)


def _serve(order: dict[str, Any], fd: int) -> None:
    model = _model(order, "sdpa")
    model.eval()
    if order.get("quantize"):
        quantise(model)
    turn_products(model)
    fit_each_pass(model, order["threads"], measured=not order.get("deterministic", False))
    room = SlotPlan(order["slots"], order["max_len"], 0, order["pages"])
    GenerateLoop(
        EngineLink(socket.socket(fileno=fd)),
        Scheduler(room.num_slots, frozenset(order.get("eos_ids", ())), num_pages=room.num_pages),
        step_model(model, room, deterministic=order.get("deterministic", False)),
        None,
        Bounds(model.config.vocab_size, room.max_len),
        room,
    ).serve({"op": "ready"})


def _serve_on(device: Device, order: dict[str, Any], fd: int) -> None:
    """The engine that a node with `device = "cuda:N"` starts, less the way of the weights."""
    room = plan_blocks(
        max_slots=order["slots"],
        max_len=order["max_len"],
        kv_bytes_per_token=KV_BYTES,
        budget_bytes=(order["slots"] + 1) * order["max_len"] * KV_BYTES * 5 // 4,
    )
    model = _model(order, "sdpa").eval()
    scheduler, rows = paged(device, Attached(model, 0, None), room, frozenset())
    bounds = Bounds(model.config.vocab_size, room.max_len)
    link = EngineLink(socket.socket(fileno=fd))
    GenerateLoop(link, scheduler, rows, None, bounds, room).serve({"op": "ready"})


def least_cosine(model: Any, tokens: list[int]) -> float:
    """Of the logits after each of `tokens`, in 8 bits against as stored."""
    ids = torch.tensor([tokens])
    with torch.inference_mode():
        stored = model(input_ids=ids).logits[0]
        quantise(model)
        cosines = torch.nn.functional.cosine_similarity(model(input_ids=ids).logits[0], stored, dim=-1)
    return float(cosines.min())


def _batched(order: dict[str, Any], streams: int, prompt: int, new: int) -> float:
    """Seconds of one crowd, all there from the start; a short one goes before it."""
    model = _model(order, "paged|sdpa").eval()
    crowd = _managed_s if "device" in order else _generated_s
    return crowd(model, streams, prompt, new)


def _crowds(streams: int, prompt: int, new: int) -> list[tuple[list[list[int]], int]]:
    """A short one, and the one that counts: prompts that differ from their first token on, and new tokens."""
    return [
        (
            [[2 + (7 * i + 13 * row + row * row) % 500 for i in range(length)] for row in range(streams)],
            num_new,
        )
        for length, num_new in ((PAGE_TOKENS, 2), (prompt, new))
    ]


def _generated_s(model: Any, streams: int, prompt: int, new: int) -> float:
    import transformers

    settings = transformers.ContinuousBatchingConfig(
        block_size=PAGE_TOKENS,
        num_blocks=streams * (-(-(prompt + new) // PAGE_TOKENS) + 1),
        max_batch_tokens=512,
    )
    started = 0.0
    make: Any = transformers.GenerationConfig
    for prompts, num_new in _crowds(streams, prompt, new):
        asked = make(max_new_tokens=num_new, do_sample=False, eos_token_id=-1)
        started = time.perf_counter()
        model.generate_batch(prompts, asked, settings, warmup=False)
    return time.perf_counter() - started


def _managed_s(model: Any, streams: int, prompt: int, new: int) -> float:
    """On a GPU its own choices of sizes, and its graphs captured before the clock runs."""
    import transformers
    from transformers.generation.continuous_batching.utils import WorkloadHints

    make: Any = transformers.GenerationConfig
    started = 0.0
    with (
        model.continuous_batching_context_manager(
            generation_config=make(max_new_tokens=new, do_sample=False, eos_token_id=-1),
            continuous_batching_config=transformers.ContinuousBatchingConfig(),
            workload_hints=WorkloadHints(prompt, new, streams),
            timeout=5,
        ) as manager,
        torch.no_grad(),
    ):
        for prompts, num_new in _crowds(streams, prompt, new):
            started, waiting = time.perf_counter(), len(prompts)
            manager.add_requests(inputs=prompts, max_new_tokens=num_new)
            while waiting:
                found = manager.get_result(timeout=1)
                waiting -= found is not None and found.is_finished()
                if found is None and not manager.is_running():
                    raise RuntimeError("transformers' continuous batching ended by itself")
        return time.perf_counter() - started


if __name__ == "__main__":
    main()

"""The engines of `bench engine`, each in a process of its own: `python -m bench.engines.child WHOSE ORDER FD`.

ORDER is JSON: {"model": folder or "tiny", "threads", "slots", "max_len", "pages", "deterministic", "quantize",
"eos_ids", "packed_bytes", "num_speculative_tokens"} (the last five may be left out) for `ours`, which then speaks the
engine's link over FD;
{"model", "threads", "runs": [[streams, prompt tokens, new tokens], ..], "limit_s"} for `theirs`, transformers'
continuous batching, which prints one line of JSON: of each run the seconds, and how much of it was done then; {"model",
"threads", "tokens"} for `cosine`, which prints how near the logits in 8 bits are to those as stored.
"""

from __future__ import annotations

import json
import socket
import sys
from typing import TYPE_CHECKING, Any

import torch

from bench.engines.theirs import crowd_s
from inference.engine.attach.weights import Attached
from inference.engine.freed import keep_freed
from inference.engine.generation import GenerateLoop
from inference.engine.gpu.blocks import plan_blocks
from inference.engine.gpu.device import open_device
from inference.engine.linear.int8 import quantise
from inference.engine.linear.packing import Growth, pack_products
from inference.engine.linear.products import fit_onednn
from inference.engine.model import drafter_of, step_model
from inference.engine.orders.asked import Bounds
from inference.engine.process import paged
from inference.engine.steps.drafts import MOST_DRAFTS
from inference.engine.steps.scheduler import Scheduler
from inference.engine.steps.slots import SlotPlan
from inference.engine.threads import fit_each_pass
from inference.link import EngineLink
from weights_cache.memory.pages import collapse_own

if TYPE_CHECKING:
    from inference.engine.gpu.device import Device

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
SEED = 1
PACKED_BYTES = 1 << 30
"""Memory for a second copy of the weights: what a node with 8 GiB for models gives (`workers.residency.room`)."""


def main() -> None:
    """Be one of them."""
    whose, order = sys.argv[1], json.loads(sys.argv[2])
    torch.set_num_threads(order["threads"])
    if whose == "ours":
        keep_freed()
        device = open_device(order["device"]) if "device" in order else None
        if device is None:
            _serve(order, int(sys.argv[3]))
        else:
            _serve_on(device, order, int(sys.argv[3]))
    elif whose == "cosine":
        print(least_cosine(_model(order, "sdpa").eval(), order["tokens"]), flush=True)
    else:
        _batched(order)


def _model(order: dict[str, Any], attention: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    if order["model"] == "8b":
        config = AutoConfig.for_model("llama", **EIGHT_B)
        make: Any = AutoModelForCausalLM.from_config
        with torch.device(order["device"]):
            return make(config, attn_implementation=attention, dtype=torch.bfloat16)
    if order["model"] != "tiny":
        return lay_as_landed(
            AutoModelForCausalLM.from_pretrained(order["model"], attn_implementation=attention)
        )
    torch.manual_seed(SEED)
    config = AutoConfig.for_model("llama", **TINY)
    make = AutoModelForCausalLM.from_config
    return lay_as_landed(make(config, attn_implementation=attention))


def _serve(order: dict[str, Any], fd: int) -> None:
    growth = Growth()  # all of it: what a model frees that is read from a file is taken again
    model = _model(order, "sdpa")
    model.eval()
    if order.get("quantize"):
        quantise(model)
    pieces = growth.pieces() if order.get("quantize") else ()
    fit_onednn(model)
    fit_each_pass(model, order["threads"], measured=not order.get("deterministic", False))
    packed_bytes = 0 if order.get("deterministic") else order.get("packed_bytes", PACKED_BYTES)
    packing = pack_products(model, packed_bytes, pieces)
    room = SlotPlan(order["slots"], order["max_len"], 0, order["pages"])
    rows = step_model(model, room, deterministic=order.get("deterministic", False))
    drafter = drafter_of(rows, model, order.get("num_speculative_tokens", MOST_DRAFTS))
    eos_ids = frozenset(order.get("eos_ids", ()))
    GenerateLoop(
        EngineLink(socket.socket(fileno=fd)),
        Scheduler(room.num_slots, eos_ids, num_pages=room.num_pages, drafter=drafter),
        rows,
        None,
        Bounds(model.config.vocab_size, room.max_len),
        room,
        packing=packing,
    ).serve({"op": "ready"})


def lay_as_landed(model: Any) -> Any:
    """The model, its weights in huge pages where the kernel makes them, as in a node's landing of 64 MiB and more."""
    for weight in model.parameters():
        weight.data = weight.data.clone()  # what was read from a file lies in the page cache
        collapse_own(weight.data.data_ptr(), weight.nbytes)
    return model


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


def _batched(order: dict[str, Any]) -> None:
    """Each crowd's seconds and how much of it was done then; nobody waits for the rest of one that was stopped."""
    on_cpu = "device" not in order
    found = [
        crowd_s(_model(order, "paged|sdpa").eval(), tuple(run), order.get("limit_s"), on_cpu=on_cpu)
        for run in order["runs"]
    ]
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()

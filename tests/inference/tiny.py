"""Tiny random models of many architectures, as safetensors files, revisions and landings."""

import mmap
import os
import threading
from dataclasses import dataclass, field

import safetensors.torch
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from weights_cache.memory.view import FAILED, LANDED, LandingError
from weights_cache.model.header import read_header
from weights_cache.model.plan import extents, layout
from weights_cache.model.revision import Extent, FileEntry, ModelFacts, Revision, TensorEntry

disable_progress_bar()
torch.set_num_threads(1)  # spinning OpenMP workers on shared cores made a pass 15 times slower

VOCABULARY = 97
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128} | {
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
WINDOW = {"sliding_window": 9}
HEAD = {"head_dim": 8}
OWN_SIZES = {
    "bloom": {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4, "eos_token_id": 2},
    "codegen": GPT2 | {"rotary_dim": 4, "n_ctx": 128},
    "cohere2": SIZES | WINDOW,
    "exaone4": SIZES | WINDOW | {"sliding_window_pattern": 4, "num_hidden_layers": 4},
    "gemma": SIZES | HEAD,
    "gemma2": SIZES | HEAD | WINDOW | {"query_pre_attn_scalar": 8},
    "gemma3_text": SIZES | HEAD | WINDOW | {"query_pre_attn_scalar": 8, "num_hidden_layers": 7},
    "glm": SIZES | HEAD,
    "glm4": SIZES | HEAD,
    "gpt2": GPT2,
    "gpt_bigcode": GPT2,
    "gpt_neo": GPT2
    | {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "max_position_embeddings": 128}
    | {"attention_types": [[["global", "local"], 1]], "window_size": 9},
    "gpt_oss": SIZES | HEAD | WINDOW | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "gptj": GPT2 | {"rotary_dim": 4},
    "helium": SIZES | HEAD,
    "llama": SIZES | {"tie_word_embeddings": True},
    "mistral": SIZES | HEAD | WINDOW,
    "mixtral": SIZES | WINDOW | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "olmo3": SIZES | WINDOW | {"num_hidden_layers": 4},
    "opt": SIZES | {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "phi3": SIZES | WINDOW,
    "qwen2": SIZES | WINDOW | {"use_sliding_window": True, "max_window_layers": 1},
    "qwen2_moe": SIZES | EXPERTS | {"shared_expert_intermediate_size": 16},
    "qwen3": SIZES | HEAD,
    "qwen3_moe": SIZES | EXPERTS | HEAD,
    "starcoder2": SIZES | WINDOW,
}


def config_values(family, **changes):
    """A `config.json` of a tiny model."""
    config = AutoConfig.for_model(family, **(OWN_SIZES.get(family, SIZES) | changes))
    return config.to_dict()


def made(family, seed=0, dtype=torch.float32, **changes):
    """A random model whose logits are far apart."""
    config = AutoConfig.for_model(family, **(OWN_SIZES.get(family, SIZES) | changes))
    torch.manual_seed(seed)
    maker = AutoModel if family in {"bert", "mpnet", "roberta", "distilbert"} else AutoModelForCausalLM
    model = maker.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn_like(parameter) * 0.25)
    if dtype is torch.float32:
        return model
    halves = {name: tensor.to(dtype) for name, tensor in stored_tensors(model).items()}
    return type(model).from_pretrained(None, config=config, state_dict=halves, dtype=dtype)


def stored_tensors(model):
    """What `save_pretrained` would store: tied weights once."""
    seen, kept = set(), {}
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen:
            kept[name] = tensor.contiguous()
            seen.add(tensor.data_ptr())
    return kept


@dataclass
class Landing:
    """A landing in this process' memory; `landed` extents may be read by `view`-like waiting."""

    revision: Revision
    buffer: memoryview
    ready: bytearray
    fd: int
    ready_fd: int
    event_fd: int
    changed: threading.Condition = field(default_factory=threading.Condition)
    num_waits: int = 0

    @property
    def layout(self):
        return layout(self.revision.files, self.revision.tensors)

    def land(self, number, data=None):
        """Extent `number` is here."""
        if data is not None:
            start = self.layout.place(self.revision.extents[number])
            self.buffer[start : start + len(data)] = data
        self.set(number, LANDED)

    def fail(self, number):
        self.set(number, FAILED)

    def set(self, number, state):
        with self.changed:
            os.pwrite(self.ready_fd, bytes([state]), number)
            self.ready[number] = state
            self.changed.notify_all()
        os.eventfd_write(self.event_fd, 1)

    def wait_extent(self, number, timeout_s=None):
        with self.changed:
            self.num_waits += 1
            if not self.changed.wait_for(lambda: self.ready[number], timeout_s):
                return False
        if self.ready[number] == FAILED:
            raise LandingError("weights_failed", f"extent {number}")
        return True

    wait_landed = wait_extent

    def wait_all(self, timeout_s=None):
        return all(self.wait_extent(number, timeout_s) for number in range(len(self.ready)))

    @property
    def fds(self):
        return self.fd, self.ready_fd, self.event_fd


def revision_of(shards, facts, model="acme/tiny"):
    """The revision of safetensors files given as [{name: tensor}], and their bytes."""
    blobs = [safetensors.torch.save(shard) for shard in shards]
    files = tuple(
        FileEntry(f"model-{number}.safetensors", len(blob), "0" * 64, "e")
        for number, blob in enumerate(blobs)
    )
    tensors = tuple(
        TensorEntry(one.name, one.dtype, one.shape, number, one.offset, one.length)
        for number, blob in enumerate(blobs)
        for one in read_header(blob, len(blob)).tensors
    )
    pieces = tuple(
        Extent(p.file, p.offset, p.length, "0" * 16, "0" * 64, p.layer, p.tensors) for p in extents(tensors)
    )
    return Revision(model, files, tensors, pieces, facts), blobs


def facts_of(model, kind="generate", **changes):
    """Facts as `inspect` would tell them."""
    config = model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    values = {
        "kind": kind,
        "architecture": type(model).__name__,
        "model_type": config.model_type,
        "dtype": "float32",
        "num_params": model.num_parameters(),
        "num_layers": config.num_hidden_layers,
        "max_len": 128,
        "vocab_size": config.vocab_size,
        "kv_bytes_per_token": 2 * 4 * config.num_hidden_layers * heads * head,
        "weight_bytes": 1,
        "eos_token_ids": (),
    }
    return ModelFacts(**(values | changes))


def landing_of(revision, blobs, *, landed=True):
    """A landing of these files; empty, with all bytes held back, if not `landed`."""
    places = layout(revision.files, revision.tensors)
    fd = os.memfd_create("tiny")
    os.ftruncate(fd, max(1, places.total_bytes))
    ready_fd = os.memfd_create("tiny-ready")
    os.ftruncate(ready_fd, max(1, len(revision.extents)))
    event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_SEMAPHORE)
    buffer = memoryview(mmap.mmap(fd, max(1, places.total_bytes)))[: places.total_bytes]
    landing = Landing(revision, buffer, bytearray(len(revision.extents)), fd, ready_fd, event_fd)
    if landed:
        for number, extent in enumerate(revision.extents):
            landing.land(number, blobs[extent.file][extent.offset : extent.offset + extent.length])
    return landing


def extent_bytes(revision, blobs, number):
    extent = revision.extents[number]
    return blobs[extent.file][extent.offset : extent.offset + extent.length]


def landed_model(model, num_shards=1, *, landed=True, kind="generate", **facts):
    """(revision, landing, blobs) of a model's weights in `num_shards` files."""
    tensors = list(stored_tensors(model).items())
    shards = [dict(tensors[number::num_shards]) for number in range(num_shards)]
    revision, blobs = revision_of(shards, facts_of(model, kind, **facts))
    return revision, landing_of(revision, blobs, landed=landed), blobs

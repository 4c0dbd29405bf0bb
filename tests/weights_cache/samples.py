"""Small models for the tests of this room: real safetensors bytes and the revision that describes them."""

import json
import random
import struct

from weights_cache.model.describe import FileScan, Source, build_revision, draft
from weights_cache.model.header import read_header
from weights_cache.model.plan import layout
from weights_cache.model.revision import ModelFacts, Spec

FACTS = ModelFacts(
    kind="generate",
    architecture="LlamaForCausalLM",
    model_type="llama",
    dtype="float32",
    num_params=1,
    num_layers=3,
    max_len=128,
    vocab_size=8,
    kv_bytes_per_token=64,
    weight_bytes=4,
)


def safetensors_bytes(tensors, seed=1):
    """A file of tensors {name: (dtype, shape, number of bytes)} in the order given, with random bytes."""
    header, at = {}, 0
    for name, (dtype, shape, num_bytes) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + num_bytes]}
        at += num_bytes
    data = json.dumps(header).encode()
    return struct.pack("<Q", len(data)) + data + random.Random(seed).randbytes(at)


def tiny_files(num_layers=3, width=64, seed=1):
    """A Llama-like model in two shards, layers out of order, with a config."""
    matrix = ("F32", (width, width), 4 * width * width)
    names = [f"model.layers.{n}.{part}.weight" for n in range(num_layers) for part in ("attn", "mlp")]
    random.Random(seed).shuffle(names)
    half = len(names) // 2
    first = {"lm_head.weight": matrix} | dict.fromkeys(names[:half], matrix)
    second = dict.fromkeys(names[half:], matrix) | {
        "model.norm.weight": ("F32", (width,), 4 * width),
        "model.embed_tokens.weight": matrix,
    }
    return {
        "config.json": b'{"model_type":"llama"}',
        "tokenizer.json": b'{"tokens":["\xc3\xa9"]}' * 100,
        "model-00001-of-00002.safetensors": safetensors_bytes(first, seed),
        "model-00002-of-00002.safetensors": safetensors_bytes(second, seed + 1),
    }


def described(files, model="acme/tiny", facts=FACTS):
    """The Revision of {path: bytes}, made as a region makes it."""
    plan = draft(model, [source_of(path, data) for path, data in files.items()])
    digests = {}
    for path, data in files.items():
        scan = plan.scan(path) if path.endswith(".safetensors") else FileScan()
        for at in range(0, len(data), 10_007):
            scan.update(data[at : at + 10_007])
        digests[path] = scan.finish()
    return build_revision(plan, digests, facts, Spec())


def source_of(path, data):
    header = read_header(data, len(data)) if path.endswith(".safetensors") else None
    return Source(path, len(data), f"etag-{path}", header)


def landed_bytes(revision, files):
    """What a whole landing of the revision holds: every data section at its place."""
    places = layout(revision.files, revision.tensors)
    whole = bytearray(places.total_bytes)
    for number, entry in enumerate(revision.files):
        start, data_start = places.file_starts[number], places.data_starts[number]
        if start >= 0:
            data = files[entry.path][data_start:]
            whole[start : start + len(data)] = data
    return bytes(whole)

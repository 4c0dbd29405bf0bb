"""Small pushed folders, made of bytes: the inputs of the commit and ingest tests."""

import json
import struct

from regions.push.folder import Listed

CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
INDEX = "model.safetensors.index.json"
REGIONS = ("iad", "fra", "nrt")


def safetensors(tensors=None, *, fill=b"\x01", header=None):
    """A file of F32 tensors, name -> number of elements; `header` replaces the JSON."""
    tensors = {"model.embed_tokens.weight": 4} if tensors is None else tensors
    entries, at = {}, 0
    for name, count in tensors.items():
        entries[name] = {"dtype": "F32", "shape": [count], "data_offsets": [at, at + 4 * count]}
        at += 4 * count
    text = json.dumps(entries).encode() if header is None else header
    return struct.pack("<Q", len(text)) + text + fill * at


def whole(**kwargs):
    """A complete single-file model; `kwargs` go to `safetensors`."""
    return {
        "config.json": json.dumps(CONFIG).encode(),
        "tokenizer.json": b'{"version":"1.0"}',
        "model.safetensors": safetensors(**kwargs),
    }


def sharded(num_shards=2, *, fill=b"\x01"):
    """A complete model of several shards with its index; one tensor a shard."""
    names = [f"model-{n:05d}-of-{num_shards:05d}.safetensors" for n in range(1, num_shards + 1)]
    mapped = {f"model.layers.{n}.weight": name for n, name in enumerate(names)}
    shards = {name: safetensors({tensor: 4}, fill=fill) for tensor, name in mapped.items()}
    index = json.dumps({"metadata": {}, "weight_map": mapped}).encode()
    small = {key: value for key, value in whole().items() if key.endswith(".json")}
    return {**small, INDEX: index, **shards}


def etag_of(data):
    return f"e{hash(data) & 0xFFFFFFFF:08x}-{len(data)}"


def listed(files):
    return [Listed(path, len(data), etag_of(data)) for path, data in files.items()]

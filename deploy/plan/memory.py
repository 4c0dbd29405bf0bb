"""Does the model fit a device? What it needs by its config and weights, against what a node may use. Pure.

The region judges it again with the model's own code when the push arrives; here it is reckoned from `config.json`, with
the same rule (`regions.push.fit`): the weights, and keys and values of one short conversation.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from regions.push.fit import MIN_CONTEXT_TOKENS

ITEM_BYTES: Mapping[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
DEFAULT_DTYPE = "float32"
"""What transformers takes where neither the model nor its config says more."""
GENERATES = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")
"""Architectures that keep keys and values; others answer in one pass."""


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes: of all weights, and of keys and values for one token of one sequence."""

    weight_bytes: int
    kv_bytes_per_token: int

    @property
    def least_bytes(self) -> int:
        """With less it answers nobody."""
        return self.weight_bytes + self.kv_bytes_per_token * MIN_CONTEXT_TOKENS


@dataclass(frozen=True, slots=True)
class Device:
    """One node's, by the configuration."""

    node: str
    region: str
    device: str
    budget_bytes: int


@dataclass(frozen=True, slots=True)
class Fit:
    """One model on one device; `kv_tokens` of all conversations at a time have room beside its weights."""

    device: Device
    fits: bool
    kv_tokens: int | None


def needs(config: Mapping[str, Any], weight_bytes: int, dtype: str = "auto") -> Needs:
    """What the model of this `config.json` needs; no keys and values where it does not generate."""
    architectures = config.get("architectures")
    names = architectures if isinstance(architectures, list) else []
    if not any(str(name).endswith(GENERATES) for name in names):
        return Needs(weight_bytes, 0)
    nested = config.get("text_config")
    text = nested if isinstance(nested, dict) else config
    return Needs(weight_bytes, _kv_numbers(text) * ITEM_BYTES[_dtype(text, config, dtype)])


def _kv_numbers(text: Mapping[str, Any]) -> int:
    """Numbers kept a token: keys and values of each head and layer; 0 where the config does not say."""
    layers = _whole(text, "num_hidden_layers", "n_layer")
    queries = _whole(text, "num_attention_heads", "n_head")
    heads = _whole(text, "num_key_value_heads") or queries
    size = _whole(text, "head_dim") or (_whole(text, "hidden_size", "n_embd") // queries if queries else 0)
    return 2 * layers * heads * size


def _whole(table: Mapping[str, Any], *names: str) -> int:
    found = next((table[name] for name in names if table.get(name) is not None), 0)
    return found if isinstance(found, int) and found > 0 else 0


def _dtype(text: Mapping[str, Any], config: Mapping[str, Any], wished: str) -> str:
    named = [wished, *(table.get(key) for table in (text, config) for key in ("dtype", "torch_dtype"))]
    return next((str(name) for name in named if name in ITEM_BYTES), DEFAULT_DTYPE)


def fits(model: Needs, devices: Iterable[Device]) -> tuple[Fit, ...]:
    """The model on each of these devices."""
    return tuple(_fit(model, device) for device in devices)


def _fit(model: Needs, device: Device) -> Fit:
    left = device.budget_bytes - model.weight_bytes
    tokens = max(0, left // model.kv_bytes_per_token) if model.kv_bytes_per_token else None
    return Fit(device, model.least_bytes <= device.budget_bytes, tokens)

"""What transformers says about a model that was just pushed: facts, or a refusal. Runs in a throw-away child.

Nothing is loaded: the model is made on the meta device, and the pushed tensors' names and shapes go
through transformers' own renames and conversions as tensors without memory. What is left over on either
side is the answer.

    request: {"config": {..}, "tensors": [{"name","dtype","shape"}], "files": {"generation_config.json": {..}, ..},
              "paths": ["chat_template.jinja", ..], "dtype": "auto", "quantize": null or "int8"}
              (`files`: small JSON files, parsed)
    answer:  {"facts": <ModelFacts>, "left_out": [{"path","reason"}]}  or  {"refused": {"code","message","next"}}
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import convert_and_load_state_dict_in_model
from transformers.modeling_utils import LoadStateDictConfig

from inference.engine.attach.views import COMPUTED, DTYPES, NAMED
from inference.engine.classes import (
    ConfigRefused,
    class_of,
    config_of,
    dropped_fields,
    init_arguments,
    kind_of,
)
from inference.engine.linear.int8 import check_quantisable
from inference.engine.pooling import Pooling, PoolingRefused, has_pooling, pooling_of
from weights_cache.model.coverage import DTYPE_BYTES
from wire.counted import counted

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from transformers import PreTrainedConfig, PreTrainedModel

MAX_NAMED = 5
"""Tensors named in a refusal: enough to see what is wrong, few enough to read."""
MAX_LEFT_OUT = 50
"""Tensors told one by one; the rest is counted."""
FALLBACK_LEN = 2048
"""Context of a config that does not say; what the first open models had."""
MAX_LEN_FIELDS = (
    "max_position_embeddings",
    "n_positions",
    "max_sequence_length",
    "max_seq_len",
    "seq_length",
    "n_ctx",
)
PROBE_TOKENS = 2
META_FAULTS = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError, NotImplementedError)
"""What a forward pass without values can raise where a class looks at values (experts, some masks)."""


def inspect(request: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to one request, always as a value that JSON can hold; see the top of this file."""
    refusal: dict[str, Any] = {}
    with Refusals(refusal):
        return _inspected(_Pushed.of(request))
    return refusal


class Refusals:
    """Turns whatever the pushed JSON makes transformers raise into a refusal: it is a value from outside."""

    def __init__(self, refusal: dict[str, Any]) -> None:
        self._refusal = refusal

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if fault is None or not isinstance(fault, Exception | SystemExit):
            return False
        code, message, next_step = "bad_config", _told(fault), "check config.json, or save the model again"
        if isinstance(fault, ConfigRefused):
            code, message, next_step = fault.code, fault.message, fault.next_step
        elif isinstance(fault, PoolingRefused):
            code, message, next_step = (
                "unsupported_pooling",
                str(fault),
                "push a model with mean or cls pooling",
            )
        self._refusal["refused"] = {"code": code, "message": message[:500], "next": next_step}
        return True


def _told(fault: BaseException) -> str:
    """Whose words they are, in one line: a `KeyError: 'exec'` alone says nothing."""
    words = " ".join(str(fault).split())
    return f"transformers makes no model of config.json: {type(fault).__name__}: {words}"


@dataclass(frozen=True, slots=True)
class _Pushed:
    """One request, its shapes checked as far as we index into them."""

    config: Mapping[str, Any]
    tensors: Mapping[str, tuple[str, tuple[int, ...]]]
    files: Mapping[str, Any]
    paths: frozenset[str]
    dtype: str
    is_quantised: bool

    @classmethod
    def of(cls, request: Mapping[str, Any]) -> _Pushed:
        tensors = {entry["name"]: (entry["dtype"], tuple(entry["shape"])) for entry in request["tensors"]}
        files, paths = request.get("files") or {}, request.get("paths") or []
        return cls(
            request["config"],
            tensors,
            files,
            frozenset(paths),
            request.get("dtype", "auto"),
            bool(request.get("quantize")),
        )

    def num_bytes(self, name: str) -> int:
        dtype, shape = self.tensors[name]
        return DTYPE_BYTES[dtype] * math.prod(shape)


def _inspected(pushed: _Pushed) -> dict[str, Any]:
    config = config_of(pushed.config)
    kind = kind_of(config, has_pooling=has_pooling(pushed.files))
    pooling = pooling_of(pushed.files) if kind == "embed" else None
    _check_depth(config, pushed)
    dtype = NAMED.get(pushed.dtype) or _stored_dtype(pushed)
    model_class = class_of(config, kind)
    with torch.device("meta"):
        model = model_class(config, **init_arguments(model_class))
    unexpected = _check_tensors(model, pushed, dtype)
    if pushed.is_quantised:
        check_quantisable(model)
    facts = {
        "kind": kind,
        "architecture": model_class.__name__,
        "model_type": str(config.model_type),
        "dtype": str(dtype).removeprefix("torch."),
        "weight_bytes": sum(map(pushed.num_bytes, pushed.tensors)),
        **_sizes(model, dtype),
        **_ends(config, pushed, pooling),
    }
    return {"facts": facts, "left_out": _left_out(pushed, unexpected)}


def _check_depth(config: PreTrainedConfig, pushed: _Pushed) -> None:
    """A config may say any number of layers, and each costs time to make: there is a tensor for each.

    Raises:
        ConfigRefused: there are fewer tensors than layers.
    """
    num_layers = getattr(config.get_text_config(), "num_hidden_layers", 0)
    if isinstance(num_layers, int) and num_layers > len(pushed.tensors):
        raise ConfigRefused(
            "missing_tensors",
            f"config.json says {counted(num_layers, 'layer')}, and the weights have "
            f"{counted(len(pushed.tensors), 'tensor')}",
            "push all shards, and the config.json that belongs to them",
        )


def _stored_dtype(pushed: _Pushed) -> torch.dtype:
    totals: Counter[str] = Counter()
    for name, (dtype, _) in pushed.tensors.items():
        if dtype in COMPUTED:
            totals[dtype] += pushed.num_bytes(name)
    return COMPUTED[totals.most_common(1)[0][0]] if totals else torch.float32


def _check_tensors(model: PreTrainedModel, pushed: _Pushed, dtype: torch.dtype) -> list[str]:
    """The pushed tensors that have no place in the model.

    Raises:
        ConfigRefused: a tensor is missing or has another shape.
    """
    given = {
        name: torch.empty(shape, dtype=DTYPES[stored], device="meta")
        for name, (stored, shape) in pushed.tensors.items()
    }
    load: Any = convert_and_load_state_dict_in_model
    conversions: Any = get_model_conversion_mapping(model)
    load_config = LoadStateDictConfig(device_map={"": "meta"}, dtype=dtype, weight_mapping=conversions)
    report, _ = load(model=model, state_dict=given, load_config=load_config)
    model.tie_weights(missing_keys=report.missing_keys, recompute_mapping=False)
    model._adjust_missing_and_unexpected_keys(report)  # noqa: SLF001 - the class' own list of harmless leftovers
    if report.mismatched_keys:
        name, stored, expected = min(report.mismatched_keys)
        raise ConfigRefused(
            "tensor_shape",
            f"{counted(len(report.mismatched_keys), 'tensor')} of another shape than config.json says: "
            f"{name} has {tuple(stored)} instead of {tuple(expected)}",
            "push the config.json that belongs to these weights",
        )
    if report.missing_keys or report.conversion_errors:
        names = sorted(report.missing_keys) or sorted(report.conversion_errors)
        raise ConfigRefused(
            "missing_tensors",
            f"the weights lack {counted(len(names), 'tensor')} of {type(model).__name__}: {_some(names)}",
            "push all shards, and the config.json that belongs to them",
        )
    return sorted(report.unexpected_keys)


def _some(names: list[str]) -> str:
    more = ", ..." if len(names) > MAX_NAMED else ""
    return f"{', '.join(names[:MAX_NAMED])}{more}"


def _sizes(model: PreTrainedModel, dtype: torch.dtype) -> dict[str, Any]:
    config = model.config.get_text_config()
    tied = model.all_tied_weights_keys  # named_parameters() gives a tie once, but nothing is tied on meta
    return {
        "num_params": sum(part.numel() for name, part in model.named_parameters() if name not in tied),
        "num_layers": int(config.num_hidden_layers),
        "vocab_size": int(config.vocab_size),
        "kv_bytes_per_token": _kv_elements(model) * dtype.itemsize if model.can_generate() else 0,
    }


def _kv_elements(model: PreTrainedModel) -> int:
    """Numbers kept per token, over all layers: from a pass without values, else from the config's sizes."""
    config = model.config.get_text_config()
    cache: Any = DynamicCache(config=config)
    ids = torch.zeros(1, PROBE_TOKENS, dtype=torch.long, device="meta")
    try:
        model(input_ids=ids, past_key_values=cache, use_cache=True)
        kept = [
            part
            for layer in cache.layers
            for part in (getattr(layer, "keys", None), getattr(layer, "values", None))
        ]
    except META_FAULTS:
        num_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return int(2 * config.num_hidden_layers * num_heads * head_size)
    return sum(int(part.numel()) for part in kept if part is not None) // PROBE_TOKENS


def _ends(config: PreTrainedConfig, pushed: _Pushed, pooling: Pooling | None) -> dict[str, Any]:
    tokenizer = pushed.files.get("tokenizer_config.json")
    templates = {"chat_template.jinja", "chat_template.json"} & pushed.paths
    return {
        "max_len": _max_len(config, pushed),
        "eos_token_ids": _eos_ids(config, pushed),
        "has_chat_template": bool(templates)
        or (isinstance(tokenizer, dict) and bool(tokenizer.get("chat_template"))),
        "pooling": pooling.mode if pooling else None,
        "normalize": bool(pooling and pooling.normalize),
        "max_seq_len": pooling.max_seq_len if pooling else None,
    }


def _max_len(config: PreTrainedConfig, pushed: _Pushed) -> int:
    text = config.get_text_config()
    named = [getattr(text, name, None) for name in MAX_LEN_FIELDS]
    tokenizer = pushed.files.get("tokenizer_config.json")
    named.append(tokenizer.get("model_max_length") if isinstance(tokenizer, dict) else None)
    longest = next((n for n in named if isinstance(n, int) and 0 < n < 1 << 31), FALLBACK_LEN)
    if text.model_type in {"roberta", "xlm-roberta", "camembert", "mpnet"}:
        longest -= (text.pad_token_id or 0) + 1  # their positions start behind the padding id
    return max(1, longest)


def _eos_ids(config: PreTrainedConfig, pushed: _Pushed) -> list[int]:
    generation = pushed.files.get("generation_config.json")
    stated = generation.get("eos_token_id") if isinstance(generation, dict) else None
    if stated is None:
        stated = config.get_text_config().eos_token_id
    ids = stated if isinstance(stated, list) else [stated]
    return sorted({one for one in ids if isinstance(one, int) and 0 <= one < 1 << 31})


def _left_out(pushed: _Pushed, unexpected: list[str]) -> list[dict[str, str]]:
    told = [
        {"path": f"tensor {name}", "reason": "the architecture has no such tensor"} for name in unexpected
    ]
    if len(told) > MAX_LEFT_OUT:
        rest = f"and {len(told) - MAX_LEFT_OUT} more tensors"
        told = [*told[:MAX_LEFT_OUT], {"path": rest, "reason": "the architecture has no such tensors"}]
    fields = dropped_fields(pushed.config)
    if fields:
        told.append(
            {"path": f"config.json: {', '.join(fields)}", "reason": "code and kernels are never followed"}
        )
    return told

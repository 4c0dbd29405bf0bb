"""How a pushed sentence-transformers folder turns token states into one vector, from its JSON files. Plain Python."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

SERVED_MODULES = frozenset({"Transformer", "Pooling", "Normalize"})
LEGACY_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
"""Before sentence-transformers 5.3 each mode was a flag of its own."""
MAX_SEQ_TOKENS = 1 << 20


class PoolingRefused(Exception):
    """The folder pools in a way that we do not serve; the message says which."""


@dataclass(frozen=True, slots=True)
class Pooling:
    """`max_seq_len` in tokens, special ones included; None if the folder does not say."""

    mode: Literal["mean", "cls"]
    normalize: bool
    max_seq_len: int | None


def has_pooling(files: Mapping[str, Any]) -> bool:
    """True for a sentence-transformers folder."""
    return isinstance(files.get("modules.json"), list)


def pooling_of(files: Mapping[str, Any]) -> Pooling:
    """The pooling of parsed JSON `files` by path; a plain encoder without any is pooled by mean and normalised.

    Raises:
        PoolingRefused: another module or mode than ours.
    """
    if not has_pooling(files):
        return Pooling("mean", normalize=True, max_seq_len=None)
    names = [_module_name(module) for module in files["modules.json"]]
    if unknown := [name for name in names if name not in SERVED_MODULES]:
        raise PoolingRefused(
            f"modules.json has {unknown[0]!r:.60}; served are {', '.join(sorted(SERVED_MODULES))}"
        )
    mode = _mode(_pooling_config(files))
    if mode not in {"mean", "cls"}:
        raise PoolingRefused(f"pooling {mode!r:.60} is not served; mean and cls are")
    return Pooling("cls" if mode == "cls" else "mean", "Normalize" in names, _max_seq_len(files))


def _module_name(module: object) -> str:
    kind = module.get("type") if isinstance(module, dict) else None
    return str(kind).rsplit(".", 1)[-1]


def _pooling_config(files: Mapping[str, Any]) -> Mapping[str, Any]:
    for module in files["modules.json"]:
        if _module_name(module) == "Pooling":
            config = files.get(f"{module.get('path')}/config.json")
            if isinstance(config, dict):
                return config
    raise PoolingRefused("modules.json names no pooling whose config.json is here")


def _mode(config: Mapping[str, Any]) -> str:
    if "pooling_mode" in config:
        return str(config["pooling_mode"])
    return "+".join(mode for flag, mode in LEGACY_MODES.items() if config.get(flag) is True)


def _max_seq_len(files: Mapping[str, Any]) -> int | None:
    config = files.get("sentence_bert_config.json")
    found = config.get("max_seq_length") if isinstance(config, dict) else None
    return found if isinstance(found, int) and 0 < found <= MAX_SEQ_TOKENS else None

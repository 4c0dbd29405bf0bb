"""Which weight files make the model: those an index names, or one model.safetensors; and are they sound?

SGLang served models with uninitialised weights when a shard was missing (sglang PR 32279), hence: every named
shard is there with a good header, and the tensors in them are exactly the ones the index maps to them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from regions.push.folder import ADAPTER, INDEX, MAX_SMALL_BYTES, SINGLE
from regions.push.problem import ProblemError
from weights_cache.model.header import Header, HeaderError
from weights_cache.model.revision import MAX_TENSORS
from weights_cache.model.strict import StrictError, parse
from wire.counted import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from regions.push.folder import Folder, Listed

MAX_NAMED = 3  # names in one message: enough to see the pattern

_SHARD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,200}\.safetensors")
_NUMBERED = re.compile(r".+-[0-9]{5}-of-[0-9]{5}\.safetensors")

SAVE = "model.save_pretrained(DIR) writes safetensors"
CONVERT = "convert them with transformers: AutoModel.from_pretrained(OLD).save_pretrained(DIR), then push DIR"


@dataclass(frozen=True, slots=True)
class Weights:
    """The weight files in name order, each with its header."""

    files: tuple[Listed, ...]
    headers: tuple[Header, ...]


def named_weights(
    folder: Folder, index: bytes | None, headers: Mapping[str, Header | HeaderError]
) -> Weights:
    """The files that hold the model. `index` are the bytes of the index, if there is one.

    Raises ProblemError.
    """
    _check_kind(folder)
    if index is not None:
        weights = _indexed(folder, _weight_map(index), headers)
    else:
        weights = _read(folder, _single(folder), headers)
    if not any(header.tensors for header in weights.headers):
        raise ProblemError("no_tensors", "the weights hold no tensor", f"{SAVE}; push DIR")
    return weights


def _check_kind(folder: Folder) -> None:
    """That there are safetensors at the top of the folder, and not only an adapter's."""
    if folder.weights and set(folder.weights) != {"adapter_model.safetensors"}:
        return
    if folder.weights or any(each.path == ADAPTER for each in folder.others):
        next_step = (
            "merge it into its model (peft: merge_and_unload), save that with save_pretrained and push it"
        )
        raise ProblemError(
            "adapter_only", "this is a LoRA adapter, not a whole model", next_step, may_pass=True
        )
    if folder.foreign_weights:
        message = f"the weights are only in {_names(folder.foreign_weights)}; only safetensors are loaded"
        raise ProblemError("weights_not_safetensors", message, CONVERT, may_pass=True)
    raise ProblemError(
        "missing_weights", "there is no model.safetensors and no index", f"{SAVE}; push DIR", may_pass=True
    )


def _single(folder: Folder) -> tuple[str, ...]:
    numbered = [path for path in folder.weights if _NUMBERED.fullmatch(path)]
    if numbered:
        message = f"there are shards ({_names(numbered)}) but no {INDEX}"
        raise ProblemError(
            "missing_index", message, f"push the index that lies beside the shards ({SAVE})", may_pass=True
        )
    if SINGLE not in folder.weights:
        message = f"the weights are called {_names(folder.weights)}, not {SINGLE}"
        raise ProblemError(
            "missing_weights", message, f"rename the file to {SINGLE} and push it", may_pass=True
        )
    return (SINGLE,)


def _weight_map(index: bytes) -> Mapping[str, str]:
    """Tensor name -> shard, from the bytes of the index."""
    try:
        value = parse(index, MAX_SMALL_BYTES[INDEX])
    except StrictError as error:
        raise ProblemError("bad_index", f"{INDEX}: {error}", f"{SAVE} with its index; push DIR") from error
    mapped = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(mapped, dict) or not 0 < len(mapped) <= MAX_TENSORS:
        message = f"{INDEX} has no weight_map of 1 to {MAX_TENSORS:,} tensors"
        raise ProblemError("bad_index", message, f"{SAVE} with its index; push DIR")
    if not all(isinstance(shard, str) and _SHARD.fullmatch(shard) for shard in mapped.values()):
        message = f"{INDEX} names something that is no safetensors file of this folder"
        raise ProblemError("bad_index", message, f"{SAVE} with its index; push DIR")
    return mapped


def _indexed(
    folder: Folder, mapped: Mapping[str, str], headers: Mapping[str, Header | HeaderError]
) -> Weights:
    shards = sorted(set(mapped.values()))
    missing = [shard for shard in shards if shard not in folder.weights]
    if missing:
        message = f"{INDEX} names {_names(missing)}, which {'is' if len(missing) == 1 else 'are'} not there"
        next_step = f"push the missing shards, or delete {INDEX} if it belongs to an older push"
        raise ProblemError("missing_shard", message, next_step, may_pass=True)
    if SINGLE in folder.weights and SINGLE not in shards:
        message = f"there are both {SINGLE} and shards named by {INDEX}"
        raise ProblemError(
            "ambiguous_weights", message, "delete the ones that belong to the older push", may_pass=True
        )
    weights = _read(folder, shards, headers)
    _check_union(mapped, weights)
    return weights


def _read(folder: Folder, paths: Sequence[str], headers: Mapping[str, Header | HeaderError]) -> Weights:
    good: list[Header] = []
    for path in paths:
        header = headers[path]
        if isinstance(header, HeaderError):
            raise ProblemError(header.code, f"{path}: {header.message}", header.next_step)
        good.append(header)
    return Weights(tuple(folder.weights[path] for path in paths), tuple(good))


def _check_union(mapped: Mapping[str, str], weights: Weights) -> None:
    """Every tensor lies in the shard that the index says, and in no other; nothing more, nothing less."""
    where: dict[str, str] = {}
    for file, header in zip(weights.files, weights.headers, strict=True):
        for tensor in header.tensors:
            if tensor.name in where:
                message = f"{tensor.name} is in both {where[tensor.name]} and {file.path}"
                raise ProblemError(
                    "duplicate_tensor", message, f"{SAVE} with its index; push DIR", may_pass=True
                )
            where[tensor.name] = file.path
    if where == mapped:
        return
    wrong = sorted(name for name in where.keys() | mapped.keys() if where.get(name) != mapped.get(name))
    message = f"{INDEX} and the shards disagree about {counted(len(wrong), 'tensor')}: {_names(wrong)}"
    next_step = "push the index and the shards of one save_pretrained together"
    raise ProblemError("index_mismatch", message, next_step, may_pass=True)


def _names(names: Iterable[str]) -> str:
    """Some names for one message."""
    every = sorted(names)
    shown = ", ".join(name[:80] for name in every[:MAX_NAMED])
    return shown if len(every) <= MAX_NAMED else f"{shown} and {len(every) - MAX_NAMED:,} more"

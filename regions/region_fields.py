"""The fields of a region's row and of its changes, each with its reader."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from regions.map.region import (
    MAX_LEFT_OUT,
    MAX_MODELS,
    MAX_PARTS,
    LeftOutFile,
    ModelFault,
    ModelRow,
    Progress,
    RolloutState,
    Tier,
)
from regions.row_fields import (
    amount_of,
    any_places,
    count_of,
    flag_of,
    model_name,
    one_of,
    or_null,
    read,
    revision_of,
    text_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from regions.row_fields import Reader


def _fault(value: object) -> ModelFault:
    return ModelFault(**read({"code": text_of, "message": text_of, "next": text_of}, value, "error"))


def _progress(value: object) -> Progress:
    table = {"phase": text_of, "percent": amount_of, "eta_s": or_null(amount_of)}
    return Progress(**read(table, value, "progress"))


def _left_out(value: object) -> tuple[LeftOutFile, ...]:
    if not isinstance(value, list) or len(value) > MAX_LEFT_OUT:
        raise ValueError(f"not a list of at most {MAX_LEFT_OUT}")
    table = {"path": text_of, "reason": text_of}
    return tuple(LeftOutFile(**read(table, each, "left_out")) for each in value)


def _models(value: object) -> Mapping[str, ModelRow]:
    if not isinstance(value, dict) or len(value) > MAX_MODELS:
        raise ValueError(f"not an object of at most {MAX_MODELS} models")
    models = {
        model_name(name): ModelRow(**read(_MODEL, each, name, _MODEL_LATER)) for name, each in value.items()
    }
    return MappingProxyType(models)


def _gone(value: object) -> frozenset[str]:
    if not isinstance(value, list) or len(value) > MAX_MODELS:
        raise ValueError(f"not a list of at most {MAX_MODELS} models")
    return frozenset(model_name(text_of(each)) for each in value)


def _part(value: object) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError("not two counts: which part of how many")
    index, count = map(count_of, value)
    if not (index < count and 1 < count <= MAX_PARTS):
        raise ValueError(f"not one of 2 to {MAX_PARTS} parts")
    return index, count


REGION: Final[Mapping[str, Reader]] = {
    "models": _models,
    "store_bytes_per_s": amount_of,
    "host_bytes_per_s": amount_of,
    "origin_bytes_per_s": amount_of,
    "attach_s": amount_of,
    "behind_bytes": count_of,
    "behind_s": amount_of,
    "eta_error": amount_of,
    "draining": flag_of,
}
REGION_LATER: Final[Mapping[str, Reader]] = {"part": _part}
CHANGE: Final[Mapping[str, Reader]] = {**REGION, "since": count_of, "gone": _gone}
_MODEL: Final[Mapping[str, Reader]] = {
    "revision": revision_of,
    "state": RolloutState,
    "tier": Tier,
    "kind": one_of("generate", "embed", "rerank"),
    "bytes": count_of,
    "max_len": count_of,
}
# Fields that are left out where they have their default.
_MODEL_LATER: Final[Mapping[str, Reader]] = {
    "residency": any_places,
    "waits_for": text_of,
    "running": count_of,
    "waiting": count_of,
    "slots": count_of,
    "prefill_ms_per_token": amount_of,
    "step_ms": amount_of,
    "error": or_null(_fault),
    "left_out": _left_out,
    "progress": or_null(_progress),
    "pushed_s": count_of,
    "deterministic": flag_of,
}

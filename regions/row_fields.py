"""The fields of a row, each with its reader: an object holds what its table says, no more and no less."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from regions.map import (
    MAX_ALIASES,
    MAX_AREAS,
    MAX_KEY_MODELS,
    MAX_KEYS,
    MAX_LEFT_OUT,
    MAX_MODELS,
    MAX_PARTS,
    MAX_PLACES,
    MAX_RESIDENCY,
    BadNameError,
    Canary,
    KeyGrant,
    LeftOutFile,
    ModelFault,
    ModelName,
    ModelRow,
    Progress,
    Quota,
    RolloutState,
    Rules,
    Tier,
    Trial,
    is_digest,
    region_name,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Reader = Callable[[Any], Any]

NONE: Final[Mapping[str, Reader]] = MappingProxyType({})
MAX_TEXT: Final = 1024  # characters in any one string of a row: messages are for people, and short
MAX_COUNT: Final = 1 << 53  # JSON numbers are exact up to here


class RowRefused(Exception):
    """One line that is not taken.

    `code` is one of: empty, oversized, not_json, not_canonical, unsigned, bad_signature, unknown_field,
    missing_field, bad_value, unknown_region, wrong_region, older, future, gap.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


def read(
    table: Mapping[str, Reader], value: object, where: str, later: Mapping[str, Reader] = NONE
) -> dict[str, Any]:
    """`value` through one reader a field; exactly the fields of `table`, and of `later` (see LATER) any."""
    if not isinstance(value, dict):
        raise RowRefused("bad_value", f"{where} is no object")
    if value.keys() != table.keys():
        _refuse_strange(table, value, where, later)
        table = {**table, **{name: each for name, each in later.items() if name in value}}
    return {name: _one(read, value[name], where, name) for name, read in table.items()}


def _refuse_strange(
    table: Mapping[str, Reader], value: dict[str, Any], where: str, later: Mapping[str, Reader]
) -> None:
    unknown = sorted(value.keys() - table.keys() - later.keys())
    missing = sorted(table.keys() - value.keys())
    if unknown or missing:
        code = "unknown_field" if unknown else "missing_field"
        raise RowRefused(code, f"{where}: {(unknown or missing)[0][:64]!r}")


def _one(read: Reader, value: object, where: str, name: str) -> Any:
    try:
        return read(value)
    except ValueError as error:
        raise RowRefused("bad_value", f"{where}: {name}: {error}") from error


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise ValueError(f"not a string of at most {MAX_TEXT} characters")
    return value


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_COUNT:
        raise ValueError("not a count")
    return value


def _amount(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_COUNT:
        raise ValueError("not an amount of zero or more")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("not true or false")  # noqa: TRY004 - one kind of refusal for every field
    return value


def _one_of(*names: str) -> Reader:
    def read(value: object) -> str:
        if value not in names or not isinstance(value, str):
            raise ValueError(f"not one of {', '.join(names)}")
        return value

    return read


def _revision(value: object) -> str:
    text = _text(value)
    if text and not is_digest(text):
        raise ValueError("neither empty nor 64 hex digits")
    return text


def _anything(value: object) -> object:
    return value


def _or_null(read: Reader) -> Reader:
    return lambda value: None if value is None else read(value)


def _fault(value: object) -> ModelFault:
    return ModelFault(**read({"code": _text, "message": _text, "next": _text}, value, "error"))


def _progress(value: object) -> Progress:
    table = {"phase": _text, "percent": _amount, "eta_s": _or_null(_amount)}
    return Progress(**read(table, value, "progress"))


def _left_out(value: object) -> tuple[LeftOutFile, ...]:
    if not isinstance(value, list) or len(value) > MAX_LEFT_OUT:
        raise ValueError(f"not a list of at most {MAX_LEFT_OUT}")
    table = {"path": _text, "reason": _text}
    return tuple(LeftOutFile(**read(table, each, "left_out")) for each in value)


def _models(value: object) -> Mapping[str, ModelRow]:
    if not isinstance(value, dict) or len(value) > MAX_MODELS:
        raise ValueError(f"not an object of at most {MAX_MODELS} models")
    models = {
        _model_name(name): ModelRow(**read(_MODEL, each, name, _MODEL_LATER)) for name, each in value.items()
    }
    return MappingProxyType(models)


def _gone(value: object) -> frozenset[str]:
    if not isinstance(value, list) or len(value) > MAX_MODELS:
        raise ValueError(f"not a list of at most {MAX_MODELS} models")
    return frozenset(_model_name(_text(each)) for each in value)


def _part(value: object) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError("not two counts: which part of how many")
    index, count = map(_count, value)
    if not (index < count and 1 < count <= MAX_PARTS):
        raise ValueError(f"not one of 2 to {MAX_PARTS} parts")
    return index, count


def _model_name(text: str) -> str:
    try:
        return str(ModelName.parse(text))
    except BadNameError as error:
        raise ValueError(f"{text[:64]!r} names no model") from error


def _keys(value: object) -> Mapping[str, KeyGrant]:
    if not isinstance(value, dict) or len(value) > MAX_KEYS:
        raise ValueError(f"not an object of at most {MAX_KEYS} keys")
    if not value:
        raise RowRefused("empty", "a policy without keys would lock everyone out")
    if not all(is_digest(digest) for digest in value):
        raise ValueError("a key is named by its SHA-256, 64 hex digits")
    return MappingProxyType({digest: _grant(each) for digest, each in value.items()})


def _grant(value: object) -> KeyGrant:
    return KeyGrant(**read(_GRANT, value, "key"))


def _scopes(value: object) -> frozenset[str]:
    if not isinstance(value, list) or len(value) > 16:
        raise ValueError("not a short list of scopes")
    return frozenset(_text(each) for each in value)


def _patterns(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_KEY_MODELS:
        raise ValueError(f"not a list of at most {MAX_KEY_MODELS} models")
    return tuple(_text(each) for each in value)


def _quota(value: object) -> Quota:
    if not isinstance(value, list) or len(value) != 4:
        raise ValueError("not four counts: requests and tokens a minute, streams, weight")
    return Quota(*map(_count, value))


def _place(value: object) -> str:
    try:
        return region_name(_text(value))
    except BadNameError as error:
        raise ValueError("not the name of a region or an area") from error


def _places(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not 0 < len(value) <= MAX_PLACES:
        raise ValueError(f"not a list of 1 to {MAX_PLACES} places")
    return tuple(_place(each) for each in value)


def _any_places(value: object) -> tuple[str, ...]:
    return () if value == [] else _places(value)


def _table_of(most: int, key: Reader, each: Reader) -> Reader:
    def read_all(value: object) -> Mapping[str, Any]:
        if not isinstance(value, dict) or len(value) > most:
            raise ValueError(f"not an object of at most {most} names")
        return MappingProxyType({key(name): each(one) for name, one in value.items()})

    return read_all


def _matching(pattern: str, what: str) -> Reader:
    shape = re.compile(pattern)

    def read(value: object) -> str:
        text = _text(value)
        if shape.fullmatch(text) is None:
            raise ValueError(f"{text[:64]!r} is no {what}")
        return text

    return read


def _rules(value: object) -> Rules:
    return Rules(**read(RULES, value, "rules"))


def _trial(value: object) -> Trial:
    table = {"serial": _count, "rules": _rules, "edges": _edges, "seconds": _amount}
    return Trial(**read(table, value, "trial"))


def _canary(value: object) -> Canary:
    return Canary(**read({"regions": _any_places, "bake_s": _amount}, value, "canary"))


def _edges(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not 0 < len(value) <= MAX_PLACES:
        raise ValueError(f"not a list of 1 to {MAX_PLACES} edges")
    return tuple(_text(each) for each in value)


_ALIAS: Final = _matching(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._:-]{0,95})?", "alias")
_SUBJECT: Final = _matching(
    r"tenant:[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
    r"|[A-Za-z0-9][A-Za-z0-9._-]{0,63}/(\*|[A-Za-z0-9][A-Za-z0-9._-]{0,95})",
    "model (org/name), org (org/*) or tenant (tenant:NAME)",
)
RULES: Final[Mapping[str, Reader]] = {
    "areas": _table_of(MAX_AREAS, _place, _places),
    "aliases": _table_of(MAX_ALIASES, _ALIAS, lambda value: _model_name(_text(value))),
    "residency": _table_of(MAX_RESIDENCY, _SUBJECT, _places),
    "drained": _any_places,
}
# LATER: fields that rows did not always have. A row without one has its default, so an edge of today takes a row of
# yesterday (its disk may hold one); edges are therefore upgraded before regions, and regions before the home.
POLICY_LATER: Final[Mapping[str, Reader]] = {
    "rules": _rules,
    "trial": _or_null(_trial),
    "withdrawn": _text,
    "canary": _canary,
}
ENVELOPE: Final[Mapping[str, Reader]] = {
    "kind": _one_of("region", "policy", "change"),
    "id": _text,
    "epoch": _count,
    "seq": _count,
    "body": _anything,
}
_GRANT: Final[Mapping[str, Reader]] = {
    "tenant": _text,
    "scopes": _scopes,
    "models": _patterns,
    "expires_s": _count,
    "quota": _quota,
}
POLICY: Final[Mapping[str, Reader]] = {"keys": _keys}
REGION: Final[Mapping[str, Reader]] = {
    "models": _models,
    "store_bytes_per_s": _amount,
    "host_bytes_per_s": _amount,
    "origin_bytes_per_s": _amount,
    "attach_s": _amount,
    "behind_bytes": _count,
    "behind_s": _amount,
    "eta_error": _amount,
    "draining": _flag,
}
REGION_LATER: Final[Mapping[str, Reader]] = {"part": _part}
CHANGE: Final[Mapping[str, Reader]] = {**REGION, "since": _count, "gone": _gone}
_MODEL: Final[Mapping[str, Reader]] = {
    "revision": _revision,
    "state": RolloutState,
    "tier": Tier,
    "kind": _one_of("generate", "embed", "rerank"),
    "bytes": _count,
    "max_len": _count,
}
# Fields that are left out where they have their default.
_MODEL_LATER: Final[Mapping[str, Reader]] = {
    "residency": _any_places,
    "waits_for": _text,
    "running": _count,
    "waiting": _count,
    "slots": _count,
    "prefill_ms_per_token": _amount,
    "step_ms": _amount,
    "error": _or_null(_fault),
    "left_out": _left_out,
    "progress": _or_null(_progress),
    "pushed_s": _count,
    "deterministic": _flag,
}

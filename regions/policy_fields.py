"""The fields of the policy row, each with its reader: keys, rules, a trial of them, canaries."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from regions.map.names import is_digest
from regions.map.policy import (
    MAX_ALIASES,
    MAX_AREAS,
    MAX_KEY_MODELS,
    MAX_KEYS,
    MAX_PLACES,
    MAX_RESIDENCY,
    Canary,
    KeyGrant,
    Quota,
    Rules,
    Trial,
)
from regions.row_fields import (
    RowRefused,
    amount_of,
    any_places,
    count_of,
    matching,
    model_name,
    or_null,
    place_of,
    places_of,
    read,
    table_of,
    text_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from regions.row_fields import Reader


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
    return frozenset(text_of(each) for each in value)


def _patterns(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_KEY_MODELS:
        raise ValueError(f"not a list of at most {MAX_KEY_MODELS} models")
    return tuple(text_of(each) for each in value)


def _quota(value: object) -> Quota:
    if not isinstance(value, list) or len(value) != 4:
        raise ValueError("not four counts: requests and tokens a minute, streams, weight")
    return Quota(*map(count_of, value))


def _rules(value: object) -> Rules:
    return Rules(**read(RULES, value, "rules"))


def _trial(value: object) -> Trial:
    table = {"serial": count_of, "rules": _rules, "edges": _edges, "seconds": amount_of}
    return Trial(**read(table, value, "trial"))


def _canary(value: object) -> Canary:
    return Canary(**read({"regions": any_places, "bake_s": amount_of}, value, "canary"))


def _edges(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not 0 < len(value) <= MAX_PLACES:
        raise ValueError(f"not a list of 1 to {MAX_PLACES} edges")
    return tuple(text_of(each) for each in value)


_ALIAS: Final = matching(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._:-]{0,95})?", "alias")
_SUBJECT: Final = matching(
    r"tenant:[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
    r"|[A-Za-z0-9][A-Za-z0-9._-]{0,63}/(\*|[A-Za-z0-9][A-Za-z0-9._-]{0,95})",
    "model (org/name), org (org/*) or tenant (tenant:NAME)",
)
RULES: Final[Mapping[str, Reader]] = {
    "areas": table_of(MAX_AREAS, place_of, places_of),
    "aliases": table_of(MAX_ALIASES, _ALIAS, lambda value: model_name(text_of(value))),
    "residency": table_of(MAX_RESIDENCY, _SUBJECT, places_of),
    "drained": any_places,
}
# LATER: fields that rows did not always have. A row without one has its default, so an edge of today takes a row of
# yesterday (its disk may hold one); edges are therefore upgraded before regions, and regions before the home.
POLICY_LATER: Final[Mapping[str, Reader]] = {
    "rules": _rules,
    "trial": or_null(_trial),
    "withdrawn": text_of,
    "canary": _canary,
}
_GRANT: Final[Mapping[str, Reader]] = {
    "tenant": text_of,
    "scopes": _scopes,
    "models": _patterns,
    "expires_s": count_of,
    "quota": _quota,
}
POLICY: Final[Mapping[str, Reader]] = {"keys": _keys}

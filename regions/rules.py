"""The operator's rules as an object of the home region: read strictly, and written. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from regions.map.policy import ANY, MAX_PLACES, Canary, Rules
from regions.policy_fields import RULES
from regions.row_fields import RowRefused, read
from regions.rows import canonical, rules_body
from weights_cache.model.strict import StrictError, fields, number, one_of, parse, several, text

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

SCHEMA: Final = "nearfield.rules/1"
MAX_RULES_BYTES: Final = 512 << 10  # half a row: the keys need the rest
TRIAL_S: Final = 30.0  # new rules stand this long at the canary edges, unless told otherwise
MAX_TRIAL_S: Final = 86_400.0


class RulesError(ValueError):
    """Rules that cannot be in force; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Ordered:
    """What the operator wrote: rules, and how they are tried.

    `canary_edges` try them for `trial_s`; without any they are for all edges at once. `canary` is for revisions.
    """

    rules: Rules = field(default_factory=Rules)
    canary_edges: tuple[str, ...] = ()
    trial_s: float = TRIAL_S
    canary: Canary = field(default_factory=Canary)


def read_rules(data: bytes, all_regions: Collection[str]) -> Ordered:
    """The rules in an object's bytes; every region that they name is one of `all_regions`. Raises RulesError."""
    try:
        value = fields(DEFAULTS | _object(parse(data, MAX_RULES_BYTES)), _TABLE, "rules")
        canary = fields(DEFAULT_CANARY | _object(value["canary"]), _CANARY, "canary")
        rules = Rules(**read(RULES, {name: value[name] for name in RULES}, "rules"))
    except (StrictError, RowRefused) as error:
        raise RulesError(str(error)) from error
    _check(rules, all_regions)
    _known(canary["regions"], all_regions, "canary.regions")
    found = Canary(canary["regions"], canary["bake_s"])
    return Ordered(rules, canary["edges"], canary["trial_s"], found)


def written(ordered: Ordered) -> bytes:
    """The object's bytes."""
    canary = {
        "edges": list(ordered.canary_edges),
        "trial_s": ordered.trial_s,
        "regions": list(ordered.canary.regions),
        "bake_s": ordered.canary.bake_s,
    }
    return canonical({"schema": SCHEMA, "canary": canary, **rules_body(ordered.rules)})


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise StrictError("the rules are no object, or canary is none")
    return value


def _same(value: object, _where: str) -> object:
    return value  # read by the row's own readers


def _check(rules: Rules, all_regions: Collection[str]) -> None:
    """Names that mean nothing, or two things. Raises RulesError."""
    for area, regions in rules.areas.items():
        if area in all_regions or area == ANY:
            raise RulesError(f"the area {area!r} has the name of a region, or of all of them")
        _known(regions, all_regions, f"the area {area!r}")
    _known(rules.drained, all_regions, "drained")
    for subject, places in rules.residency.items():
        _known(places, {*all_regions, *rules.areas, ANY}, f"the residency of {subject!r}")
    for alias, model in rules.aliases.items():
        if model in rules.aliases:
            raise RulesError(f"the alias {alias!r} means {model!r}, which is an alias itself")


def _known(names: Iterable[str], known: Collection[str], where: str) -> None:
    for name in names:
        if name not in known:
            raise RulesError(f"{where} names {name!r}; there are: {', '.join(sorted(known))}")


_TABLE: Final = {"schema": one_of(SCHEMA), "canary": _same, **dict.fromkeys(RULES, _same)}
_NAME: Final = text(64, r"[A-Za-z0-9][A-Za-z0-9._-]*")
_CANARY: Final = {
    "edges": several(_NAME, MAX_PLACES),
    "trial_s": number(0.0, MAX_TRIAL_S),
    "regions": several(_NAME, MAX_PLACES),
    "bake_s": number(0.0, MAX_TRIAL_S),
}
DEFAULTS: Final[dict[str, Any]] = {"canary": {}, **rules_body(Rules())}
DEFAULT_CANARY: Final[dict[str, Any]] = {
    "edges": [],
    "trial_s": TRIAL_S,
    "regions": [],
    "bake_s": Canary().bake_s,
}

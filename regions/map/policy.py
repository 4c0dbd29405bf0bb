"""What the home region says for all: who may call, where requests may go, who goes first with a revision.

Field names are the names on the wire, as in `region.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

POLICY_ID: Final = "policy"  # there is one policy row, signed by the home region
MAX_KEYS: Final = 6_000  # in the policy row: some 170 bytes each, within MAX_ROW_BYTES
MAX_KEY_MODELS: Final = 32  # patterns of models that one key may name
MAX_AREAS: Final = 64  # in the policy row; continents, countries, clouds
MAX_PLACES: Final = 256  # regions in one area, or places in one rule
MAX_ALIASES: Final = 1_000  # names of models in the policy row
MAX_RESIDENCY: Final = 1_000  # rules about where models and tenants may be served

ANY: Final = "any"  # the area of all regions


@dataclass(frozen=True, slots=True)
class Quota:
    """What the holder of one key may use at each edge; 0: no bound. `weight` is its share of a busy engine."""

    requests_per_min: int = 0
    tokens_per_min: int = 0
    streams: int = 0
    weight: int = 1

    @property
    def is_bounded(self) -> bool:
        """Whether the edge has anything to count."""
        return bool(self.requests_per_min or self.tokens_per_min or self.streams)


UNBOUNDED: Final = Quota()
ALL_MODELS: Final = ("*",)


@dataclass(frozen=True, slots=True)
class KeyGrant:
    """What the holder of one API key may do: scopes `infer`, `admin`.

    `models` are names (`acme/chat`), organisations (`acme/*`) or `*`. `expires_s` is when it ends, in seconds since
    1970; 0: never.
    """

    tenant: str
    scopes: frozenset[str]
    models: tuple[str, ...] = ALL_MODELS
    expires_s: int = 0
    quota: Quota = UNBOUNDED

    def names(self, model: str) -> bool:
        """Whether the key may use `model`, whether there is one or not.

        A preview is no part of what its model's name grants: it may not be out yet.
        """
        return any(each in ("*", model, model.partition("/")[0] + "/*") for each in self.models)


@dataclass(frozen=True, slots=True)
class Rules:
    """Where requests may go, and by which names: the same for all edges.

    A place is a region or an area. `areas` name regions (`eu`: fra, ams). `aliases` are names that clients ask for,
    and the models that are meant. `residency` says by model (`org/name`), org (`org/*`) or tenant (`tenant:NAME`) the
    places outside which nothing of theirs is ever asked for. `drained` regions are a last resort.
    """

    areas: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    aliases: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    residency: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    drained: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Trial:
    """New rules that only `edges` follow, until they have stood `seconds` of it; `serial` tells trials apart."""

    serial: int
    rules: Rules
    edges: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Canary:
    """Who goes first with a new revision of a model: the first of `regions` that serves it, for `bake_s` seconds.

    Without `regions` it is the first of the fleet's that serves it.
    """

    regions: tuple[str, ...] = ()
    bake_s: float = 10.0


@dataclass(frozen=True, slots=True)
class PolicyRow:
    """What the home region signs for all edges: who may call, and where requests may go.

    `keys` are digests (SHA-256 hex) and their grants, never the keys themselves; a change of them is for every edge
    at once. `rules` are in force; newer ones are first in a `trial`. `withdrawn` says why the last trial ended badly.
    `canary` is for revisions of models.
    """

    epoch: int
    seq: int
    keys: Mapping[str, KeyGrant] = field(default_factory=lambda: MappingProxyType({}))
    id: str = POLICY_ID
    rules: Rules = field(default_factory=Rules)
    trial: Trial | None = None
    withdrawn: str = ""
    canary: Canary = field(default_factory=Canary)

    def rules_at(self, edge: str) -> Rules:
        """The rules that an edge follows."""
        return self.trial.rules if self.trial is not None and edge in self.trial.edges else self.rules

"""The map's types: what one region says about itself, and what the home region says about keys.

Frozen values that import nothing of ours. A raw string becomes a `ModelName` once, at the wall. Field names
of the rows are the names on the wire (see `rows.py`), so a row in a log and a row in the code look alike.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

MODELS_BUCKET: Final = "models"  # users push here; it lives in the home region
SYSTEM_BUCKET: Final = "nearfield-system"  # revisions, pointers, refusals, keys: ours, and durable
BLOBS_BUCKET: Final = "nearfield-blobs"  # in every region's store; key = BLAKE3 hex, never overwritten

POLICY_ID: Final = "policy"  # there is one policy row, signed by the home region
ROW_PERIOD_S: Final = 1.0  # a region says its row at least this often, so silence means something
ROW_STALE_S: Final = 3.0  # three missed rows: its figures are doubted
ROW_LOST_S: Final = 15.0  # its figures say nothing any more; the region is a last resort
MAX_ROW_BYTES: Final = 1 << 20  # one line; a row past its bounds is refused and the last one kept
MAX_PARTS: Final = 128  # lines of one whole row, some 64 KiB of models each
MAX_MODELS: Final = 20_000  # in one row, in all its parts; twice as many as a region is meant to have
MAX_KEYS: Final = 6_000  # in the policy row: some 170 bytes each, within MAX_ROW_BYTES
MAX_KEY_MODELS: Final = 32  # patterns of models that one key may name
MAX_AREAS: Final = 64  # in the policy row; continents, countries, clouds
MAX_PLACES: Final = 256  # regions in one area, or places in one rule
MAX_ALIASES: Final = 1_000  # names of models in the policy row
MAX_RESIDENCY: Final = 1_000  # rules about where models and tenants may be served
MAX_LEFT_OUT: Final = 32  # files named as left out in a row; the bucket's status object has them all

# Headers between hops (edge -> gateway -> node and back). Lower case, as wire/ has them.
REQUEST_ID: Final = "x-request-id"
TENANT: Final = "x-nearfield-tenant"
WEIGHT: Final = "x-nearfield-weight"  # its key's; absent: 1
WAITED: Final = "x-nearfield-waited"  # "1" where it had to wait for a place of its key's; else absent
TOKENS: Final = "x-nearfield-tokens"  # of a whole answer: the prompt's and its own, as the node counted them
KEY: Final = "x-nearfield-key"  # its public id: the first KEY_ID_CHARS digits of its digest
KEY_ID_CHARS: Final = 12
ATTEMPT: Final = "x-nearfield-attempt"  # which of the edge's tries at regions this is, from 0
DEADLINE_MS: Final = "x-nearfield-deadline-ms"
WAIT_S: Final = "x-nearfield-wait"
RESUME: Final = "x-nearfield-resume"
ASK: Final = "x-nearfield-ask"
REVISION: Final = "x-nearfield-revision"
POP: Final = "x-nearfield-pop"
FOR: Final = "x-nearfield-for"  # edge -> gateway: another region's name, to which the request is passed on
PASSED_BY: Final = "x-nearfield-passed-by"  # gateway -> gateway: who did so
REGION: Final = "x-nearfield-region"
START: Final = "x-nearfield-start"
REMOTE_BYTES: Final = "x-nearfield-remote-bytes"
ROUTE: Final = "x-nearfield-route"
PREFER_REGION: Final = "x-nearfield-prefer-region"
REPLICA: Final = "x-nearfield-replica"
PREFER_REPLICA: Final = "x-nearfield-prefer-replica"

ANY: Final = "any"  # the area of all regions

MODEL_PATTERN: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
PREVIEW_PATTERN: Final = r"[a-z0-9][a-z0-9-]{0,31}"  # as a label of a host name
DEPLOYED_PATTERN: Final = rf"{MODEL_PATTERN}(?:@{PREVIEW_PATTERN})?"
MODEL_WORDS: Final = (
    "a model is named org/name or org/name@preview: org and name of letters, digits, '.', '_' and '-', at most 64 and "
    "96 of them, a preview of a-z, 0-9 and '-', at most 32; each begins with a letter or digit"
)
MAX_DEPLOYED_CHARS: Final = 64 + 1 + 96 + 1 + 32
_MODEL = re.compile(DEPLOYED_PATTERN)
_REGION = re.compile(r"[a-z][a-z0-9-]{0,31}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class BadNameError(ValueError):
    """A model or region name outside its pattern; the message says it in words."""


@dataclass(frozen=True, slots=True, order=True)
class ModelName:
    """`org/name`, or `org/name@preview`; made only by `parse`, so all parts are safe in keys and paths.

    `name` is with its preview's: that is a model of its own but for whose revisions it serves.
    """

    org: str
    name: str

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """The name in `text`; raises BadNameError."""
        if _MODEL.fullmatch(text) is None:
            raise BadNameError(MODEL_WORDS)
        org, _, name = text.partition("/")
        return cls(org, name)

    @property
    def prefix(self) -> str:
        """Where its files lie in the bucket `models`: `org/name/`."""
        return f"{self.org}/{self.name}/"

    def __str__(self) -> str:
        return f"{self.org}/{self.name}"


def base_of(model: str) -> str:
    """The model that a name's revisions are of: `org/name` of `org/name@preview`, and of itself."""
    return model.partition("@")[0]


def is_preview(model: str) -> bool:
    """Whether it is a preview of another model."""
    return "@" in model


def region_name(text: str) -> str:
    """`text` if it may name a region; raises BadNameError."""
    if _REGION.fullmatch(text) is None:
        raise BadNameError("a region's name has 1 to 32 of a-z, 0-9 and '-', and begins with a letter")
    return text


def is_digest(text: str) -> bool:
    """Whether `text` is 64 lower-case hex digits: a key's SHA-256, a blob's or a revision's BLAKE3."""
    return _DIGEST.fullmatch(text) is not None


class Tier(StrEnum):
    """Where a revision's bytes are, nearest to an answer last."""

    ORIGIN = "origin"  # only in the home region
    REGION = "region"  # in this region's store
    HOST = "host"  # in a node's memory
    RESIDENT = "resident"  # in a live process


class RolloutState(StrEnum):
    """How far one region is with a model's revision; only `live` and `draining` serve."""

    PUSHED = "pushed"
    VERIFIED = "verified"
    REPLICATED = "replicated"
    WARMING = "warming"
    LIVE = "live"
    DRAINING = "draining"
    RETIRED = "retired"
    FAILED = "failed"


SERVING: Final = frozenset({RolloutState.LIVE, RolloutState.DRAINING})
Kind = Literal["generate", "embed", "rerank"]


@dataclass(frozen=True, slots=True)
class ModelFault:
    """Why a model, or its newest push, is not served here, and what its owner does next."""

    code: str
    message: str
    next: str


@dataclass(frozen=True, slots=True)
class LeftOutFile:
    """A pushed file that is no part of the revision (never loaded, never followed)."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the step under way is: `percent` 0..100; `eta_s` seconds left where the step knows."""

    phase: str
    percent: float
    eta_s: float | None = None


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One model in one region.

    `revision` is the one that answers (64 hex), empty while none ever did. `bytes` are its weights.
    `max_len` counts tokens. `running`, `waiting` and `slots` count sequences over all workers of the region.
    `prefill_ms_per_token` and `step_ms` are measured, 0 while unknown. `error` may stand beside a live older
    revision. `pushed_s` is the last push, in seconds since 1970. `deterministic`: its answers do not depend on what
    else runs. `residency`: the places (regions or areas) that its own spec keeps its requests in; empty: anywhere.
    `waits_for`: the canary region whose verdict on a newer revision is waited for here; empty: none.
    """

    revision: str
    state: RolloutState
    tier: Tier
    kind: Kind
    bytes: int
    max_len: int
    running: int = 0
    waiting: int = 0
    slots: int = 0
    prefill_ms_per_token: float = 0.0
    step_ms: float = 0.0
    error: ModelFault | None = None
    left_out: tuple[LeftOutFile, ...] = ()
    progress: Progress | None = None
    pushed_s: int = 0
    deterministic: bool = False
    residency: tuple[str, ...] = ()
    waits_for: str = ""

    @property
    def serves(self) -> bool:
        """Whether a request may be sent here: probed and routable, resident or not."""
        return self.state in SERVING and self.revision != ""


@dataclass(frozen=True, slots=True)
class RegionRow:
    """What region `id` says of itself. Its only writer is the region; the last (`epoch`, `seq`) wins.

    `epoch` is the writer's start, ms since 1970; `seq` counts its rows from 1. Bandwidths are bytes/s of the
    tiers as measured (0 while unknown); `attach_s` is the measured time from bytes at hand to a process that
    can answer. `behind_bytes` of revisions that should be here have not come from home yet; `behind_s` is since when
    the oldest is due, or the home silent. `eta_error` is how far the estimates of its last starts were off, as a share
    of what they took; 0 while there was none.
    """

    id: str
    epoch: int
    seq: int
    models: Mapping[str, ModelRow] = field(default_factory=lambda: MappingProxyType({}))
    store_bytes_per_s: float = 0.0
    host_bytes_per_s: float = 0.0
    origin_bytes_per_s: float = 0.0
    attach_s: float = 0.0
    behind_bytes: int = 0
    behind_s: float = 0.0
    eta_error: float = 0.0
    draining: bool = False


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

"""What one region says about itself: its models, where their bytes are, how far each is.

Field names of the rows are the names on the wire (see `rows.py`), so a row in a log and a row in the code look alike.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

ROW_PERIOD_S: Final = 1.0  # a region says its row at least this often, so silence means something
ROW_STALE_S: Final = 3.0  # three missed rows: its figures are doubted
ROW_LOST_S: Final = 15.0  # its figures say nothing any more; the region is a last resort
MAX_ROW_BYTES: Final = 1 << 20  # one line; a row past its bounds is refused and the last one kept
MAX_PARTS: Final = 128  # lines of one whole row, some 64 KiB of models each
MAX_MODELS: Final = 20_000  # in one row, in all its parts; twice as many as a region is meant to have
MAX_LEFT_OUT: Final = 32  # files named as left out in a row; the bucket's status object has them all


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

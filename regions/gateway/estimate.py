"""How long it should be from a start's order to the first token of who waits for it; and how far off that was. Pure.

Bytes over measured bandwidth (`regions.offer`, by which an edge chooses between regions too), and what starts of this
very revision from this very tier have taken beyond that: modules to make, a first pass, a prompt. Until one was
measured, what the node's last start took without its bytes stands for it. An engine begins while its bytes still
land, so what is beyond them may be less than nothing, and only the first token says that they are here.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import median_low
from typing import TYPE_CHECKING, Final

from regions.map.region import Tier
from regions.offer import bytes_s, start_s

if TYPE_CHECKING:
    from regions.deployments import Deployment, Deployments

WEIGHT: Final = 0.3  # of the newest start in the mean error: three starts move it most of the way
LEAST_S: Final = 0.001  # a shorter start is not timed more exactly than this
NUM_KEPT: Final = 5  # starts whose median stands for the next one: one on a busy machine does not move it
MAX_KNOWN: Final = 4096  # revisions and tiers that are remembered


@dataclass(frozen=True, slots=True)
class Measured:
    """What a region's nodes and its link home were measured at; 0 while unknown."""

    store_bytes_per_s: float
    host_bytes_per_s: float
    origin_bytes_per_s: float
    attach_s: float


def measured(deployments: Deployments) -> Measured:
    """The best of each figure over the region's nodes."""
    nodes = tuple(deployments.nodes.values())
    return Measured(
        store_bytes_per_s=max((node.store_bytes_per_s for node in nodes), default=0.0),
        host_bytes_per_s=max((node.host_bytes_per_s for node in nodes), default=0.0),
        origin_bytes_per_s=deployments.origin_bytes_per_s or 0.0,
        attach_s=min((node.attach_s for node in nodes if node.attach_s), default=0.0),
    )


class Starts:
    """What starts took beyond the way of their bytes, by revision and tier; the latest ones."""

    def __init__(self) -> None:
        self._own_s: dict[tuple[str, Tier], deque[float]] = {}

    def own_s(self, revision_id: str, tier: Tier) -> float | None:
        """Seconds, less than 0 where it went on beside them; None before the first."""
        known = self._own_s.get((revision_id, tier))
        return median_low(known) if known else None

    def learn(self, revision_id: str, tier: Tier, own_s: float) -> None:
        """One more start, from its order to a first token."""
        if (known := self._own_s.pop((revision_id, tier), None)) is None:
            known = deque(maxlen=NUM_KEPT)
        known.append(own_s)
        self._own_s[revision_id, tier] = known
        while len(self._own_s) > MAX_KNOWN:
            del self._own_s[next(iter(self._own_s))]


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds to the first token of a start from `tier`, of which the way of its bytes takes `bytes_s`."""

    tier: Tier
    seconds: float
    bytes_s: float


def estimate(deployments: Deployments, deployment: Deployment, starts: Starts) -> Estimate:
    """For the live revision, from the tier in which its bytes are."""
    tier, live = deployments.tier(deployment), deployment.live
    num_bytes, rates = live.facts.weight_bytes if live else 0, measured(deployments)
    if tier is Tier.RESIDENT:
        return Estimate(tier, 0.0, 0.0)
    way_s, own_s = bytes_s(tier, num_bytes, rates), starts.own_s(live.id, tier) if live else None
    known_s = start_s(tier, num_bytes, rates) if own_s is None else max(0.0, own_s + way_s)
    return Estimate(tier, known_s, way_s)


@dataclass(frozen=True, slots=True)
class Score:
    """One estimate and what came of it, in seconds."""

    expected_s: float
    took_s: float

    @property
    def error(self) -> float:
        """How far off it was, as a share of what it took: 0.5 is half of it too much or too little."""
        took_s = max(self.took_s, LEAST_S)
        return abs(self.expected_s - took_s) / took_s

    def as_value(self) -> dict[str, float]:
        """For a receipt, in milliseconds."""
        return {"expected_ms": round(self.expected_s * 1e3, 3), "took_ms": round(self.took_s * 1e3, 3)}


class Accuracy:
    """The mean error of the last estimates; None before the first."""

    def __init__(self) -> None:
        self.error: float | None = None

    def observe(self, score: Score) -> None:
        """Count one more."""
        last = self.error
        self.error = score.error if last is None else last + WEIGHT * (score.error - last)

"""How long a start should take, by what was measured here; and how far off that was. Pure.

The estimate is the same figure by which an edge chooses between regions (`regions.offer`), made when the wake begins,
so its score is also the choice's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from regions.offer import start_s

if TYPE_CHECKING:
    from regions.deployments import Deployment, Deployments

WEIGHT: Final = 0.3  # of the newest start in the mean error: three starts move it most of the way
LEAST_S: Final = 0.001  # a shorter start is not timed more exactly than this


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


def expected_s(deployments: Deployments, deployment: Deployment) -> float:
    """Seconds until the live revision should be resident, from the tier in which its bytes are."""
    num_bytes = deployment.live.facts.weight_bytes if deployment.live else 0
    return start_s(deployments.tier(deployment), num_bytes, measured(deployments))


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

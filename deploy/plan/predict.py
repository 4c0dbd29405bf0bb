"""How long it will take, by what each region has measured: the figures by which an edge chooses. Pure.

A start is reckoned as everywhere else (`regions.offer.start_s`), so the error of past starts that a region keeps
(`eta_error` in its row) is the error of this prediction too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from regions.map.region import Tier
from regions.offer import ORIGIN_BYTES_PER_S, start_s

STARTS = (Tier.ORIGIN, Tier.REGION, Tier.HOST)


@dataclass(frozen=True, slots=True)
class Measured:
    """What a region's row says of its links and its starts; 0 while unknown."""

    store_bytes_per_s: float
    host_bytes_per_s: float
    origin_bytes_per_s: float
    attach_s: float
    eta_error: float

    @property
    def is_complete(self) -> bool:
        """Whether a start from the region's store rests on measurements alone."""
        return bool(self.store_bytes_per_s and self.attach_s)


def measured(body: Mapping[str, Any] | None) -> Measured:
    """From the body of a region's row, as `/nearfield/status` has it; None: the edge does not hear it."""
    row = body or {}
    names = ("store_bytes_per_s", "host_bytes_per_s", "origin_bytes_per_s", "attach_s", "eta_error")
    return Measured(*(float(row.get(name) or 0.0) for name in names))


def cold_s(weight_bytes: int, seen: Measured) -> dict[str, float]:
    """Seconds of a start by where the bytes are: only at home, in the region's store, on the host."""
    return {str(tier): start_s(tier, weight_bytes, seen) for tier in STARTS}


def brought_s(copy_bytes: int, weight_bytes: int, seen: Measured) -> float:
    """Seconds of a region's own work on a push: what it lacks comes from home, then it starts once from its store."""
    copied_s = copy_bytes / (seen.origin_bytes_per_s or ORIGIN_BYTES_PER_S)
    return copied_s + start_s(Tier.REGION, weight_bytes, seen)

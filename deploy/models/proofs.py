"""Proofs of two revisions, set against each other: what `nearfield push` says of the change. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deploy.terminal import show
from regions.objects.proof import Proof


@dataclass(frozen=True, slots=True)
class Change:
    """One region's proof, and the one of the revision before; ratios are new to old, None where one is not known."""

    now: Proof
    before: Proof | None

    @property
    def cold(self) -> float | None:
        """Only of two starts from the same place."""
        if self.before is None or self.before.start != self.now.start:
            return None
        return _ratio(self.now.cold_s, self.before.cold_s)

    @property
    def warm(self) -> float | None:
        """Of the warm answers."""
        return None if self.before is None else _ratio(self.now.warm_s, self.before.warm_s)

    def as_value(self) -> dict[str, Any]:
        """For programs: schema `push`."""
        before = self.before
        return {
            "region": self.now.region,
            "start": self.now.start,
            "cold_s": self.now.cold_s,
            "cold_s_before": before.cold_s if before else None,
            "cold_ratio": self.cold,
            "warm_s": self.now.warm_s,
            "warm_s_before": before.warm_s if before else None,
            "warm_ratio": self.warm,
            "remote_bytes": self.now.remote_bytes,
        }

    def words(self) -> str:
        """One line: `iad  cold 1.74 s (-18 %) from region, warm 38 ms (±0 %), 6.9 MB moved, 0 B of it from afar`."""
        now = self.now
        cold = f"cold {_seconds(now.cold_s)}{_percent(self.cold)} from {now.start or '?'}"
        warm = f"warm {_seconds(now.warm_s)}{_percent(self.warm)}"
        return f"{now.region}  {cold}, {warm}, {show.size(now.remote_bytes)} from another region"


def changes(now: Mapping[str, Proof], before: Mapping[str, Proof]) -> list[Change]:
    """By region; one whose earlier proof failed has nothing to be set against."""
    sound = {region: proof for region, proof in before.items() if proof.ok}
    return [Change(now[region], sound.get(region)) for region in sorted(now)]


def _ratio(now: float | None, before: float | None) -> float | None:
    return now / before if now is not None and before else None


def _seconds(seconds: float | None) -> str:
    return show.millis(None if seconds is None else 1e3 * seconds)


def _percent(ratio: float | None) -> str:
    if ratio is None:
        return ""
    rounded = round(100 * (ratio - 1))
    return " (±0 %)" if rounded == 0 else f" ({rounded:+d} %)"

"""Where each region is with each model, read from what the edge says of the regions' rows. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Standing:
    """Where one region is with one model."""

    region: str
    state: str
    revision: str | None
    tier: str | None
    percent: float | None
    error: Mapping[str, str] | None
    eta_s: float | None = None
    pushed_s: int = 0

    @property
    def live(self) -> bool:
        """Probed and routable."""
        return self.state == "live"


def standings(status: Mapping[str, Any], model: str) -> dict[str, Standing]:
    """What each region that the edge hears says of `model`; one that says nothing of it is `absent`."""
    return {region: _standing(region, seen, model) for region, seen in status["regions"].items()}


def _standing(region: str, seen: Mapping[str, Any], model: str) -> Standing:
    row = ((seen.get("body") or {}).get("models") or {}).get(model)
    if row is None:
        return Standing(region, "absent", None, None, None, None)
    progress = row.get("progress") or {}
    return Standing(
        region,
        row["state"],
        row.get("revision"),
        row.get("tier"),
        progress.get("percent"),
        row.get("error"),
        progress.get("eta_s"),
        row.get("pushed_s") or 0,
    )


def why(where: Standing) -> str:
    """What holds it up, in brackets; nothing while nothing does."""
    return "" if where.error is None else f" ({where.error['message']})"


def models(status: Mapping[str, Any]) -> list[str]:
    """Every model that any region speaks of, by name."""
    bodies = [seen.get("body") or {} for seen in status["regions"].values()]
    return sorted({name for body in bodies for name in body.get("models") or {}})

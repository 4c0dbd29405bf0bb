"""The fleet's other edges on the page: what each said last, and how fast its counts grow. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edge.pops.hear import Other
    from regions.pops import Passage


def counts(others: Mapping[str, Other]) -> dict[str, float]:
    """What grows, by a name for each: requests that failed, and those that each region answered."""
    found: dict[str, float] = {}
    for edge, other in others.items():
        if other.word is not None:
            found[f"failed at {edge}"] = other.word.failed
            found |= {f"{edge} to {name}": way.answered for name, way in other.word.regions.items()}
    return found


def company(others: Mapping[str, Other], rates: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """Each of them as JSON-ready values; `rates` has what `counts` named, by the second."""
    return {edge: _one(edge, other, rates) for edge, other in others.items()}


def _one(edge: str, other: Other, rates: Mapping[str, float]) -> dict[str, Any]:
    word = other.word
    regions = word.regions.items() if word is not None else ()
    return {
        "heard_s": None if other.heard_s is None else round(other.heard_s, 1),
        "processes": word.processes if word is not None else 0,
        "failed_per_s": round(rates.get(f"failed at {edge}", 0.0), 2),
        "regions": {name: _way(way, rates.get(f"{edge} to {name}", 0.0)) for name, way in regions},
    }


def _way(way: Passage, answers_per_s: float) -> dict[str, Any]:
    return {
        "rtt_ms": way.rtt_ms,
        "down": way.down,
        "busy": way.busy,
        "answers_per_s": round(answers_per_s, 2),
    }

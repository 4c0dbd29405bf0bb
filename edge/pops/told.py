"""The fleet's edges as one of them tells operators of them, itself among them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edge.pops.hear import Other
    from regions.pops import Word


def edge_body(other: Other, per_s: tuple[float, float] | None, *, is_self: bool) -> dict[str, Any]:
    """One edge as JSON-ready values; None is what is not known, and all of it where it was never heard."""
    word = other.word
    answered, failed = per_s if per_s is not None else (None, None)
    return {
        "self": is_self,
        "heard_s": None if other.heard_s is None else round(other.heard_s, 1),
        "up_s": None if word is None or word.up_s is None else round(word.up_s + (other.heard_s or 0.0)),
        "processes": 0 if word is None else word.processes,
        "nearest": None if word is None else nearest(word),
        "answers_per_s": None if answered is None else round(answered, 2),
        "failed_per_s": None if failed is None else round(failed, 2),
        "regions": {} if word is None else _regions(word),
    }


def nearest(word: Word) -> str | None:
    """Where an edge stands: the region that it reaches soonest, of those that are not down."""
    ways = [
        (way.rtt_ms, name) for name, way in word.regions.items() if way.rtt_ms is not None and not way.down
    ]
    return min(ways)[1] if ways else None


def _regions(word: Word) -> Mapping[str, Any]:
    return {
        name: {"rtt_ms": way.rtt_ms, "down": way.down, "busy": way.busy, "answered": way.answered}
        for name, way in word.regions.items()
    }

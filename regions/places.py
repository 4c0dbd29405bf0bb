"""What the rules say about where one request may be served. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from regions.map.names import base_of
from regions.map.policy import ANY

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from regions.map.policy import Rules


def regions_of(places: Iterable[str], areas: Mapping[str, tuple[str, ...]]) -> frozenset[str] | None:
    """The regions of regions and areas; None for all. A place that is no area is a region, known or not."""
    found: set[str] = set()
    for place in places:
        if place == ANY:
            return None
        found.update(areas.get(place, (place,)))
    return frozenset(found)


def resident(rules: Rules, tenant: str, model: str, said: Iterable[tuple[str, ...]]) -> frozenset[str] | None:
    """The only regions where a tenant's request for a model may be served; None: anywhere.

    Args:
        rules: in force.
        tenant: who asks.
        model: `org/name`, or a preview of it.
        said: the model's own residency as each region's row has it; all of them hold.
    """
    subjects = {
        model,
        base_of(model),
        f"{model.partition('/')[0]}/*",
        f"tenant:{tenant}",
    }  # a preview's are its model's too
    kept = [rules.residency[each] for each in subjects if each in rules.residency]
    allowed: frozenset[str] | None = None
    for places in (*kept, *filter(None, said)):
        regions = regions_of(places, rules.areas)
        if regions is not None:
            allowed = regions if allowed is None else allowed & regions
    return allowed

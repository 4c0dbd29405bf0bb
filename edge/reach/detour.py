"""The way round a cut link: another region's gateway passes a request on to the one that this edge cannot reach.

Only where nobody who has the model can be reached; and one hop, because two of them could go in circles. Time is an
argument.
"""

from __future__ import annotations

from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edge.reach.region import Reach
    from edge.relay.setback import Setback

UNREACHED: Final = frozenset({"connect", "send", "head"})  # how far a request came that no region answered
UNAVAILABLE: Final = "region_unavailable"  # the word of a gateway that cannot reach the region either
BLIND_S: Final = 10.0  # who could not reach a region is not asked for it for so long
HERE_MS: Final = 2.0  # a region no further than this is in this edge's own place: likely behind the same cut
YOUNG_S: Final = 5.0  # after so long a gateway behind the same cut knows of it, and refuses in no time


class Detours:
    """Who passes on to a region. It remembers only who could not, at most one entry a pair of regions."""

    def __init__(self, reaches: Mapping[str, Reach]) -> None:
        self._reaches = reaches
        self._blind: dict[tuple[str, str], float] = {}

    def of(self, region: str, now: float, resident_in: frozenset[str] | None = None) -> Reach | None:
        """The nearest other region that answers its probe and did not fail at this lately; None if there is none.

        One in this edge's own place comes last while a cut is young: it would have to find out first, as this edge did.
        A request that may only enter the regions `resident_in` is passed on by one of them alone: all of it goes there.
        """
        since = self._reaches[region].down_since
        is_young = since is None or now - since < YOUNG_S
        others = [
            (is_young and each.rtt_ms < HERE_MS, each.rtt_ms, name, each)
            for name, each in self._reaches.items()
            if name != region
            and (resident_in is None or name in resident_in)
            and not each.down
            and each.rtt_ms is not None
            and self._blind.get((name, region), now) <= now
        ]
        return min(others)[3] if others else None

    def note(self, back: Setback, now: float) -> None:
        """Learn from a request that was passed on in vain."""
        if back.via is not None and is_unreached(back):
            self._blind[back.via, back.region] = now + BLIND_S


def passed_on(back: Setback, via: str | None) -> Setback:
    """The setback of a request that `via` passed on; that it could not is its own word, not the region's."""
    answered = back.answered and not (via is not None and back.cause == UNAVAILABLE)
    return replace(back, via=via, answered=answered)


def is_unreached(back: Setback) -> bool:
    """Whether it was the way to the region that failed, rather than the region."""
    if back.answered:
        return False
    if back.via is not None and back.cause == UNAVAILABLE:
        return True
    return (
        back.cause in UNREACHED and back.status == HTTPStatus.SERVICE_UNAVAILABLE
    )  # one that is silent was reached

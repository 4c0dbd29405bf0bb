"""Regions that said `Retry-After` for a model: until then another is asked, where another can serve. Pure.

A 429 is said to one tenant, because a full queue turns away whoever has most in it: the others go on as before, near
and by the short way. Any other status is said to everybody.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from regions.chosen import Choice

MAX_REMEMBERED: Final = 1024  # of a region, a model and who; the oldest is forgotten, and asked again
MAX_WAIT_S: Final = 60.0  # nobody is believed for longer: the region has other hosts by then
ANYONE: Final = ""  # in the place of a tenant


class Holdoffs:
    """Who is left alone until when, on the clock that `now` is read from."""

    def __init__(self, max_remembered: int = MAX_REMEMBERED) -> None:
        self._max_remembered = max_remembered
        self._until: OrderedDict[tuple[str, str, str], float] = OrderedDict()
        self._last = float("-inf")  # by then nobody is left alone any more

    def __len__(self) -> int:
        return len(self._until)

    def note(self, region: str, model: str, wait_s: float, now: float, tenant: str = ANYONE) -> None:
        """`region` wants no request of `tenant` for `model` before `wait_s` have passed."""
        until = now + min(wait_s, MAX_WAIT_S)
        self._until[region, model, tenant] = until
        self._until.move_to_end((region, model, tenant))
        self._last = max(self._last, until)
        if len(self._until) > self._max_remembered:
            self._until.popitem(last=False)

    def ordered(
        self, choices: tuple[Choice, ...], model: str, now: float, tenant: str = ANYONE
    ) -> tuple[Choice, ...]:
        """`choices` with those that wait behind those that can serve, which are no drained or ejected ones."""
        if len(choices) < 2 or not self._any(now):
            return choices
        waiting = [each.region for each in choices if self._waits(each.region, model, tenant, now)]
        if not waiting:
            return choices
        return tuple(sorted(choices, key=lambda each: (each.state == "away", each.region in waiting)))

    def reorder(self, regions: Iterable[str], model: str, now: float, tenant: str = ANYONE) -> bool:
        """Whether `ordered` may put choices among these in another order than they came."""
        return self._any(now) and any(self._waits(region, model, tenant, now) for region in regions)

    def _any(self, now: float) -> bool:
        """Whether anybody is left alone; all are forgotten once nobody is."""
        if self._until and now >= self._last:
            self._until.clear()
        return bool(self._until)

    def _waits(self, region: str, model: str, tenant: str, now: float) -> bool:
        return any(self._until.get((region, model, who), float("-inf")) > now for who in {tenant, ANYONE})

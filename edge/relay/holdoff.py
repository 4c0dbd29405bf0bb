"""Regions that said `Retry-After` for a model: until then another is asked, where another can serve. Pure."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from regions.chosen import Choice

MAX_REMEMBERED: Final = 1024  # pairs of region and model; the oldest is forgotten, and asked again
MAX_WAIT_S: Final = 60.0  # nobody is believed for longer: the region has other hosts by then


class Holdoffs:
    """Who is left alone until when, on the clock that `now` is read from."""

    def __init__(self, max_remembered: int = MAX_REMEMBERED) -> None:
        self._max_remembered = max_remembered
        self._until: OrderedDict[tuple[str, str], float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._until)

    def note(self, region: str, model: str, wait_s: float, now: float) -> None:
        """`region` wants no request for `model` before `wait_s` have passed."""
        self._until[region, model] = now + min(wait_s, MAX_WAIT_S)
        self._until.move_to_end((region, model))
        if len(self._until) > self._max_remembered:
            self._until.popitem(last=False)

    def ordered(self, choices: tuple[Choice, ...], model: str, now: float) -> tuple[Choice, ...]:
        """`choices` with those that wait behind those that can serve, which are no drained or ejected ones."""
        if not self._until or len(choices) < 2:
            return choices
        waiting = [each.region for each in choices if self._waits(each.region, model, now)]
        if not waiting:
            return choices
        return tuple(sorted(choices, key=lambda each: (each.state == "away", each.region in waiting)))

    def _waits(self, region: str, model: str, now: float) -> bool:
        until = self._until.get((region, model))
        if until is not None and until <= now:
            del self._until[region, model]
        return until is not None and until > now

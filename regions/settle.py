"""Which of several regions that are as good takes a request: the one of before, the prompt's own, or the idler."""

from __future__ import annotations

from hashlib import blake2b
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from regions.chosen import total_ms

if TYPE_CHECKING:
    from collections.abc import Mapping

    from regions.chosen import Choice

MARGIN_SHARE: Final = 0.10  # a new winner must be better by this share of the old one's total ...
MARGIN_MS: Final = 5.0  # ... and by this much: smaller differences are noise of the measurement
TIE_MS: Final = 1.0  # totals this close are equal: no measurement tells them apart
TIE_SHARE: Final = 0.02
BOUND_LOAD: Final = 1.25  # of the mean of equals: above it a prompt's own region is passed over


class Wish(NamedTuple):
    """What rules and client want of one choice.

    `allowed`: the only regions that may be asked, None for all. `preferred` come first. `drained` come last. `cached`:
    tokens of the prompt's beginning that a region is thought to keep. `seed` names that beginning, salted by tenant. In
    `full` ones the model has just become resident, and has as many requests as it is good for so far.
    """

    allowed: frozenset[str] | None = None
    preferred: frozenset[str] = frozenset()
    drained: frozenset[str] = frozenset()
    cached: Mapping[str, int] = MappingProxyType({})
    seed: bytes = b""
    full: frozenset[str] = frozenset()


ANYWHERE: Final = Wish()


def settled(
    choices: list[Choice], wish: Wish, previous: str | None, draws: tuple[float, float, float]
) -> list[Choice]:
    """The winner moved to the front: the previous one unless clearly beaten, else one of the equals."""
    if len(choices) < 2:
        return choices
    best = choices[0]
    bar_ms = _tie_ms(best)
    equals = [each for each in choices if each.total_ms <= bar_ms]
    last = next((each for each in choices if each.region == previous), None)
    if last is not None and bar_ms < last.total_ms <= best.total_ms + _margin_ms(last.total_ms):
        winner = last
    elif len(equals) == 1:
        winner = best
    else:
        winner = _of_equals(equals, last if last in equals else None, wish, draws)
    return [winner, *(each for each in choices if each is not winner)]


def chance_decides(choices: tuple[Choice, ...]) -> bool:
    """Whether the first is one of several equals: another request may then find another one first."""
    bar_ms = _tie_ms(min(choices, key=total_ms))
    return len([each for each in choices if each.total_ms <= bar_ms]) > 1


def _tie_ms(best: Choice) -> float:
    """The highest total that is no worse than the best one's."""
    return best.total_ms + max(TIE_MS, TIE_SHARE * best.total_ms)


def _margin_ms(total_ms: float) -> float:
    return max(MARGIN_MS, MARGIN_SHARE * total_ms)


def _of_equals(
    equals: list[Choice], last: Choice | None, wish: Wish, draws: tuple[float, float, float]
) -> Choice:
    """A prompt's own region while that is not loaded above its equals; else the idler of two.

    Of the two one is the last choice, if it is among them: it stays unless the other has less to do.
    """
    if wish.seed:
        own = max(
            equals, key=lambda each: blake2b(each.region.encode(), key=wish.seed, digest_size=8).digest()
        )
        if own.load <= BOUND_LOAD * sum(each.load for each in equals) / len(equals):
            return own
    others = [each for each in equals if each is not last]
    first = others.pop(int(draws[0] * len(others))) if last is None else last
    second = others[int(draws[1] * len(others))] if others else first
    return min(first, second, key=_load)


def _load(choice: Choice) -> float:
    return choice.load

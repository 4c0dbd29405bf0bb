"""Where will the first token come from soonest? One pure function over rows, one number, every term shown.

total = rtt + queue + prefill not cached + ready (+ doubt). `ready` is 0 where the model is resident, else its bytes
over the measured bandwidth of the tier they are in, plus the measured attach time. What belongs to a row is worked out
with the row (`regions.offer`); a choice looks at the regions nearest first, one look-up each, and stops where
distance alone is worse than the choices it has. So it never costs more with more models, and seldom with more regions.
"""

from __future__ import annotations

import math
from bisect import insort
from typing import TYPE_CHECKING, Final, Protocol

from regions.chosen import Choice, total_ms
from regions.health import HEALTHY, panics
from regions.map.region import ROW_LOST_S, ROW_STALE_S
from regions.settle import ANYWHERE, settled

if TYPE_CHECKING:
    from collections.abc import Mapping

    from regions.chosen import State
    from regions.health import RegionHealth
    from regions.offer import Offer
    from regions.rows import Heard
    from regions.settle import Wish

MAX_CHOICES: Final = 4  # shown and tried: three regions are asked at most, and a cold one may be woken
UNKNOWN_RTT_MS: Final = 500.0  # a region never measured is taken to be at the far side of the world
STALE_MS_PER_S: Final = 50.0  # doubt for each second a row is overdue: its queue may have grown meanwhile
RAMP_MS: Final = (
    1_000.0  # doubt in a region or model that just came back, for requests beyond what it is given
)


class Way(Protocol):
    """What an edge knows of the way to a region."""

    @property
    def rtt_ms(self) -> float | None:
        """The measured round trip, None until there is one: the region is then taken to be far."""

    @property
    def health(self) -> RegionHealth:
        """What requests over it saw."""


Near = tuple[tuple[float, str], ...]


def nearest(ways: Mapping[str, Way]) -> Near:
    """(round trip in ms, region), nearest first: for all choices until a measurement changes."""
    return tuple(sorted((_rtt_ms(way), name) for name, way in ways.items()))


def _rtt_ms(way: Way) -> float:
    return UNKNOWN_RTT_MS if way.rtt_ms is None else way.rtt_ms


def rank(
    model: str,
    rows: Mapping[str, Heard],
    near: Near,
    ways: Mapping[str, Way],
    *,
    prompt_tokens: int,
    now: float,
    wish: Wish = ANYWHERE,
    previous: str | None = None,
    draws: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> tuple[Choice, ...]:
    """The regions that can serve `model`, best first, at most MAX_CHOICES; a near cold one is always among them.

    Args:
        model: its name.
        rows: the last row of each region.
        near: of `ways`, as `nearest` gives it; no other region is looked at.
        ways: what is known of the way to each; how many of all are ill decides whether anyone is believed ill.
        prompt_tokens: estimated length of the prompt.
        now: monotonic seconds, on the clock of `Heard.at`.
        wish: what rules and client want.
        previous: the region that this edge last chose for the model: it is kept unless clearly beaten.
        draws: random numbers in [0, 1): two for the power of two choices among equals, one for a region that came back.
    """
    look = _Look(model, rows, ways, prompt_tokens, now, wish, draws[2])
    if wish.preferred:
        first = look.best(tuple(each for each in near if each[1] in wish.preferred))
        near = tuple(each for each in near if each[1] not in wish.preferred)
        return (*settled(first, wish, previous, draws), *look.best(near), *look.last())[:MAX_CHOICES]
    return (*settled(look.best(near), wish, previous, draws), *look.last())[:MAX_CHOICES]


# total, region, rtt, prefill, doubt in ms, class, offer; in the order in which the best comes first
_Weighed = tuple[float, str, float, float, float, "State", "Offer"]
USUAL: Final[State] = "ok"


class _Look:
    """One choice being made: how each region that is worth it weighs, those that come last apart."""

    def __init__(
        self,
        model: str,
        rows: Mapping[str, Heard],
        ways: Mapping[str, Way],
        prompt_tokens: int,
        now: float,
        wish: Wish,
        draw: float,
    ) -> None:
        self._model, self._rows, self._ways = model, rows, ways
        self._prompt_tokens, self._now, self._wish, self._draw = prompt_tokens, now, wish, draw
        self._panics: bool | None = None
        self._any_answers = True
        self._away: list[Choice] = []
        self._kept: list[_Weighed] = []
        self._cold: _Weighed | None = None
        self._bar_ms = self._cold_ms = math.inf  # what a region must beat to be kept, or to be the cold one

    def best(self, near: Near) -> list[Choice]:
        """The least totals in order, at most MAX_CHOICES; the best cold region has the last place at the least."""
        model, get, allowed = self._model, self._rows.get, self._wish.allowed
        prompt_tokens, cached = self._prompt_tokens, self._wish.cached
        self._kept, self._cold, self._bar_ms, self._cold_ms = [], None, math.inf, math.inf
        for rtt_ms, name in near:
            if rtt_ms >= self._bar_ms:
                break  # and so are all that come after it
            if allowed is not None and name not in allowed:
                continue
            heard = get(name)
            if heard is None or (offer := heard.offers.get(model)) is None:
                continue
            known = cached.get(name, 0) if cached else 0
            prefill_ms = offer.prefill_ms_per_token * max(0, prompt_tokens - known)
            least_ms = rtt_ms + offer.fixed_ms + prefill_ms
            if least_ms < self._bar_ms or (offer.ready_ms and least_ms - offer.ready_ms < self._cold_ms):
                self._weigh(name, rtt_ms, prefill_ms, least_ms, heard, offer)
        if self._cold is not None and self._cold not in self._kept:
            self._kept[-1] = self._cold
        return [self._choice(each) for each in self._kept]

    def last(self) -> list[Choice]:
        """Those that are only asked when no other answers, in order."""
        return sorted(self._away, key=total_ms)

    def _weigh(
        self, name: str, rtt_ms: float, prefill_ms: float, least_ms: float, heard: Heard, offer: Offer
    ) -> None:
        """Keep it, if it is among the best so far; or as the cold region that would be best if it were warm."""
        health, state, doubt_ms = self._ways[name].health, USUAL, 0.0
        if (
            not health.is_usual
            or self._now - heard.at > ROW_STALE_S
            or not offer.steady
            or name in self._wish.drained
            or name in self._wish.full
        ):
            state, doubt_ms = self._standing(name, health, heard, offer)
            least_ms += doubt_ms
        one = (least_ms, name, rtt_ms, prefill_ms, doubt_ms, state, offer)
        if state == "away":
            self._away.append(self._choice(one))
            return
        if offer.ready_ms and least_ms - offer.ready_ms < self._cold_ms:
            self._cold, self._cold_ms = one, least_ms - offer.ready_ms
        if least_ms < self._bar_ms:
            insort(self._kept, one)
            if len(self._kept) >= MAX_CHOICES:
                del self._kept[MAX_CHOICES:]
                self._bar_ms = self._kept[-1][0]

    def _standing(self, name: str, health: RegionHealth, heard: Heard, offer: Offer) -> tuple[State, float]:
        """How far a region that is not as usual may be trusted: its class, and the doubt in ms."""
        age_s = self._now - heard.at
        is_drained = name in self._wish.drained or not offer.steady
        if not health.admits(self._now) and self._disbelieves(health):
            health = HEALTHY
        if is_drained or age_s > ROW_LOST_S or not health.admits(self._now):
            return "away", 0.0
        if age_s > ROW_STALE_S:
            return "stale", (age_s - ROW_STALE_S) * STALE_MS_PER_S
        if self._draw >= health.share(self._now) or name in self._wish.full:
            return "ramp", RAMP_MS
        return "ok", 0.0

    def _disbelieves(self, health: RegionHealth) -> bool:
        """Whether nearly all regions look ill: then the watcher is the likelier patient, and none is believed ill.

        A region that answers no probe is, unless none does.
        """
        if self._panics is None:
            healths = [each.health for each in self._ways.values()]
            self._panics = panics(healths, self._now)
            self._any_answers = not all(each.is_down for each in healths)
        return self._panics and not (health.is_down and self._any_answers)

    def _choice(self, one: _Weighed) -> Choice:
        total_ms, name, rtt_ms, prefill_ms, doubt_ms, state, offer = one
        return Choice(
            name,
            total_ms,
            rtt_ms,
            offer.queue_ms,
            prefill_ms,
            offer.ready_ms,
            doubt_ms,
            offer.row.tier,
            state,
            min(self._prompt_tokens, self._wish.cached.get(name, 0)),
            offer.load,
            name in self._wish.preferred,
        )

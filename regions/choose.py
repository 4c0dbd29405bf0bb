"""Where will the first token come from soonest? One pure function over rows, one number, every term shown.

total = rtt + queue + prefill not cached + ready (+ doubt). `ready` is 0 where the model is resident, else its bytes
over the measured bandwidth of the tier they are in, plus the measured attach time. What belongs to a row is worked out
with the row (`regions.offer`); a choice looks at the regions nearest first, one look-up each, and stops where
distance alone is worse than the choices it has. So it never costs more with more models, and seldom with more regions.
"""

from __future__ import annotations

import math
from bisect import insort
from hashlib import blake2b
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol

from regions.health import HEALTHY, panics
from regions.map import ROW_LOST_S, ROW_STALE_S

if TYPE_CHECKING:
    from collections.abc import Mapping

    from regions.health import RegionHealth
    from regions.map import Tier
    from regions.offer import Offer
    from regions.rows import Heard

MAX_CHOICES: Final = 4  # shown and tried: three regions are asked at most, and a cold one may be woken
MARGIN_SHARE: Final = 0.10  # a new winner must be better by this share of the old one's total ...
MARGIN_MS: Final = 5.0  # ... and by this much: smaller differences are noise of the measurement
TIE_MS: Final = 1.0  # totals this close are equal: no measurement tells them apart
TIE_SHARE: Final = 0.02
UNKNOWN_RTT_MS: Final = 500.0  # a region never measured is taken to be at the far side of the world
STALE_MS_PER_S: Final = 50.0  # doubt for each second a row is overdue: its queue may have grown meanwhile
RAMP_MS: Final = (
    1_000.0  # doubt in a region or model that just came back, for requests beyond what it is given
)
PREWARM_GAIN_MS: Final = 5.0  # a warm near region must win by this before waking it is worth it
BOUND_LOAD: Final = 1.25  # of the mean of equals: above it a prompt's own region is passed over

# ok: as measured. stale: an overdue row, doubted. ramp: just came back. away: drains, is ejected or silent,
# so it comes behind all others.
State = Literal["ok", "stale", "ramp", "away"]


class Choice(NamedTuple):
    """One region's expected time to first token for one request, in ms, and the terms it is the sum of.

    `cached` tokens of the prompt are thought to be kept there; they are left out of `prefill_ms`. `load` is requests a
    slot. `is_preferred`: the client asked for it, so it comes before all that it did not.
    """

    region: str
    total_ms: float
    rtt_ms: float
    queue_ms: float
    prefill_ms: float
    ready_ms: float
    doubt_ms: float
    tier: Tier
    state: State
    cached: int = 0
    load: float = 0.0
    is_preferred: bool = False

    def term(self) -> str:
        """As in the header `x-nearfield-route`: `iad rtt=0.4 queue=0 prefill=1.2 ready=0 total=1.6`."""
        doubt = f" doubt={self.doubt_ms:.4g}" if self.doubt_ms else ""
        cached = f" cached={self.cached}" if self.cached else ""
        state = "" if self.state == "ok" else f" state={self.state}"
        preferred = " preferred" if self.is_preferred else ""
        return (
            f"{self.region} rtt={self.rtt_ms:.4g} queue={self.queue_ms:.4g} prefill={self.prefill_ms:.4g}{cached} "
            f"ready={self.ready_ms:.4g}{doubt} total={self.total_ms:.4g}{state}{preferred}"
        )


class Way(Protocol):
    """What an edge knows of the way to a region."""

    @property
    def rtt_ms(self) -> float | None:
        """The measured round trip, None until there is one: the region is then taken to be far."""

    @property
    def health(self) -> RegionHealth:
        """What requests over it saw."""


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
        return (*_settled(first, wish, previous, draws), *look.best(near), *look.last())[:MAX_CHOICES]
    return (*_settled(look.best(near), wish, previous, draws), *look.last())[:MAX_CHOICES]


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
        return sorted(self._away, key=_total)

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


def _total(one: Choice) -> float:
    return one.total_ms


def route_header(choices: tuple[Choice, ...], note: str | None = None) -> str:
    """All terms of a decision, best first; `note` says how the figures came about (a simulated WAN)."""
    parts = [choice.term() for choice in choices]
    return "; ".join([*parts, f"simulated-wan={note}"] if note else parts)


def prewarm(choices: tuple[Choice, ...]) -> str | None:
    """The near cold region to wake at once, because it would win if it were resident; None if none."""
    if not choices:
        return None
    bar_ms = choices[0].total_ms - choices[0].ready_ms - PREWARM_GAIN_MS
    is_preferred = choices[0].is_preferred  # whoever asked for far regions has no use for a near one
    cold = [
        each
        for each in choices[1:]
        if each.ready_ms > 0 and each.state != "away" and each.is_preferred is is_preferred
    ]
    best = min(cold, key=lambda each: each.total_ms - each.ready_ms, default=None)
    if best is None or best.total_ms - best.ready_ms >= bar_ms:
        return None
    return best.region


def chance_decides(choices: tuple[Choice, ...]) -> bool:
    """Whether the first is one of several equals: another request may then find another one first."""
    bar_ms = _tie_ms(min(choices, key=_total))
    return len([each for each in choices if each.total_ms <= bar_ms]) > 1


def _tie_ms(best: Choice) -> float:
    """The highest total that is no worse than the best one's."""
    return best.total_ms + max(TIE_MS, TIE_SHARE * best.total_ms)


def _margin_ms(total_ms: float) -> float:
    return max(MARGIN_MS, MARGIN_SHARE * total_ms)


def _settled(
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

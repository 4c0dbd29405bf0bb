"""Where will the first token come from soonest? One pure function over rows, one number, every term shown.

total = rtt + queue + prefill + ready (+ doubt). `ready` is 0 where the model is resident, else its bytes over
the measured bandwidth of the tier they are in, plus the measured attach time. The cost of a choice grows with
the number of regions, never with the number of models: one look-up a region.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol

from regions.health import HEALTHY, Breaker, panics
from regions.map import ROW_LOST_S, ROW_STALE_S, RolloutState, Tier

if TYPE_CHECKING:
    from collections.abc import Mapping

    from regions.health import RegionHealth
    from regions.map import ModelRow, RegionRow
    from regions.rows import Heard

MAX_CHOICES: Final = 8  # shown and tried; a request is never replayed more often than this
MARGIN_SHARE: Final = 0.10  # a new winner must be better by this share of the old one's total ...
MARGIN_MS: Final = 5.0  # ... and by this much: smaller differences are noise of the measurement
TIE_MS: Final = 1.0  # totals this close are equal: no measurement tells them apart
TIE_SHARE: Final = 0.02
TURN_TOKENS: Final = 128  # a queued request waits for a running one to end; half of a usual answer is left
UNKNOWN_RTT_MS: Final = 500.0  # a region never measured is taken to be at the far side of the world
STALE_MS_PER_S: Final = 50.0  # doubt for each second a row is overdue: its queue may have grown meanwhile
RAMP_MS: Final = 1_000.0  # doubt in a region that just came back, for requests beyond its share
PREWARM_GAIN_MS: Final = 5.0  # a warm near region must win by this before waking it is worth it
# Bandwidths until a region has measured its own: a fast disk, memory, and a busy ocean cable.
STORE_BYTES_PER_S: Final = 1e9
HOST_BYTES_PER_S: Final = 4e9
ORIGIN_BYTES_PER_S: Final = 50e6
ATTACH_S: Final = 1.0

# ok: as measured. stale: an overdue row, doubted. ramp: just came back. away: drains, is ejected or silent,
# so it comes behind all others.
State = Literal["ok", "stale", "ramp", "away"]


class Choice(NamedTuple):
    """One region's expected time to first token for one request, in ms, and the terms it is the sum of."""

    region: str
    total_ms: float
    rtt_ms: float
    queue_ms: float
    prefill_ms: float
    ready_ms: float
    doubt_ms: float
    tier: Tier
    state: State

    def term(self) -> str:
        """As in the header `x-nearfield-route`: `iad rtt=0.4 queue=0 prefill=1.2 ready=0 total=1.6`."""
        doubt = f" doubt={self.doubt_ms:.4g}" if self.doubt_ms else ""
        state = "" if self.state == "ok" else f" state={self.state}"
        return (
            f"{self.region} rtt={self.rtt_ms:.4g} queue={self.queue_ms:.4g} prefill={self.prefill_ms:.4g} "
            f"ready={self.ready_ms:.4g}{doubt} total={self.total_ms:.4g}{state}"
        )


class Way(Protocol):
    """What an edge knows of the way to a region."""

    @property
    def rtt_ms(self) -> float | None:
        """The measured round trip, None until there is one: the region is then taken to be far."""

    @property
    def health(self) -> RegionHealth:
        """What requests over it saw."""


class Measured(Protocol):
    """What a region was measured at; 0 while unknown. A `RegionRow` is one."""

    @property
    def store_bytes_per_s(self) -> float:
        """From the region's store into a host."""

    @property
    def host_bytes_per_s(self) -> float:
        """From a host's memory to an engine."""

    @property
    def origin_bytes_per_s(self) -> float:
        """From the home region into the region's store."""

    @property
    def attach_s(self) -> float:
        """A start without its bytes."""


class Offer(NamedTuple):
    """What a region's last row says about one model, as far as no single request changes it."""

    region: str
    heard: Heard
    row: ModelRow
    queue_ms: float
    ready_ms: float


def offers(model: str, rows: Mapping[str, Heard]) -> tuple[Offer, ...]:
    """The regions of `rows` that can serve `model`; the same for every request until a row changes."""
    found = [(name, heard, heard.row.models.get(model)) for name, heard in rows.items()]
    return tuple(
        Offer(name, heard, row, queue_ms(row), ready_ms(heard.row, row))
        for name, heard, row in found
        if row is not None and row.serves
    )


def rank(
    offers: tuple[Offer, ...],
    ways: Mapping[str, Way],
    *,
    prompt_tokens: int,
    now: float,
    previous: str | None = None,
    draws: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> tuple[Choice, ...]:
    """The regions of `offers`, best first, at most MAX_CHOICES.

    Args:
        offers: of the regions that may be used (residency rules are applied by the caller).
        ways: to every region of `offers` at least; how many of all are ill decides whether anyone is believed ill.
        prompt_tokens: estimated length of the prompt.
        now: monotonic seconds, on the clock of `Heard.at`.
        previous: the region that this edge last chose for the model: it is kept unless clearly beaten.
        draws: random numbers in [0, 1): two for the power of two choices among equals, one for slow start.
    """
    choices = []
    for name, heard, row, queue, ready in offers:
        way = ways[name]
        state, doubt = _standing(heard, row, _believed(way.health, ways, now), now, draws[2])
        rtt = UNKNOWN_RTT_MS if way.rtt_ms is None else way.rtt_ms
        prefill = row.prefill_ms_per_token * prompt_tokens
        total = rtt + queue + prefill + ready + doubt
        choices.append(Choice(name, total, rtt, queue, prefill, ready, doubt, row.tier, state))
    if len(choices) < 2:
        return tuple(choices)
    choices.sort(key=_by_class_then_total)
    return _settled(choices[:MAX_CHOICES], offers, previous, draws)


def _believed(health: RegionHealth, ways: Mapping[str, Way], now: float) -> RegionHealth:
    """A region's health, unless nearly all look ill: then the watcher is the likelier patient."""
    if health.admits(now) or not panics([each.health for each in ways.values()], now):
        return health
    return HEALTHY


def route_header(choices: tuple[Choice, ...], note: str | None = None) -> str:
    """All terms of a decision, best first; `note` says how the figures came about (a simulated WAN)."""
    parts = [choice.term() for choice in choices]
    return "; ".join([*parts, f"simulated-wan={note}"] if note else parts)


def prewarm(choices: tuple[Choice, ...]) -> str | None:
    """The near cold region to wake at once, because it would win if it were resident; None if none."""
    if not choices:
        return None
    bar_ms = choices[0].total_ms - choices[0].ready_ms - PREWARM_GAIN_MS
    cold = [each for each in choices[1:] if each.ready_ms > 0 and each.state != "away"]
    best = min(cold, key=lambda each: each.total_ms - each.ready_ms, default=None)
    if best is None or best.total_ms - best.ready_ms >= bar_ms:
        return None
    return best.region


def queue_ms(row: ModelRow) -> float:
    """Expected wait for a slot: nobody waits while one is free; else one turn for each that is ahead."""
    if row.slots == 0 or (row.waiting == 0 and row.running < row.slots):
        return 0.0
    ahead = row.waiting + 1 if row.running >= row.slots else row.waiting
    return ahead * TURN_TOKENS * row.step_ms / row.slots


def ready_ms(region: RegionRow, row: ModelRow) -> float:
    """Expected time until the model can answer: 0 if resident, else bytes through each tier, and attach."""
    left = 1.0 - row.progress.percent / 100.0 if row.progress else 1.0
    return max(0.0, start_s(row.tier, row.bytes, region) * left) * 1e3


def start_s(tier: Tier, num_bytes: int, measured: Measured) -> float:
    """Expected seconds of a start whose weights are `num_bytes` in `tier`; 0 if it is resident."""
    if tier is Tier.RESIDENT:
        return 0.0
    seconds = measured.attach_s or ATTACH_S
    if tier is Tier.HOST:
        seconds += num_bytes / (measured.host_bytes_per_s or HOST_BYTES_PER_S)
    else:
        seconds += num_bytes / (measured.store_bytes_per_s or STORE_BYTES_PER_S)
    if tier is Tier.ORIGIN:
        seconds += num_bytes / (measured.origin_bytes_per_s or ORIGIN_BYTES_PER_S)
    return seconds


def _standing(
    heard: Heard, row: ModelRow, health: RegionHealth, now: float, draw: float
) -> tuple[State, float]:
    """How far a row may be trusted: its class, and the doubt in ms."""
    age_s = now - heard.at
    if (
        age_s <= ROW_STALE_S
        and health.breaker is Breaker.CLOSED
        and health.recovered_at is None
        and row.state is RolloutState.LIVE
        and not heard.row.draining
    ):
        return "ok", 0.0
    draining = heard.row.draining or row.state is RolloutState.DRAINING
    if draining or age_s > ROW_LOST_S or not health.admits(now):
        return "away", 0.0
    if age_s > ROW_STALE_S:
        return "stale", (age_s - ROW_STALE_S) * STALE_MS_PER_S
    if health.recovered_at is not None and draw >= health.share(now):
        return "ramp", RAMP_MS
    return "ok", 0.0


def _by_class_then_total(choice: Choice) -> tuple[bool, float]:
    return choice.state == "away", choice.total_ms


def _margin_ms(total_ms: float) -> float:
    return max(MARGIN_MS, MARGIN_SHARE * total_ms)


def _settled(
    choices: list[Choice],
    offers: tuple[Offer, ...],
    previous: str | None,
    draws: tuple[float, float, float],
) -> tuple[Choice, ...]:
    """The winner moved to the front: the previous one unless clearly beaten, else the idler of two equals."""
    if choices[0].state == "away":
        return tuple(choices)
    best = choices[0]
    winner = next((each for each in choices if each.region == previous and each.state != "away"), None)
    if winner is None or winner.total_ms - best.total_ms > _margin_ms(winner.total_ms):
        winner = _idler(choices, offers, draws)
    return (winner, *(each for each in choices if each is not winner))


def _idler(choices: list[Choice], offers: tuple[Offer, ...], draws: tuple[float, float, float]) -> Choice:
    """Power of two choices among equals: two at random, the less loaded one wins."""
    bar_ms = choices[0].total_ms + max(TIE_MS, TIE_SHARE * choices[0].total_ms)
    equals = [each for each in choices if each.state != "away" and each.total_ms <= bar_ms]
    first = equals.pop(int(draws[0] * len(equals)))
    if not equals:
        return first
    second = equals[int(draws[1] * len(equals))]
    rows = {each.region: each.row for each in offers}
    return min(first, second, key=lambda each: _load(rows[each.region]))


def _load(row: ModelRow) -> float:
    return (row.running + row.waiting) / max(1, row.slots)

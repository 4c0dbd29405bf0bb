"""One region's place in a decision, and what follows from the places: the header that shows them, and what to wake."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from regions.map.region import Tier

PREWARM_GAIN_MS: Final = 5.0  # a warm near region must win by this before waking it is worth it

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


def total_ms(one: Choice) -> float:
    """What the best has least of."""
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

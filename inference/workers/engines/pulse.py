"""Whether an engine's step loop goes on. Plain Python, no clock.

An engine answers a ping between two steps, so silence behind a ping is time without a step. How long a step may take
is measured (`stats`): a long prompt on a slow machine is no fault, and a frozen process is one whatever it is doing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

BUSY_GAP_S: Final = 1.0
IDLE_GAP_S: Final = 5.0
"""Between two pings: an idle engine sleeps, and is woken no more often than this."""
LEAST_SILENCE_S: Final = 5.0
"""A process may be kept off the cores for that long by others, and live."""
UNMEASURED_S: Final = 120.0
"""A busy engine's first steps, before anything was measured: a long prompt of a large model on a CPU."""
MANY_STEPS: Final = 10
"""A step may be so many times as long as the longest that its pace lets expect."""
LARGEST_STEP_TOKENS: Final = 1024
"""A prompt's chunk has no more (`inference.engine.steps.pace`)."""
GIVEN_UP: Final = 4
"""Times the silence that is told as a stall: then the engine is ended, so that the next one can serve."""


class Pulse:
    """One engine's pings and what was heard of it; times are seconds of any one clock."""

    __slots__ = ("_asked_s", "_heard_s")

    def __init__(self, now: float) -> None:
        self._heard_s = now
        self._asked_s: float | None = None

    def heard(self, now: float) -> None:
        """The engine said something, whatever it was."""
        self._heard_s, self._asked_s = now, None

    def asked(self, now: float) -> None:
        """A ping was sent."""
        self._asked_s = now

    def is_due(self, now: float, *, is_busy: bool) -> bool:
        """Whether to send a ping: none is unanswered, and the engine was silent for a while."""
        gap_s = BUSY_GAP_S if is_busy else IDLE_GAP_S
        return self._asked_s is None and now - self._heard_s >= gap_s

    def silent_s(self, now: float) -> float:
        """Seconds that the oldest unanswered ping has waited; 0 if there is none."""
        return 0.0 if self._asked_s is None else now - self._asked_s


def patience_s(stats: Mapping[str, Any], *, is_busy: bool) -> float:
    """The silence from which an engine of these figures has stalled."""
    if not is_busy:
        return LEAST_SILENCE_S
    token_ms, step_ms = stats.get("prefill_ms_per_token"), stats.get("step_ms")
    if token_ms is None or step_ms is None:
        return UNMEASURED_S
    longest_s = (float(step_ms) + float(token_ms) * LARGEST_STEP_TOKENS) / 1000
    return max(LEAST_SILENCE_S, MANY_STEPS * longest_s)

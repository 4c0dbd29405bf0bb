"""How many prompt tokens a step may carry, so that streams already running do not stall. Plain Python."""

from __future__ import annotations

MAX_PREFILL_TOKENS = 512
"""One chunk beside running streams; more gives no more speed, a CPU is compute-bound by then."""
MAX_LONELY_TOKENS = 1024
"""One chunk when nobody waits for a next token; bounded so that a cancel is seen within one step."""
MIN_PREFILL_TOKENS = 16
"""A prompt always moves on, however slow a token is."""
FIRST_PREFILL_TOKENS = 64
"""Before anything was measured."""
STALL_FACTOR = 2.0
"""A step with a chunk in it may take this many times a plain one: twice the usual gap is still a stream."""
WEIGHT_OF_NEWEST = 0.3
"""Exponential averages: about the last six steps count."""


class Pace:
    """Measured seconds of a decode step and of a prompt token, and the chunk that follows from them."""

    __slots__ = ("decode_s", "prefill_s_per_token")

    def __init__(self) -> None:
        self.decode_s: float | None = None
        self.prefill_s_per_token: float | None = None

    def prefill_tokens(self, num_decoding: int) -> int:
        """The most prompt tokens for the next step, beside `num_decoding` running rows."""
        if not num_decoding:
            return MAX_LONELY_TOKENS
        if self.decode_s is None or self.prefill_s_per_token is None:
            return FIRST_PREFILL_TOKENS
        spare_s = (STALL_FACTOR - 1.0) * self.decode_s
        fitting = MAX_PREFILL_TOKENS
        if spare_s < self.prefill_s_per_token * MAX_PREFILL_TOKENS:
            fitting = int(spare_s / self.prefill_s_per_token)
        return max(MIN_PREFILL_TOKENS, min(MAX_PREFILL_TOKENS, fitting))

    def observe(self, num_prefill: int, num_decode: int, seconds: float) -> None:
        """One step took `seconds` with that many prompt and decode tokens in it.

        What a plain step takes is the fixed cost of any step; a prompt token costs what comes on top.
        Until a plain step was seen, only a long prompt says anything about its tokens.
        """
        if not num_prefill:
            if num_decode:
                self.decode_s = _average(self.decode_s, seconds)
        elif self.decode_s is not None or num_prefill >= FIRST_PREFILL_TOKENS:
            own_s = max(0.0, seconds - (self.decode_s or 0.0))
            self.prefill_s_per_token = _average(self.prefill_s_per_token, own_s / num_prefill)


def _average(old: float | None, new: float) -> float:
    return new if old is None else old + WEIGHT_OF_NEWEST * (new - old)

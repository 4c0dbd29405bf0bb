"""How many prompt tokens a step may carry, so that streams already running do not stall. Plain Python."""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise

MAX_ROWS = 4096
"""More than any engine has slots."""
LEAST_SHARE = 0.5
"""Of the smallest measured step: a still smaller one is not taken to cost less than this."""
MAX_PREFILL_TOKENS = 512
"""One chunk beside running streams; more gives no more speed, a CPU is compute-bound by then."""
MAX_LONELY_TOKENS = 1024
"""One chunk when nobody waits for a next token; bounded so that a cancel is seen within one step."""
MIN_PREFILL_TOKENS = 16
"""A prompt always moves on, however slow a token is."""
FIRST_PREFILL_TOKENS = 64
"""Before anything was measured of chunks beside streams."""
STALL_FACTOR = 1.75
"""A step with a chunk in it is to take this many times a plain one: single ones take half as much again when what a
token costs was misjudged or the processor is taken away, and three times the usual gap is to be a rare one."""
WEIGHT_OF_NEWEST = 0.3
"""Exponential averages: about the last six steps count."""
WEIGHT_OF_DEARER = 0.6
"""A chunk too large stalls every stream, one too small costs its prompt a step more: so costs rise faster than fall."""


class Pace:
    """Measured seconds of a decode step and of a prompt token, and the chunk that follows from them."""

    __slots__ = ("_by_rows", "_is_measured_beside", "decode_s", "prefill_s_per_token")

    def __init__(self) -> None:
        self.decode_s: float | None = None
        self.prefill_s_per_token: float | None = None
        self._is_measured_beside = False
        self._by_rows: dict[int, tuple[float, float]] = {}
        """Rows and seconds of plain steps, an average for each power of two."""

    def rows_within(self, num_rows: int, factor: float) -> int | None:
        """The most rows of a plain step that takes at most `factor` times one of `num_rows`; None if unknown."""
        if not self._by_rows:
            return None
        points = [self._by_rows[size] for size in sorted(self._by_rows)]
        if len(points) == 1:  # rows are taken to be all that costs: a smaller step will soon say what it does
            points.insert(0, (0.0, 0.0))
        limit_s = factor * _along(points, num_rows)
        return (
            bisect_right(range(MAX_ROWS), limit_s, lo=num_rows + 1, key=lambda rows: _along(points, rows)) - 1
        )

    def beside(self, num_decoding: int, factor: float) -> float:
        """The prompt tokens that make a step beside so many rows take `factor` times a plain one, or a part of one.

        Before both are measured it is one: there will be plain steps then, to be measured.
        """
        if not num_decoding:
            return FIRST_PREFILL_TOKENS
        if self.decode_s is None or self.prefill_s_per_token is None:
            return 1.0
        spare_s = (factor - 1.0) * self.decode_s
        return spare_s / max(self.prefill_s_per_token, spare_s / MAX_PREFILL_TOKENS, 1e-9)

    def prefill_tokens(self, num_decoding: int, num_new: int = 1) -> int:
        """The most prompt tokens for the next step, beside `num_decoding` running rows.

        A longer step is waited for by those who run, a shorter one by the `num_new` who have no token yet: where these
        are more, the stall may be as many times as long.
        """
        if not num_decoding:
            return MAX_LONELY_TOKENS
        if self.decode_s is None or self.prefill_s_per_token is None:
            return FIRST_PREFILL_TOKENS
        spare_s = (STALL_FACTOR - 1.0) * self.decode_s * max(1.0, num_new / num_decoding)
        fitting = MAX_PREFILL_TOKENS if self._is_measured_beside else FIRST_PREFILL_TOKENS
        if spare_s < self.prefill_s_per_token * fitting:
            fitting = int(spare_s / self.prefill_s_per_token)
        return max(MIN_PREFILL_TOKENS, min(MAX_PREFILL_TOKENS, fitting))

    def observe(self, num_prefill: int, num_decode: int, seconds: float) -> None:
        """One step took `seconds` with that many prompt and decode tokens in it.

        What a plain step takes is the fixed cost of any step; a prompt token costs what comes on top. Beside running
        rows it costs more than in a large chunk of its own, which therefore counts only until the first of the others.
        Until a plain step was seen, only a long prompt says anything about its tokens.
        """
        if not num_prefill:
            if num_decode:
                self.decode_s = _average(self.decode_s, seconds, WEIGHT_OF_NEWEST)
                self._learn_rows(num_decode, seconds)
        elif self.decode_s is not None or num_prefill >= FIRST_PREFILL_TOKENS:
            own_s = max(0.0, seconds - (self.decode_s or 0.0)) / num_prefill
            self._learn(own_s, is_beside=num_decode > 0)

    def _learn_rows(self, num_decode: int, seconds: float) -> None:
        known = self._by_rows.get(num_decode.bit_length(), (num_decode, seconds))
        self._by_rows[num_decode.bit_length()] = (
            _average(known[0], num_decode, WEIGHT_OF_NEWEST),
            _average(known[1], seconds, WEIGHT_OF_NEWEST),
        )

    def _learn(self, own_s: float, *, is_beside: bool) -> None:
        """A prompt token cost `own_s`."""
        if self._is_measured_beside and not is_beside:
            return
        known = self.prefill_s_per_token if self._is_measured_beside == is_beside else None
        is_dearer = known is not None and own_s > known
        weight = WEIGHT_OF_DEARER if is_dearer else WEIGHT_OF_NEWEST
        self.prefill_s_per_token = _average(known, own_s, weight)
        self._is_measured_beside = is_beside


def _average(old: float | None, new: float, weight: float) -> float:
    return new if old is None else old + weight * (new - old)


def _along(points: list[tuple[float, float]], rows: float) -> float:
    """Seconds on the line through measured points; never less for more rows, whatever one outlier says."""
    seconds, slope = points[0][1], 0.0
    for (left, _), (right, after) in pairwise(points):
        slope = (max(seconds, after) - seconds) / (right - left)
        if rows <= right:
            break
        seconds += slope * (right - left)
    else:
        left = points[-1][0]
    return max(points[0][1] * LEAST_SHARE, seconds + slope * (rows - left))

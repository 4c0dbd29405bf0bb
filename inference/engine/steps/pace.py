"""How many prompt tokens a step may carry, so that streams already running do not stall. Plain Python.

A chunk beside running rows costs something however small it is (its own attention calls, products of more rows than
the library is quick at) and then something for each token, more for each the longer the prompt gets. None of that is
known beforehand: what chunks of each size cost is measured, step by step (`inference.engine.curve`), and the next is as
large as fits the time that it may take.
"""

from __future__ import annotations

from inference.engine.curve import Curve

MAX_ROWS = 4096
"""More than any engine has slots."""
MAX_PREFILL_TOKENS = 512
"""One chunk beside running streams; more gives no more speed, a CPU is compute-bound by then."""
MAX_LONELY_TOKENS = 1024
"""One chunk when nobody waits for a next token; bounded so that a cancel is seen within one step."""
MIN_PREFILL_TOKENS = 8
"""A prompt always moves on, however slow a token is. Deep in a long one 8 tokens add half a plain step, and 16 a whole
one (behind 1,900 others, beside 8 streams of the tiny model): with 16 at least each step there took two plain ones, and
chance made it three for one prompt of five."""
FIRST_PREFILL_TOKENS = 64
"""Before anything was measured of chunks beside streams."""
GROWTH = 2
"""A chunk beside streams is at most so many times the one before: a step that was quick by chance (the one before it
slow) would say that tokens cost nothing."""
STALL_FACTOR = 1.75
"""A step with a chunk in it is to take this many times a plain one: single ones take half as much again when what a
token costs was misjudged or the processor is taken away, and three times the usual gap is to be a rare one."""
WEIGHT_OF_NEWEST = 0.3
"""Exponential averages: about the last six steps count."""
WEIGHT_OF_DEARER = 0.6
"""A chunk too large stalls every stream, one too small costs its prompt a step more: so costs rise faster than fall."""
SHARED_CHANGE = 0.7
"""What makes chunks of one size dearer (a longer context, others on the cores) mostly makes all of them dearer."""


class Pace:
    """Measured seconds of steps by rows and of chunks by tokens, and the chunk that follows from them."""

    __slots__ = ("_beside", "_is_measured_beside", "_latest", "_rows", "decode_s", "prefill_s_per_token")

    def __init__(self) -> None:
        self.decode_s: float | None = None
        self.prefill_s_per_token: float | None = None
        self._is_measured_beside = False
        self._latest = 0
        """Tokens of the last chunk beside streams."""
        self._rows = Curve(parts=2)
        """Plain steps by their rows."""
        self._beside = Curve(SHARED_CHANGE)
        """What chunks add to a plain step, by their tokens."""

    def rows_within(self, num_rows: int, factor: float) -> int | None:
        """The most rows of a plain step that takes at most `factor` times one of `num_rows`; None if unknown."""
        if not self._rows.is_known:
            return None
        return self._rows.most_within(factor * self._rows.at(num_rows), num_rows, MAX_ROWS)

    def rows_s(self, num_rows: int) -> float | None:
        """Seconds of a plain step of so many rows; None if unknown."""
        return self._rows.at(num_rows) if self._rows.is_known else None

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

    def prefill_tokens(self, num_decoding: int, num_new: int = 1, patience_s: float = 0.0) -> int:
        """The most prompt tokens for the next step, beside `num_decoding` running rows.

        A longer step is waited for by those who run, a shorter one by the `num_new` who have no token yet: where these
        are more, the stall may be as many times as long. It may also be what makes the step last `patience_s`: a gap
        that is no longer than what each of those who run has waited for a token on average, its first included, is not
        out of its order. So the prompts of a crowd that comes at once go through in a few large chunks.
        """
        if not num_decoding:
            return MAX_LONELY_TOKENS
        if self.decode_s is None or self.prefill_s_per_token is None:
            return FIRST_PREFILL_TOKENS
        usual_s = (STALL_FACTOR - 1.0) * self.decode_s
        spare_s = max(usual_s * max(1.0, num_new / num_decoding), patience_s - self.decode_s)
        if self._beside.is_known:
            most = min(MAX_PREFILL_TOKENS, max(FIRST_PREFILL_TOKENS, GROWTH * self._latest))
            return self._beside.most_within(spare_s, MIN_PREFILL_TOKENS, most)
        most = FIRST_PREFILL_TOKENS if spare_s <= usual_s else MAX_PREFILL_TOKENS
        fitting = most if spare_s >= self.prefill_s_per_token * most else spare_s / self.prefill_s_per_token
        return max(MIN_PREFILL_TOKENS, int(fitting))

    def observe(self, num_prefill: int, num_decode: int, seconds: float) -> None:
        """One step took `seconds` with that many prompt and decode tokens in it, drafts among these.

        What a plain step takes is the fixed cost of any step; a prompt token costs what comes on top. Beside running
        rows it costs more than in a large chunk of its own, which therefore counts only until the first of the others.
        Until a plain step was seen, only a long prompt says anything about its tokens.
        """
        if not num_prefill:
            if num_decode:
                self.decode_s = _average(self.decode_s, seconds, WEIGHT_OF_NEWEST)
                self._rows.learn(num_decode, seconds, WEIGHT_OF_NEWEST)
        elif self.decode_s is not None or num_prefill >= FIRST_PREFILL_TOKENS:
            own_s = max(0.0, seconds - (self.decode_s or 0.0))
            self._learn(num_prefill, own_s, is_beside=num_decode > 0)

    def _learn(self, num_tokens: int, own_s: float, *, is_beside: bool) -> None:
        """A chunk of so many tokens took `own_s` beyond a plain step."""
        if is_beside:
            self._latest = num_tokens
            is_dearer = self._beside.is_known and own_s > self._beside.at(num_tokens)
            self._beside.learn(num_tokens, own_s, WEIGHT_OF_DEARER if is_dearer else WEIGHT_OF_NEWEST)
        elif self._is_measured_beside:
            return
        each_s = own_s / num_tokens
        known = self.prefill_s_per_token if self._is_measured_beside == is_beside else None
        is_dearer = known is not None and each_s > known
        weight = WEIGHT_OF_DEARER if is_dearer else WEIGHT_OF_NEWEST
        self.prefill_s_per_token = _average(known, each_s, weight)
        self._is_measured_beside = is_beside


def _average(old: float | None, new: float, weight: float) -> float:
    return new if old is None else old + weight * (new - old)

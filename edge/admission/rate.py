"""How often may one key ask? Token buckets in memory, a bounded number of them, time as an argument."""

from __future__ import annotations

from typing import Final

MAX_KEYS: Final = (
    16_384  # twice what a policy row can hold; the least recently used is forgotten (and is full again)
)
RATE_PER_S: Final = 1000.0  # one edge process does about ten times this; one key never takes all of it
BURST: Final = 2000.0  # two seconds' worth, so that a batch client is not refused at its start


class Buckets:
    """One bucket a key: `burst` tokens at first, `rate_per_s` flow in, each request takes one."""

    def __init__(
        self, rate_per_s: float = RATE_PER_S, burst: float = BURST, max_keys: int = MAX_KEYS
    ) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._max_keys = max_keys
        self._levels: dict[str, list[float]] = {}  # by key: tokens, at seconds

    def __len__(self) -> int:
        return len(self._levels)

    def take(self, key: str, now: float) -> float | None:
        """Take a token of `key` at `now` (monotonic seconds): None if there was one, else seconds until there is."""
        level = self._levels.get(key) or self._full(key, now)
        tokens, at = level
        if now != at:  # else nothing has flowed in: uvloop's clock ticks in whole ms
            tokens += (now - at) * self._rate_per_s
            if tokens > self._burst:  # noqa: PLR1730 - each request comes here, and `min` is a call
                tokens = self._burst
            level[1] = now
        if tokens < 1.0:
            level[0] = tokens
            return (1.0 - tokens) / self._rate_per_s
        level[0] = tokens - 1.0
        return None

    def _full(self, key: str, now: float) -> list[float]:
        """A new key's; there is a place for it once the one that was used longest ago is forgotten."""
        if len(self._levels) >= self._max_keys:
            del self._levels[min(self._levels, key=lambda each: self._levels[each][1])]
        level = self._levels[key] = [self._burst, now]
        return level

"""How often may one key ask? Token buckets in memory, a bounded number of them, time as an argument."""

from __future__ import annotations

from collections import OrderedDict
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
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()  # key: (tokens, at seconds)

    def __len__(self) -> int:
        return len(self._levels)

    def take(self, key: str, now: float) -> float | None:
        """Take a token of `key` at `now` (monotonic seconds): None if there was one, else seconds until there is."""
        tokens, at = self._levels.pop(key, (self._burst, now))
        tokens = min(self._burst, tokens + (now - at) * self._rate_per_s)
        short = tokens < 1.0
        self._levels[key] = (tokens if short else tokens - 1.0, now)
        if len(self._levels) > self._max_keys:
            self._levels.popitem(last=False)
        return (1.0 - tokens) / self._rate_per_s if short else None

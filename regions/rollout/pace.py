"""A bound on bytes per second, as a token bucket. Pure: the time is an argument."""

from __future__ import annotations

BURST_S = 0.25  # this much of the rate may come at once: smooth for a link, coarse enough for a timer


class Pace:
    """Who moved bytes waits until the rate allows them; 0 bytes per second is no bound.

    Bytes may be counted after they came: a debt is paid before the next ones.
    """

    def __init__(self, bytes_per_s: float) -> None:
        self.bytes_per_s = bytes_per_s
        self._free_s: float | None = None  # when all that was counted is paid for

    def take(self, num_bytes: int, now_s: float) -> float:
        """Counts bytes; how many seconds to wait before asking for more."""
        if not self.bytes_per_s:
            return 0.0
        earliest = now_s - BURST_S
        free_s = earliest if self._free_s is None else max(self._free_s, earliest)
        self._free_s = free_s + num_bytes / self.bytes_per_s
        return max(self._free_s - now_s, 0.0)

"""Measured bandwidth, as one number that follows the last few transfers that were large enough to tell it."""

import threading

WEIGHT = 0.3  # of the newest sample: three loads move it most of the way, one outlier does not
LEAST_BYTES = 256 << 10  # smaller transfers measure latency, not bandwidth
LARGE_BYTES = 64 << 20  # mostly bandwidth; once one so large was seen, a smaller one says nothing better


class Rate:
    """An exponentially weighted mean of bytes per second. Safe to use from several threads.

    What a few megabytes take is their requests' latency: they stand for bandwidth only until something of at least four
    times their size was moved. Whatever is large counts.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bytes_per_s: float | None = None
        self._most_bytes = 0

    def observe(self, num_bytes: int, seconds: float) -> None:
        """Count one transfer; small ones are not counted."""
        if num_bytes < LEAST_BYTES or seconds <= 0:
            return
        with self._lock:
            if num_bytes < min(self._most_bytes // 4, LARGE_BYTES):
                return
            told_little = self._most_bytes < min(num_bytes // 4, LARGE_BYTES)
            last = None if told_little else self._bytes_per_s
            self._most_bytes = max(self._most_bytes, num_bytes)
            sample = num_bytes / seconds
            self._bytes_per_s = sample if last is None else last + WEIGHT * (sample - last)

    @property
    def bytes_per_s(self) -> float | None:
        """The mean; None before the first transfer."""
        return self._bytes_per_s

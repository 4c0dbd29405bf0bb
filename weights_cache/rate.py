"""Measured bandwidth, as one number that follows the last few transfers."""

import threading

WEIGHT = 0.3  # of the newest sample: three loads move it most of the way, one outlier does not
LEAST_BYTES = 256 << 10  # smaller transfers measure latency, not bandwidth


class Rate:
    """An exponentially weighted mean of bytes per second. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bytes_per_s: float | None = None

    def observe(self, num_bytes: int, seconds: float) -> None:
        """Count one transfer; small ones are not counted."""
        if num_bytes < LEAST_BYTES or seconds <= 0:
            return
        with self._lock:
            last = self._bytes_per_s
            sample = num_bytes / seconds
            self._bytes_per_s = sample if last is None else last + WEIGHT * (sample - last)

    @property
    def bytes_per_s(self) -> float | None:
        """The mean; None before the first transfer."""
        return self._bytes_per_s

"""How fast requests leave while others wait, and how long that makes a new one wait. Plain Python, no clock."""

from __future__ import annotations

from collections import deque

WINDOW = 64
"""Departures looked at: four full batches of a usual engine."""
MIN_RETRY_S = 1.0
MAX_RETRY_S = 60.0
"""Nobody is sent away for longer, however long the queue is: the machine may have another one by then."""


class Drain:
    """A clock that runs only while requests wait: without a queue, departures tell of arrivals and not of speed."""

    __slots__ = ("_busy_s", "_departures", "_seen_s")

    def __init__(self) -> None:
        self._busy_s = 0.0
        self._seen_s: float | None = None
        self._departures = deque([0.0], maxlen=WINDOW)

    def pass_time(self, now: float, *, is_busy: bool) -> None:
        """It is `now`, and `is_busy` says whether requests have waited since the last call."""
        if is_busy and self._seen_s is not None:
            self._busy_s += now - self._seen_s
        self._seen_s = now

    def depart(self) -> None:
        """A request gave its slot back while others waited."""
        self._departures.append(self._busy_s)

    def wait_s(self, num_waiting: int) -> float:
        """Seconds until so many have left, at the pace of the last departures; the time since then counts too.

        Before the first departure the pace is taken to be one in the time that was waited already.
        """
        per_request_s = (self._busy_s - self._departures[0]) / max(1, len(self._departures) - 1)
        return min(MAX_RETRY_S, max(MIN_RETRY_S, num_waiting * per_request_s))

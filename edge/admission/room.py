"""How much an edge holds at once: requests, and bytes of their bodies and of answers that are not whole yet.

A body stays in memory until its answer is committed, because it may have to be sent again; so there is a bound, and
beyond it a clear 503 with the time after which another try is worth while, as it was measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from wire.refused.refusal import Refusal
from wire.turnover import Turnover

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_REQUESTS: Final = 8192  # one process does about 10,000 requests a second; so many at once are streams
MAX_BYTES: Final = 256 << 20
AT_ONCE: Final = 64  # who left are counted together, so many at most


class Room:
    """What is held now. `enter` and `leave` go in pairs; so do `take` and `give_back`."""

    def __init__(self, max_requests: int = MAX_REQUESTS, max_bytes: int = MAX_BYTES) -> None:
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._turnover = Turnover()
        self.num_requests = 0
        self.num_bytes = 0
        self.num_refused = 0
        self._stays_s: list[float] = []  # of who left since they were counted
        self.on_left: Callable[[list[float]], None] | None = None  # hears how long each one stayed

    def enter(self, num_bytes: int) -> None:
        """A request with a body of `num_bytes`. Raises Refusal 503 where there is no room for it."""
        if not self.holds(num_bytes):
            self.num_refused += 1
            self.settle()
            wait_s = self._turnover.wait_s()
            text = "This edge holds as many requests as it can; try again as Retry-After says."
            raise Refusal(503, "overloaded", text, "server_error", retry_after_s=wait_s)

    def holds(self, num_bytes: int) -> bool:
        """The same, False in place of a refusal: then nothing is taken."""
        num_all = self.num_bytes + num_bytes
        if self.num_requests >= self._max_requests or num_all > self._max_bytes:
            return False
        self.num_requests += 1
        self.num_bytes = num_all
        return True

    def undo(self, num_bytes: int) -> None:
        """One that came in, and goes another way: it never stayed."""
        self.num_requests -= 1
        self.num_bytes -= num_bytes

    def leave(self, num_bytes: int, stay_s: float) -> None:
        """It was answered, or its client is gone, `stay_s` after it came."""
        self.num_requests -= 1
        self.num_bytes -= num_bytes
        self._stays_s.append(stay_s)
        if len(self._stays_s) >= AT_ONCE:
            self.settle()

    def settle(self) -> None:
        """Count who has left since the last time: each by itself would cost a request more than all its room does."""
        stays_s, self._stays_s = self._stays_s, []
        self._turnover.all_left(stays_s)
        if self.on_left is not None:
            self.on_left(stays_s)

    def take(self, num_bytes: int) -> bool:
        """Room for so many bytes of an answer; False, and nothing is taken, where there is none."""
        if self.num_bytes + num_bytes > self._max_bytes:
            return False
        self.num_bytes += num_bytes
        return True

    def give_back(self, num_bytes: int) -> None:
        """They are passed on."""
        self.num_bytes -= num_bytes

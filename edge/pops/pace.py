"""How fast the counts of each edge grow, from its last words. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from regions.pops import Word

WINDOW_S: Final = 10.0  # as the console's: shorter, and one request looks like a burst


@dataclass(frozen=True, slots=True)
class Counts:
    """Requests that were answered and that failed until `at` (loop time)."""

    at: float
    answered: int
    failed: int


class Paces:
    """The counts of each edge within the window, oldest first."""

    def __init__(self) -> None:
        self._past: dict[str, deque[Counts]] = {}

    def note(self, word: Word, at: float) -> None:
        """An edge said this at `at`. Counts that went down began anew: what was before is no part of them."""
        past = self._past.setdefault(word.edge, deque())
        now = Counts(at, sum(each.answered for each in word.regions.values()), word.failed)
        if past and (now.answered < past[-1].answered or now.failed < past[-1].failed):
            past.clear()
        past.append(now)
        while at - past[0].at > WINDOW_S:
            past.popleft()

    def per_s(self, edge: str, now: float) -> tuple[float, float] | None:
        """Requests answered and failed a second; None if it said less than two words in the window before `now`."""
        past = [each for each in self._past.get(edge, ()) if now - each.at <= WINDOW_S]
        if len(past) < 2 or past[-1].at <= past[0].at:
            return None
        took_s = past[-1].at - past[0].at
        answered, failed = past[-1].answered - past[0].answered, past[-1].failed - past[0].failed
        return answered / took_s, failed / took_s

"""When the way to a region is lost, by what kernels say: one acknowledges for a starved process too, so it is believed.

The way is lost once something that was sent has gone unacknowledged for LEAST_S (REPEAT_S and ROUND_TRIPS, where that
is more) and nothing at all has come over any connection meanwhile. Two connections must say so; of one alone the kernel
must have repeated it, and for twice as long, because any one segment may be lost. Where MANY say so it takes SOONER of
that time, if every look came in time: the machine that both ends may share was not too busy to hear.

Time counts as it was looked at. A look that comes LATE_S after the last one, in place of BEAT_S, tells of this process,
or of its machine, that stood still and could not hear; it counts for one beat, however often that happens. Pure.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from wire.tcpinfo import Look

BEAT_S: Final = 0.025  # from one look to the next
LEAST_S: Final = 0.3
REPEAT_S: Final = 0.2  # Linux repeats no sooner, and acknowledges no later
ROUND_TRIPS: Final = 4.0
WITNESSES: Final = 2
ALONE: Final = 2.0  # times as long, where there is only one
MANY: Final = 8
SOONER: Final = 2 / 3  # of that time, which is longer than a kernel waits with what it acknowledges late
LATE_S: Final = 0.075  # from one look to the next; MANY prove nothing until seen for long enough since
STALL_S: Final = 0.2  # between two looks: what was seen before proves nothing
MAX_LATE: Final = 256  # late looks that are remembered; they lie LATE_S apart, so 19 s, and no way is so long

Name = TypeVar("Name", bound="Hashable")


def limit_s(rtt_ms: float | None) -> float:
    """How long a kernel that is there may be silent, at the most, when one segment is lost."""
    return max(LEAST_S, REPEAT_S + ROUND_TRIPS * (rtt_ms or 0.0) / 1000)


class Silence:
    """What was seen of one way; times are of one clock, in seconds."""

    def __init__(self) -> None:
        self._since: dict[Hashable, float] = {}  # from then at the latest something is unacknowledged
        self._from = self._at = self._late_at = 0.0
        self._missed: deque[tuple[float, float]] = deque(maxlen=MAX_LATE)  # until when, how much before
        self.near = 0.0
        """The share of the time until the way is lost that had passed at the last look, by WITNESSES or by MANY."""

    def lost(self, now: float, looks: Mapping[Name, Look], limit_s: float) -> bool:
        """Whether the way is lost, by all `looks` at its connections at `now`; the caller looks again and again."""
        self._look(now)
        heard = max([self._from, *(now - each.heard_s for each in looks.values())])
        before, self._since = self._since, {}
        for name, each in looks.items():
            if each.unacked:
                self._since[name] = min(before.get(name, now), now - each.sent_s)
        waited = {name: self._looked_s(max(since, heard)) for name, since in self._since.items()}
        self.near = self._nearness(sorted(waited.values(), reverse=True), now) / limit_s
        if self.near >= 1.0:
            return True
        repeated = [waited[name] for name, each in looks.items() if name in waited and each.repeated]
        return any(each >= ALONE * limit_s for each in repeated)

    def forget(self) -> None:
        """Nothing is waited for: what comes next is looked at afresh."""
        self._since.clear()
        self._missed.clear()
        self.near = 0.0

    def _look(self, now: float) -> None:
        gap_s, self._at = now - self._at, now
        if gap_s > STALL_S:
            self._from = now
        if gap_s > LATE_S:
            self._late_at = now
            self._missed.append((now, gap_s - BEAT_S))

    def _looked_s(self, since: float) -> float:
        """How much of the time from `since` to the last look was looked at."""
        missed_s = sum([min(much_s, until - since) for until, much_s in self._missed if until > since])
        return self._at - since - missed_s

    def _nearness(self, waited: list[float], now: float) -> float:
        """Seconds that WITNESSES have waited, or MANY, which count for more; `waited` begins with the longest."""
        near = waited[WITNESSES - 1] if len(waited) >= WITNESSES else 0.0
        if len(waited) >= MANY:
            near = max(near, min(waited[MANY - 1], now - self._late_at) / SOONER)
        return max(0.0, near)

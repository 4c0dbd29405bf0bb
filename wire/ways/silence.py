"""When the way to a region is lost, by what kernels say: one acknowledges for a starved process too, so it is believed.

The way is lost once something that was sent has gone unacknowledged for LEAST_S (REPEAT_S and ROUND_TRIPS, where that
is more) and nothing at all has come over any connection meanwhile. Two connections must say so; of one alone the kernel
must have repeated it, and for twice as long, because any one segment may be lost. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from wire.tcpinfo import Look

LEAST_S: Final = 0.3
REPEAT_S: Final = 0.2  # Linux repeats no sooner, and acknowledges no later
ROUND_TRIPS: Final = 4.0
WITNESSES: Final = 2
ALONE: Final = 2.0  # times as long, where there is only one
STALL_S: Final = 0.2  # between two looks: this process stood still, perhaps the machine, and saw nothing

Name = TypeVar("Name", bound="Hashable")


def limit_s(rtt_ms: float | None) -> float:
    """How long a kernel that is there may be silent, at the most, when one segment is lost."""
    return max(LEAST_S, REPEAT_S + ROUND_TRIPS * (rtt_ms or 0.0) / 1000)


class Silence:
    """What was seen of one way; times are of one clock, in seconds."""

    def __init__(self) -> None:
        self._since: dict[Hashable, float] = {}  # from then at the latest something is unacknowledged
        self._from = self._at = 0.0
        self.quiet_s = 0.0
        """For how long nothing was acknowledged to any of WITNESSES connections, at the last look."""

    def lost(self, now: float, looks: Mapping[Name, Look], limit_s: float) -> bool:
        """Whether the way is lost, by all `looks` at its connections at `now`; the caller looks again and again."""
        if now - self._at > STALL_S:
            self._from = now
        self._at = now
        heard = max([self._from, *(now - each.heard_s for each in looks.values())])
        before, self._since = self._since, {}
        for name, each in looks.items():
            if each.unacked:
                self._since[name] = min(before.get(name, now), now - each.sent_s)
        waited = {name: now - max(since, heard) for name, since in self._since.items()}
        self.quiet_s = max(0.0, sorted([0.0] * WITNESSES + [*waited.values()])[-WITNESSES])
        if self.quiet_s >= limit_s:
            return True
        repeated = [waited[name] for name, each in looks.items() if name in waited and each.repeated]
        return any(each >= ALONE * limit_s for each in repeated)

    def forget(self) -> None:
        """Nothing is waited for: what comes next is looked at afresh."""
        self._since.clear()
        self.quiet_s = 0.0

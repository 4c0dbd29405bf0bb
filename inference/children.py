"""The processes that a shell has forked: which must be gone by when, and which have ended."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field


@dataclass(slots=True)
class Children:
    """The processes we forked and when those that have a deadline must be gone."""

    deadlines: dict[int, float | None] = field(default_factory=dict)

    def next_deadline_s(self, now: float) -> float | None:
        """Seconds to the earliest deadline, at least 0; None if there is none."""
        ends = [end for end in self.deadlines.values() if end is not None]
        return max(0.0, min(ends) - now) if ends else None

    def kill_late(self, now: float) -> None:
        """End those whose time is up."""
        for pid, end in self.deadlines.items():
            if end is not None and now >= end:
                os.kill(pid, signal.SIGKILL)

    def reap(self) -> list[tuple[int, int]]:
        """The (pid, exit status; minus the signal's number) of the children that ended."""
        ended = []
        while self.deadlines:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            self.deadlines.pop(pid, None)
            ended.append((pid, os.waitstatus_to_exitcode(status)))
        return ended

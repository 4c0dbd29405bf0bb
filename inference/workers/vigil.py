"""Whether a process does anything, by what the kernel counts for it: a frozen one does not, a slow one does.

A total deadline ends a large model that takes its minutes, and has whoever waits for a frozen engine wait as long. Any
instruction, page or byte is a sign of life. Standard library only.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Hashable

LIFELESS_S: Final = 20.0
"""A process that wants to run gets some of a processor within a second, however crowded its host."""
MOST_S: Final = 0.5
"""Of one look: a longer time between two is one in which we did not look."""
_COUNTED: Final = (7, 9, 11, 12)
"""Of /proc/PID/stat behind the name: pages without and with reading, processor time in user's and in kernel's code."""

Signs = tuple[str, ...]


def signs_of(pid: int) -> Signs:
    """What the kernel has counted for a process, all threads together; the same again: it did nothing. () of none."""
    folder = Path("/proc") / str(pid)
    try:
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        ran = (folder / "schedstat").read_text()  # its first thread's, in ns, where the others are in 10 ms
    except (FileNotFoundError, ProcessLookupError):
        return ()
    return (*(fields[each] for each in _COUNTED), ran)


class Vigil:
    """`look` now and then; times are seconds of any one clock."""

    def __init__(self, now: float) -> None:
        self._at = now
        self._seen: Hashable = None
        self._silent_s = 0.0

    def look(self, signs: Hashable, now: float) -> float:
        """How long `signs` have not changed, as it was looked at: time in which we stood still says nothing."""
        gap_s, self._at = now - self._at, now
        self._silent_s = 0.0 if signs != self._seen else self._silent_s + min(gap_s, MOST_S)
        self._seen = signs
        return self._silent_s

"""What a killed keeper leaves behind: found by its session and its folder, and killed. Standard library only.

A keeper ends all that its program started. Killed itself, by an operator or for memory, it cannot: its program dies
with it, but what that started goes on, holding memory and the engine's output.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

MAX_ROUNDS = 50
"""Looks at all processes: one that forks meanwhile is found in the next."""
_SESSION = 3
"""Place of the session in `/proc/PID/stat`, counted from the state, which follows the name."""


def end_strays(session: int, folder: Path) -> int:
    """Kill every process of `session`, and every one that works in `folder`; how many there were."""
    num_killed = 0
    for _ in range(MAX_ROUNDS):
        found = [
            pid for pid in map(int, _processes()) if pid != os.getpid() and _belongs(pid, session, folder)
        ]
        if not found:
            break
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        num_killed += len(found)
    return num_killed


def _processes() -> list[str]:
    return [each.name for each in Path("/proc").iterdir() if each.name.isdecimal()]


def _belongs(pid: int, session: int, folder: Path) -> bool:
    """What has ended but is not collected yet belongs to nobody; what may not be looked at is another user's."""
    process = Path("/proc") / str(pid)
    try:
        state, *numbers = (process / "stat").read_bytes().rpartition(b")")[2].split()
        if state == b"Z":
            return False
        return int(numbers[_SESSION - 1]) == session or (process / "cwd").readlink().is_relative_to(folder)
    except OSError:
        return False

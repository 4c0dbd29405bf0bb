"""The processes that a shell has forked: how each begins, which must be gone by when, and which have ended."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

LITTLE_BYTES = 4 << 30
"""Address space that a throw-away child may take beyond what the shell has mapped itself."""
PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15


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


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent ends; exit now if it has ended already."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        sys.exit(1)


def be_child(
    shell_pid: int, name: str, told: socket.socket, work: Callable[[], None], inherited: list[socket.socket]
) -> NoReturn:
    """Do `work` as the process that was just forked, and end; `told` hears that it runs, `inherited` is closed."""
    status = 1
    try:
        die_with_parent(shell_pid)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        for each in inherited:
            each.close()
        ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode())
        told.send(b"1")
        told.close()
        work()
        status = 0
    finally:
        os._exit(status)


def take_little(cpu_s: float, more_bytes: int = 0) -> None:
    """Bound what this process may take: addresses beyond what it has (`more_bytes` are free), and processor time."""
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + more_bytes + LITTLE_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (int(cpu_s),) * 2)

"""Processes forked ahead with their device's context up: what an engine would wait seconds for is done already.

`Roster` (pure) says when to fork another and which one to use; `SparePool` holds their sockets. A spare brings its
device up, says so, and waits for one engine's spec and descriptors; then it is that engine, and another takes its
place. Only the shell's one thread works here. No torch.
"""

from __future__ import annotations

import os
import signal
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from inference.link import PREFIX_BYTES, frame_bytes, receive_frame
from inference.spec import EngineSpec

if TYPE_CHECKING:
    from collections.abc import Callable

RETRY_S = (0.2, 1.0, 5.0, 30.0)
"""Before another one after a spare that ended by itself: a device that is gone is not asked for in a loop."""
HAND_OVER_S = 5.0
"""A spare that does not read its spec for so long is stopped or hangs: it is killed, and another one asked."""
READY = b"1"
MAX_FAULT_BYTES = 4_096


@dataclass(slots=True)
class Roster:
    """Which spares there are. Never more than `num_wanted`; one is brought up at a time, beside running engines."""

    num_wanted: int
    warming: set[int] = field(default_factory=set)
    ready: list[int] = field(default_factory=list)
    num_failures: int = 0
    not_before_s: float = 0.0

    def is_due(self, now: float) -> bool:
        """Whether one more is to be forked."""
        return self._is_short and now >= self.not_before_s

    def next_due_s(self, now: float) -> float | None:
        """Seconds until one more is to be forked, at least 0; None if none is."""
        return max(0.0, self.not_before_s - now) if self._is_short else None

    def note_forked(self, pid: int) -> None:
        """It is on its way."""
        self.warming.add(pid)

    def note_ready(self, pid: int) -> None:
        """Its device is up."""
        self.warming.discard(pid)
        self.ready.append(pid)
        self.num_failures = 0

    def take(self) -> int | None:
        """The spare that has waited longest, which is none any more; None if none is ready."""
        return self.ready.pop(0) if self.ready else None

    def note_end(self, pid: int, now: float) -> bool:
        """A process ended; True if it was a spare."""
        if pid in self.warming:
            self.warming.discard(pid)
        elif pid in self.ready:
            self.ready.remove(pid)
        else:
            return False
        self.note_failure(now)
        return True

    def note_failure(self, now: float) -> None:
        """The next one comes later, the later the more failed in a row."""
        self.not_before_s = now + RETRY_S[min(self.num_failures, len(RETRY_S) - 1)]
        self.num_failures += 1

    @property
    def _is_short(self) -> bool:
        return not self.warming and len(self.ready) < self.num_wanted


class SparePool:
    """The spares of one shell, for engines on `device`. `warm` brings it up in the spare, and tells what went wrong."""

    def __init__(self, device: str, num_wanted: int, warm: Callable[[str], str] | None = None) -> None:
        self.device = device
        self.roster = Roster(num_wanted if warm else 0)
        self.sockets: dict[int, socket.socket] = {}
        """The shell's end for each spare; a child that is forked closes them."""
        self._warm = warm
        self._faults: dict[int, str] = {}

    def be_spare(
        self,
        shells_end: socket.socket,
        own: socket.socket,
        be_engine: Callable[[EngineSpec, list[int]], None],
    ) -> None:
        """What a spare does from its fork on. Returns if nobody needs it."""
        shells_end.close()
        fault = self._warm(self.device) if self._warm else ""
        own.sendall(fault.encode()[:MAX_FAULT_BYTES] or READY)
        if fault:
            return
        message, fds = receive_frame(own)
        own.close()
        if message is not None:
            be_engine(EngineSpec.from_value(message["spec"]), fds)

    def add(self, pid: int, sock: socket.socket) -> None:
        """A spare was forked. Takes its socket over."""
        self.sockets[pid] = sock
        self.roster.note_forked(pid)

    def hear(self) -> list[int]:
        """The spares that have become ready."""
        return [pid for pid in sorted(self.roster.warming) if self._is_ready(pid)]

    def hand_over(self, spec: object, fds: list[int]) -> int | None:
        """Make a ready spare the engine of this checked spec; its pid, or None if none is there."""
        while (pid := self.roster.take()) is not None:
            with self.sockets.pop(pid) as sock:
                sock.settimeout(HAND_OVER_S)
                if _sent(sock, frame_bytes({"spec": spec}), fds):
                    return pid
            os.kill(pid, signal.SIGKILL)  # it is our child and not waited for yet: the pid is its own
        return None

    def gone(self, pid: int, now: float) -> str | None:
        """A child ended: what a spare said it died of (maybe nothing); None if it was no spare."""
        if not self.roster.note_end(pid, now):
            return None
        self._is_ready(pid)  # its last words may not have been heard
        self.sockets.pop(pid).close()
        return self._faults.pop(pid, "")

    def _is_ready(self, pid: int) -> bool:
        try:
            said = self.sockets[pid].recv(MAX_FAULT_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        if said == READY and pid in self.roster.warming:
            self.roster.note_ready(pid)
            return True
        if said and said != READY:
            self._faults[pid] = said.decode(errors="replace")
        return False


def _sent(sock: socket.socket, data: bytes, fds: list[int]) -> bool:
    """The descriptors go with the frame's prefix, as the node sends them to us."""
    try:
        socket.send_fds(sock, [data[:PREFIX_BYTES]], fds)
        sock.sendall(data[PREFIX_BYTES:])
    except OSError:
        return False
    return True

"""One edge as several processes, forked from one that has imported everything, holds the sockets, and does no more.

It runs no event loop and no thread, so a worker is one fork of some milliseconds. A worker that dies is replaced at
once and takes over the sockets of its predecessor, with whoever waits in their queues; one that dies again soon waits a
while, and meanwhile its sockets listen to nobody, so that the others have all who come. The end is a drain of all.
"""

import logging
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.faults import RoleFailed
from deploy.roles.life import die_with_parent
from edge.admission.ledger import SharedLedger
from edge.crew.place import Place

STOPS = frozenset({signal.SIGTERM, signal.SIGINT})
WATCHED = STOPS | {signal.SIGCHLD}
LOOK_S = 0.02  # while workers start: who is ready says so by a byte in a pipe
CALM_S = 5.0  # of life: a death after it says nothing of the next life
FIRST_PAUSE_S = 0.5
MAX_PAUSE_S = 10.0
GRACE_S = 10.0  # beyond what a drain may take

log = logging.getLogger("nearfield.deploy")


@dataclass(slots=True)
class Worker:
    """One of the processes, or the one that will be there next."""

    place: Place
    pid: int = 0
    since: float = 0.0
    num_short: int = 0  # lives of less than CALM_S, one after another
    due: float = 0.0


class Crew:
    """`work` returns in each worker with its Place and the end of a pipe to say on that it is ready.

    In the parent it returns None once all is over. `sockets` are each worker's listeners by name.
    """

    def __init__(self, sockets: Sequence[Mapping[str, socket.socket]], drain_s: float) -> None:
        self._ledger = SharedLedger(len(sockets))
        self._folder = Path(tempfile.mkdtemp(prefix="nearfield-crew-"))
        places = (Place(i, len(sockets), own, self._ledger, self._folder) for i, own in enumerate(sockets))
        self._workers = [Worker(place) for place in places]
        self._drain_s = drain_s
        self._parent = os.getpid()
        self._heard, self._say = os.pipe()
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
        self._num_ready = 0
        os.set_blocking(self._heard, False)

    def work(self, ready: Callable[[], None]) -> tuple[Place, int] | None:
        """See the class. `ready()` is called once all workers are. Raises RoleFailed: one ended before that."""
        try:
            for worker in self._workers:
                if self._start(worker):
                    return worker.place, self._say
            if self._all_ready():
                ready()
                if (mine := self._watch()) is not None:
                    return mine, self._say
        finally:
            if os.getpid() == self._parent:
                self._end()
        return None

    # the parent -------------------------------------------------------------------------------------------------

    def _all_ready(self) -> bool:
        """False if it is to stop before they are."""
        while self._num_ready < len(self._workers):
            info = signal.sigtimedwait(WATCHED, LOOK_S)
            if info is not None and info.si_signo in STOPS:
                return False
            self._hear()
            for worker, status in self._reaped():
                raise RoleFailed(
                    f"worker {worker.place.index} ended with status {status} before it was ready"
                )
        return True

    def _watch(self) -> Place | None:
        """Until it is to stop: None; in a worker that is forked meanwhile its place."""
        while True:
            info = signal.sigtimedwait(WATCHED, self._wait_s())
            if info is not None and info.si_signo in STOPS:
                return None
            self._hear()
            for worker, status in self._reaped():
                self._lost(worker, status)
            for worker in self._workers:
                if not worker.pid and worker.due <= time.monotonic() and self._start(worker):
                    return worker.place

    def _wait_s(self) -> float:
        """Until the next start that waits."""
        waits = [worker.due - time.monotonic() for worker in self._workers if not worker.pid]
        return max(0.0, min(waits, default=MAX_PAUSE_S))

    def _lost(self, worker: Worker, status: int) -> None:
        lived_s = time.monotonic() - worker.since
        worker.num_short = 0 if lived_s >= CALM_S else worker.num_short + 1
        pause_s = (
            0.0 if worker.num_short < 2 else min(MAX_PAUSE_S, FIRST_PAUSE_S * 2 ** (worker.num_short - 2))
        )
        worker.due = time.monotonic() + pause_s
        self._ledger.clear(worker.place.index)
        log.warning(
            "worker %d (pid %d) ended with status %d after %.1f s; the next starts in %.1f s",
            *(worker.place.index, worker.pid, status, lived_s, pause_s),
        )
        worker.pid = 0
        if pause_s:
            for sock in worker.place.sockets.values():
                sock.shutdown(socket.SHUT_RDWR)  # it leaves the kernel's group, and is bound all the same

    def _reaped(self) -> list[tuple[Worker, int]]:
        """Who has ended, and how."""
        found = []
        for worker in self._workers:
            if worker.pid:
                pid, status = os.waitpid(worker.pid, os.WNOHANG)
                found += [(worker, os.waitstatus_to_exitcode(status))] if pid else []
        return found

    def _hear(self) -> None:
        try:
            self._num_ready += len(os.read(self._heard, len(self._workers)))
        except BlockingIOError:
            return

    def _end(self) -> None:
        """Have them drain: listen to nobody ourselves, tell them, and wait."""
        for worker in self._workers:
            for sock in worker.place.sockets.values():
                sock.close()
        running = [worker for worker in self._workers if worker.pid]
        for number, within_s in ((signal.SIGTERM, self._drain_s + GRACE_S), (signal.SIGKILL, GRACE_S)):
            for worker in running:
                os.kill(worker.pid, number)
            end = time.monotonic() + within_s
            while running and (left_s := end - time.monotonic()) > 0:
                signal.sigtimedwait({signal.SIGCHLD}, min(left_s, 1.0))
                running = [worker for worker in running if os.waitpid(worker.pid, os.WNOHANG) == (0, 0)]
        shutil.rmtree(self._folder, ignore_errors=True)

    # a worker ---------------------------------------------------------------------------------------------------

    def _start(self, worker: Worker) -> bool:
        """Fork; True in the worker, that has what is its own alone."""
        worker.since = time.monotonic()
        worker.pid = os.fork()
        if worker.pid:
            return False
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        die_with_parent(self._parent)
        self._ledger.at(worker.place.index)
        os.close(self._heard)
        for other in self._workers:
            if other is not worker:
                for sock in other.place.sockets.values():
                    sock.close()
        return True

"""Work on the pieces of one body, in order, on a thread beside the one that brings them."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future

MAX_BEHIND = 2  # lists of pieces that wait or are worked on; then who brings more waits too

Pieces = Sequence[bytes | memoryview]


class Lane:
    """`put` returns at once while the work keeps up; a thread of `pool` is held only while there is work.

    Waking a thread and hearing of its end cost as much as half a megabyte of MD5 on a busy machine, so the thread
    that works takes the next list itself. `work` must not wait for anything.
    """

    def __init__(self, pool: Executor, work: Callable[[Pieces], None]) -> None:
        self._pool = pool
        self._work = work
        self._behind: deque[Pieces] = deque()
        self._changed = threading.Condition()
        self._running: Future[None] | None = None
        self._broken = False

    def put(self, pieces: Pieces) -> None:
        """Have `pieces` worked on after those before them. Raises: RuntimeError if the pool is closed.

        After work that failed nothing more is done: `drain` says so.
        """
        with self._changed:
            self._changed.wait_for(lambda: len(self._behind) < MAX_BEHIND or self._broken)
            self._behind.append(pieces)
            if self._running is None:
                self._running = self._pool.submit(self._run)

    def drain(self) -> None:
        """Return once everything was worked on. Raises: whatever the work raised."""
        with self._changed:
            running = self._running
        if running is not None:
            running.result()

    def _run(self) -> None:
        whole = False
        try:
            while self._step():
                pass
            whole = True
        finally:
            if not whole:
                with self._changed:
                    self._broken = True
                    self._changed.notify_all()

    def _step(self) -> bool:
        """Work on the next list; False if that was the last, and the thread goes."""
        self._work(self._behind[0])
        with self._changed:
            self._behind.popleft()
            self._changed.notify_all()
            if self._behind:
                return True
            self._running = None
            return False

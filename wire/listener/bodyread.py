"""A large request body from the kernel to a handler's work in a thread, past the event loop.

A piece that comes by the loop costs a second copy, fresh memory and two wake-ups of threads, which together are as
much as hashing it. Here one thread reads the socket into memory of its own and works on that while it is in the
processor's cache. It does so only while the peer is ahead of the work: a peer that is not is the loop's again, with
the loop's deadlines, so slow senders hold no thread.
"""

import asyncio
import os
import select
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

from wire.inthread import ended

PIECE_BYTES = 1024 * 1024  # read and worked on at once: few calls, and still in the processor's own cache
TURN_BYTES = 64 * 1024 * 1024  # then others may have the thread; some 50 ms
PATIENCE_MS = 4  # a fast peer sends on within this
WORTH_BYTES = 256 * 1024  # what a turn must have brought for each such wait: a peer that drips gets none

Take = Callable[[memoryview], None]

_memory = threading.local()


class SocketBody:
    """The rest of one body, on a descriptor that is not a transport's and that nobody else reads.

    Attributes:
        left: bytes of the body that are not read yet.
        gone: the peer is not there any more.
    """

    def __init__(self, sock_fd: int, left: int, take: Take, held: Sequence[bytes]) -> None:
        """`take` gets the pieces that are `held`, then each that is read, in memory that is used again."""
        self.left = left
        self.gone = False
        self._sock_fd = sock_fd
        self._take = take
        self._held = held
        self._ahead = True
        self._stop = threading.Event()

    async def run(self, pool: Executor) -> None:
        """Read in threads of `pool` until the body ends, or the peer is behind or gone. Raises: what `take` raises.

        On cancellation no thread is at work any more when this returns.
        """
        loop = asyncio.get_running_loop()
        while self.left and self._ahead and not self.gone:
            await ended(loop.run_in_executor(pool, self._turn), self._stop)

    def _turn(self) -> None:
        """(A thread) read and work until enough is done for one turn."""
        held, self._held = self._held, ()
        for piece in held:
            self._take(memoryview(piece))
        poll = select.poll()
        poll.register(self._sock_fd, select.POLLIN)
        memory = _own_memory()
        end, due = max(self.left - TURN_BYTES, 0), self.left - WORTH_BYTES
        while self.left > end and not self._stop.is_set():
            try:
                num = os.readv(self._sock_fd, [memory[: self.left]])
            except BlockingIOError:
                if self.left > due or not poll.poll(PATIENCE_MS):
                    self._ahead = False
                    return
                due = self.left - WORTH_BYTES
                continue
            except OSError:
                num = 0
            if not num:
                self.gone = True
                return
            self.left -= num
            self._take(memory[:num])


def _own_memory() -> memoryview:
    """The calling thread's: fresh memory for each body would cost its first touch."""
    view: memoryview | None = getattr(_memory, "view", None)
    if view is None:
        view = _memory.view = memoryview(bytearray(PIECE_BYTES))
    return view

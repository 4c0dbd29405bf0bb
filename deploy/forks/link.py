"""`up`'s end of the fork server: started at the first role, and again if it was killed."""

import asyncio
import ctypes
import os
import select
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from deploy.faults import RoleFailed
from deploy.forks.order import GO, READY, Order
from deploy.logs.tail import log_tail

PR_SET_CHILD_SUBREAPER = 36
LOAD_S = 60.0
"""For the modules of a room: half a second on a quiet host."""
FORK_S = 20.0
"""For a fork and its adoption: 10 ms on a quiet host."""
PID_BYTES = 32
LONGER = 64
"""By so many bytes the command line of a later role may be longer than the first one's (`deploy.forks.title`)."""
TRIES = 2


class ForkLink:
    """Forks roles, one at a time. `close` ends the server; roles that run are not touched."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._socket: socket.socket | None = None

    async def fork(self, order: Order, stdout: int, stderr: int) -> int:
        """The pid of the role, a child of this process. The caller keeps its own descriptors and closes them.

        Raises:
            RoleFailed: the server ended over it, twice.
        """
        async with self._turn:
            for _ in range(TRIES):
                link = self._socket or await self._start(order)
                try:
                    return await _exchange(link, order, (stdout, stderr))
                except (OSError, EOFError):
                    status = await self._end()
                except asyncio.CancelledError:
                    await self._end()  # it may be half through: the next order finds a fresh one
                    raise
        what = f"{order.role} {order.name} could not be forked: the fork server ended with status {status}"
        raise RoleFailed(f"{what}.\n{log_tail(self._log)}\nThe whole log: {self._log}")

    @property
    def pid(self) -> int | None:
        """Of the server, while there is one."""
        return None if self._process is None else self._process.pid

    async def close(self) -> None:
        """End the server."""
        async with self._turn:
            await self._end()

    async def _start(self, first: Order) -> socket.socket:
        room = " " * (len(" ".join(first.words).encode()) + LONGER)  # a role's words are written over ours
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with its, self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "deploy.forks.server", str(os.getpid()), room),
                stdin=its.fileno(),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        self._socket = ours
        return ours

    async def _end(self) -> int:
        """Its exit status."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is None:
            return 0
        process, self._process = self._process, None
        with suppress(ProcessLookupError):
            process.kill()  # it has nothing to finish; one that has ended by itself keeps its status
        return await process.wait()


async def _exchange(link: socket.socket, order: Order, fds: tuple[int, int]) -> int:
    """Raises OSError, EOFError: the server has ended, or hangs."""
    socket.send_fds(link, [order.packet()], fds)
    async with asyncio.timeout(LOAD_S):
        if await asyncio.get_running_loop().sock_recv(link, len(READY)) != READY:
            raise EOFError
    with _adopting():
        link.send(GO)
        return _pid(link)


def _pid(link: socket.socket) -> int:
    """Nothing else of this process runs until it is here: see `_adopting`."""
    if not select.select([link], [], [], FORK_S)[0]:
        raise TimeoutError
    said = link.recv(PID_BYTES)
    if not said:
        raise EOFError
    return int(said)


@contextmanager
def _adopting() -> Iterator[None]:
    """Who loses its parent below us meanwhile becomes our child: the role, when the one between has ended.

    For milliseconds, and never twice at once, as nothing is awaited in it. Else we should get everybody whose parent
    is killed, such as a node's shell, and would have to reap them all.
    """
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)

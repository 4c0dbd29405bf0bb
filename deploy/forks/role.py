"""A role that `up` has started: its ready line, its end, and what to say if it fails."""

import asyncio
import os
import signal
from pathlib import Path

from deploy.faults import RoleFailed
from deploy.forks.child import Child
from deploy.forks.link import ForkLink
from deploy.forks.order import Order
from deploy.logs.tail import log_tail

READY_LIMIT_BYTES = 4096
"""Of the ready line, which comes in one piece: a pipe takes as much at once."""


class RoleProcess:
    """A role as a child process, forked by way of `link`, with its log in a file."""

    def __init__(self, link: ForkLink, role: str, name: str, config: Path, log: Path) -> None:
        self.role, self.name, self.log = role, name, log
        self._link = link
        self._order = Order(role, name, config)
        self._child: Child | None = None
        self._heard = -1
        self.num_starts = 0

    @property
    def pid(self) -> int | None:
        """The process id while the role runs."""
        return None if self._child is None or self._child.status is not None else self._child.pid

    async def start(self) -> None:
        """Start the process; its standard error is appended to the log.

        Raises:
            RoleFailed: it could not be forked.
        """
        self.num_starts += 1
        self.log.parent.mkdir(parents=True, exist_ok=True)
        heard, says = os.pipe()
        try:
            with self.log.open("ab") as log:
                pid = await self._link.fork(self._order, says, log.fileno())
        except BaseException:
            os.close(heard)
            raise
        finally:
            os.close(says)
        self._child, self._heard = Child(pid), heard

    async def wait_ready(self, deadline_s: float) -> None:
        """Wait for the role's ready line.

        Raises:
            RoleFailed: it ended first, or said nothing in time; the message carries the end of its log.
        """
        child = self._running()
        try:
            async with asyncio.timeout(deadline_s):
                await _readable(self._heard)
            line = os.read(self._heard, READY_LIMIT_BYTES)
        except TimeoutError as error:
            raise self._failed(f"was not ready after {deadline_s:.0f} s") from error
        finally:
            os.close(self._heard)
            self._heard = -1
        if not line:
            raise self._failed(f"ended with status {await child.wait()} before it was ready")

    async def wait_end(self) -> int:
        """Wait until the process has ended; returns its exit status."""
        return await self._running().wait()

    async def stop(self, grace_s: float) -> None:
        """SIGTERM, and SIGKILL after `grace_s`; returns once the process is gone."""
        if self._child is None:
            return
        self._child.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_s):
                await self._child.wait()
        except TimeoutError:
            self._child.send(signal.SIGKILL)
            await self._child.wait()

    def _running(self) -> Child:
        if self._child is None:
            raise RuntimeError(f"{self.role} {self.name} was never started")
        return self._child

    def _failed(self, what: str) -> RoleFailed:
        return RoleFailed(f"{self.role} {self.name} {what}.\n{log_tail(self.log)}\nThe whole log: {self.log}")


async def _readable(fd: int) -> None:
    """Wait until there is something to read, or the end."""
    loop, is_readable = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(fd, is_readable.set)
    try:
        await is_readable.wait()
    finally:
        loop.remove_reader(fd)

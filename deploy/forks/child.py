"""A child process that somebody else forked for us: its end, its exit status, signals to it."""

import asyncio
import os
import signal


class Child:
    """`pid` is our child. Nobody else may wait for it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.status: int | None = None
        """Minus the signal's number if one ended it; None while it runs."""
        self._fd = os.pidfd_open(pid)
        self._has_ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._fd, self._reap)

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if self.status is None:
            signal.pidfd_send_signal(self._fd, number)

    async def wait(self) -> int:
        """Its exit status, once it has ended."""
        await self._has_ended.wait()
        if self.status is None:
            raise AssertionError("unreachable: the event follows the status")
        return self.status

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._fd)
        self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self._fd)
        self._has_ended.set()

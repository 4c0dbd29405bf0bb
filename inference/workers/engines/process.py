"""One forked engine as the node holds it: its process, its link, its requests, and its end."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from inference.link import NodeLink, link_pair
from inference.workers.engines.calls import EngineCalls
from inference.workers.entry.resident import ResidentModel
from inference.workers.vigil import signs_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from inference.api.answer.sequences import ModelLimits
    from inference.api.modeltext import ModelText
    from inference.link import Message
    from inference.usage.node_usage import EngineUsage
    from inference.workers.seams import Landing, Shell
    from inference.workers.vigil import Signs
    from weights_cache.model.revision import Revision


LAST_WORDS_S = 1.0
"""For reading what a process wrote before it ended; it is in the socket's buffer."""


class EngineProcess:
    """Made by `fork`; `kill` or a `stop` on its link ends it, `ended` waits for that, `close` lets go."""

    stalled_s = 0.0

    def __init__(
        self,
        pid: int,
        exited: asyncio.Future[int],
        calls: EngineCalls,
        fork_ms: float,
        landing: Landing,
        usage: EngineUsage,
    ) -> None:
        self.pid = pid
        self._usage = usage
        self._landing: Landing | None = landing
        self.exited = exited
        self.calls = calls
        self.birth_ms = fork_ms
        self._reader = asyncio.create_task(calls.read())
        self._pidfd: int | None = None
        with suppress(ProcessLookupError):  # it has ended already; `exited` says so
            self._pidfd = os.pidfd_open(pid)

    @classmethod
    async def fork(
        cls,
        shell: Shell,
        spec: Mapping[str, Any],
        landing: Landing,
        on_other: Callable[[Message], None],
        usage: EngineUsage,
        key: str = "",
    ) -> EngineProcess:
        """Fork an engine that maps `landing`, of the mold `key` if there is one.

        Raises what the shell raises, and holds nothing then.
        """
        node_end, engine_end = link_pair()
        with engine_end:
            try:
                own = (landing.fd, landing.ready_fd, landing.event_fd, engine_end.fileno())
                fds = (*own, *landing.mapped_fds)
                pid, fork_ms = await shell.fork(spec, fds, key)
            except BaseException:
                node_end.close()
                await usage.gone()
                raise
        calls = EngineCalls(await NodeLink.open(node_end), on_other, usage)
        return cls(pid, shell.exited(pid), calls, fork_ms, landing, usage)

    @property
    def stats(self) -> Message:
        """See `engines.Engine`."""
        return self.calls.stats

    def resident(self, revision: Revision, text: ModelText, limits: ModelLimits) -> ResidentModel:
        """See `engines.Engine`."""
        return ResidentModel(revision, text, limits, self.calls)

    def stop(self) -> None:
        """See `engines.Engine`."""
        self.calls.tell({"op": "stop"})

    def ping(self) -> None:
        """See `engines.Engine`."""
        self.calls.tell({"op": "ping"})

    def fail_all(self) -> None:
        """See `engines.Engine`. The cause is known if it is that weights did not arrive."""
        error = self._landing.error if self._landing else None
        self.calls.fail_all(str(error) if error else "")

    @property
    def signs(self) -> Signs:
        """See `engines.Engine`."""
        return signs_of(self.pid)

    async def metrics(self) -> None:
        """See `engines.Engine`: what it measures travels on its link."""

    async def until_silent(self) -> None:
        """Wait until nothing more will be heard: its link ended, or its process did and what it said was read."""
        ends: set[asyncio.Future[Any]] = {self._reader, self.exited}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait({self._reader}, timeout=LAST_WORDS_S)

    def kill(self) -> None:
        """End the process now, by a descriptor that cannot mean another process."""
        if self._pidfd is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def ended(self) -> None:
        """Wait until the process is gone, by the word of its shell or, where that is frozen, of the kernel."""
        loop, gone = asyncio.get_running_loop(), asyncio.Event()
        if self._pidfd is None:
            await asyncio.wait({self.exited})
            return
        loop.add_reader(self._pidfd, gone.set)
        told = asyncio.create_task(gone.wait())
        ends: set[asyncio.Future[Any]] = {self.exited, told}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            loop.remove_reader(self._pidfd)
            told.cancel()
            await asyncio.wait({told})

    async def close(self) -> None:
        """Let go of the link, the descriptor and the landing."""
        self._landing = None
        self._reader.cancel()
        await asyncio.wait({self._reader})
        await self.calls.close()
        await self._usage.gone()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None

"""A shell that is always there: started early, waited for only by who needs it, and replaced when it dies."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from inference.workers.shell.link import ShellBusy, ShellError, ShellLink, ShellLost

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

MOLD_AFTER_S = 1.0
"""After an engine is ready: whoever woke it has a first token by then, and is not to wait for the next one's start."""
MOST_ASKED = 1_024
RESTART_S = (0.2, 1.0, 5.0)
"""Before starting again a shell that did not start: at once, then slower; a host out of memory needs time. Who waits
hears why after as many failures in a row, and whoever comes after that at the next one."""

log = logging.getLogger("nearfield.node")


class StandingShell:
    """A `Shell` over shells that come and go. Engines of one that died are gone with it, and told so."""

    def __init__(self, start: Callable[[], Awaitable[ShellLink]]) -> None:
        self._start = start
        self._shell: ShellLink | None = None
        self._next: asyncio.Future[ShellLink] = asyncio.get_running_loop().create_future()
        self._exits: dict[int, asyncio.Future[int]] = {}
        self._molding: set[asyncio.Task[None]] = set()
        self._asked: OrderedDict[str, None] = OrderedDict()
        """Molds that a shell is at, could not make, or has died of: none is asked for again."""
        self._task = asyncio.create_task(self._stand())

    @property
    def is_up(self) -> bool:
        """Whether a fork would be done at once."""
        return self._shell is not None and not self._shell.gone.done()

    @property
    def pid(self) -> int | None:
        """See `Shell`."""
        return None if self._shell is None else self._shell.pid

    async def fork(self, spec: Mapping[str, Any], fds: Sequence[int], key: str = "") -> tuple[int, float]:
        """See `Shell`. Waits for the shell; raises ShellError when it refuses, ShellLost once one that died is gone."""
        shell = await self._living()
        try:
            pid, fork_ms = await shell.fork(spec, fds, key)
        except ShellLost:
            await asyncio.wait({shell.gone})
            raise
        self._exits[pid] = exited = shell.exited(pid)
        exited.add_done_callback(lambda _: self._exits.pop(pid, None))
        return pid, fork_ms

    def mold_soon(self, spec: Mapping[str, Any], key: str) -> None:
        """See `Shell`."""
        if key in self._asked or self._shell is None or self._shell.has_mold(key):
            return
        self._asked[key] = None
        if len(self._asked) > MOST_ASKED:
            self._asked.popitem(last=False)
        task = asyncio.create_task(self._mold_later(self._shell, spec, key))
        self._molding.add(task)
        task.add_done_callback(self._molding.discard)

    async def _mold_later(self, shell: ShellLink, spec: Mapping[str, Any], key: str) -> None:
        await asyncio.sleep(MOLD_AFTER_S)
        try:
            # It may come again where it was not its fault, or once it has made room for others.
            if shell.gone.done() or await shell.mold(spec, key):
                self._asked.pop(key, None)
        except ShellBusy:
            self._asked.pop(key, None)  # at the next start
        except ShellError as cause:
            log.warning("engines of %s are made whole at each start: %s", key, cause)

    async def inspect(self, request: Mapping[str, Any], deadline_s: float) -> dict[str, Any]:
        """See `Shell`. Raises ShellError."""
        shell = await self._living()
        return await shell.inspect(request, deadline_s)

    def exited(self, pid: int) -> asyncio.Future[int]:
        """See `Shell`; for a pid that `fork` gave. Of one that has ended already: done."""
        known = self._exits.get(pid)
        if known is None:
            known = asyncio.get_running_loop().create_future()
            known.set_result(0)
        return known

    async def close(self) -> None:
        """End the shell, and every engine of it."""
        ending = {self._task, *self._molding}
        for task in ending:
            task.cancel()
        await asyncio.wait(ending)
        if self._shell is not None:
            await self._shell.close()

    async def _living(self) -> ShellLink:
        if self._shell is not None and not self._shell.gone.done():
            return self._shell
        return await asyncio.shield(self._next)

    async def _stand(self) -> None:
        """Start it; when it dies, start the next."""
        num_failures = 0
        while True:
            try:
                self._shell = await self._start()
            except (ShellError, OSError) as cause:
                log.error("the shell did not start: %s", cause)  # noqa: TRY400 - a cause, not a bug
                pause_s = RESTART_S[min(num_failures, len(RESTART_S) - 1)]
                num_failures += 1
                if num_failures >= len(RESTART_S):
                    self._tell_why(cause)
                await asyncio.sleep(pause_s)
                continue
            num_failures = 0
            told, self._next = self._next, asyncio.get_running_loop().create_future()
            told.set_result(self._shell)
            await asyncio.wait({self._shell.gone})
            log.warning("the shell died with its engines; starting another")
            shell, self._shell = self._shell, None
            await shell.close()

    def _tell_why(self, cause: Exception) -> None:
        """To all who wait now; the next start may do well."""
        told, self._next = self._next, asyncio.get_running_loop().create_future()
        told.set_exception(ShellError(f"no shell starts: {cause}"))
        told.exception()  # nobody may be waiting

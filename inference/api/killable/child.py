"""A child process for one kind of work that a request could make endless; what costs too much costs the child.

The child says an empty frame once it is up, and from then on the clock of its answers counts. It reads frames (4-byte
big-endian length, JSON) from standard input and answers each on standard output. It
is killed by the kernel when an answer takes too much processor time, and by us when it takes too long by the clock;
another is started at once. One question at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wire.refused.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable

CLOCK_FACTOR = 25.0
"""By the clock an answer may take so much longer than its processor time: the machine is shared."""
START_S = 60.0
"""For a child to be up: 0.1 s of imports, which a busy machine may draw out. No question is to blame for them."""
EXIT_S = 0.05
"""A child that was idle or was killed ends at once when its input closes; one that is not so is killed."""
MAX_ANSWER_BYTES = 8 * 1024 * 1024
"""1 MiB of text, escaped up to six times over."""
PREFIX_BYTES = 4


class KillableChild:
    """One child that runs `module`, started when it is first asked or by `start`; `close` ends it.

    `failed` makes the refusal of a request whose question cost the child its life, from the reason.
    """

    def __init__(self, module: str, cpu_ms: float, failed: Callable[[str], Refusal]) -> None:
        self._module, self._cpu_ms, self._failed = module, cpu_ms, failed
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
        self._is_up = self._is_closed = False
        self.num_killed = 0
        """Children that a question cost us."""

    async def start(self) -> None:
        """Start the child, so that the first request does not wait for it."""
        async with self._turn:
            await self._child()

    async def close(self) -> None:
        """End the child and wait for it; nothing is answered any more."""
        async with self._turn:
            self._is_closed = True
            await self._end()

    async def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """One frame there and back; any sign of trouble costs the child its life."""
        if self._is_closed:
            raise Refusal(503, "overloaded", "This node is stopping.", "server_error", retry_after_s=1)
        body = json.dumps(question).encode()
        frame = len(body).to_bytes(PREFIX_BYTES, "big") + body
        for is_last in (False, True):
            process = await self._child()
            try:
                await self._until_up(process)
                async with asyncio.timeout(self._cpu_ms * CLOCK_FACTOR / 1000):
                    return await _exchange(process, frame)
            except TimeoutError as cause:
                raise await self._killed(
                    f"it took more than {self._cpu_ms * CLOCK_FACTOR / 1000:g} s"
                ) from cause
            except (OSError, EOFError) as cause:
                status = await self._end()
                if status == -signal.SIGPROF:
                    why = f"it took more than {self._cpu_ms:g} ms of processor time"
                    raise await self._killed(why) from cause
                if (
                    is_last
                ):  # once, somebody may have killed it: an answer leaves nothing behind, so it is asked again
                    raise await self._killed("its process ended while it worked") from cause
        raise AssertionError("unreachable: the last try returns or raises")

    async def _killed(self, why: str) -> Refusal:
        """Count the child that a question cost us and start the next one; the refusal that says why."""
        self.num_killed += 1
        await self._end()
        await self._child()
        return self._failed(why)

    async def _child(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            self._is_up = False
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", self._module, "--cpu-ms", f"{self._cpu_ms:g}"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env={"PYTHONPATH": str(Path(__file__).parents[3]), "TZ": os.environ.get("TZ", "UTC")},
                limit=MAX_ANSWER_BYTES,
            )
        return self._process

    async def _until_up(self, process: asyncio.subprocess.Process) -> None:
        """Wait for the first word of a child that has just been started. Raises EOFError where it ends without one."""
        if self._is_up or process.stdout is None:
            return
        try:
            async with asyncio.timeout(START_S):
                await process.stdout.readexactly(PREFIX_BYTES)
        except TimeoutError as cause:
            raise EOFError(f"it was not up within {START_S:g} s") from cause
        self._is_up = True

    async def _end(self) -> int | None:
        process, self._process = self._process, None
        if process is None:
            return None
        if process.stdin is not None:
            process.stdin.close()
        with contextlib.suppress(TimeoutError):  # a child that was killed by its timer is gone already
            async with asyncio.timeout(EXIT_S):
                return await process.wait()
        with contextlib.suppress(ProcessLookupError):  # it ended in the meantime
            process.kill()
        return await process.wait()


async def _exchange(process: asyncio.subprocess.Process, frame: bytes) -> dict[str, Any]:
    if process.stdin is None or process.stdout is None:
        raise EOFError("the child has no pipes")
    process.stdin.write(frame)
    await process.stdin.drain()
    length = int.from_bytes(await process.stdout.readexactly(PREFIX_BYTES), "big")
    if length > MAX_ANSWER_BYTES:
        raise EOFError("the child's answer is over its limit")
    answer: dict[str, Any] = json.loads(await process.stdout.readexactly(length))
    return answer

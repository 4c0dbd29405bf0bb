"""A program under its keeper: started by a list of words, its output read and bounded, ended with all it started."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from inference.outside.strays import end_strays

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

KEEPER = str(Path(__file__).with_name("keeper.py"))
READ_BYTES = 64 * 1024
MAX_LINE_BYTES = 2_000
"""Of one line in the node's log; the rest of it is dropped."""
LINES_PER_S = 20
"""Passed on to the node's log; a server that floods its own is read to the end, counted and otherwise ignored."""
OUTPUT_S = 5.0
"""From a keeper's end to that of its output, which what it left may hold open."""
LOST = -9
"""The status of a keeper that cannot be had."""
NUM_LAST_LINES = 20
"""Kept for whoever asks why it ended."""

log = logging.getLogger("nearfield.engines")


class Output:
    """What a program writes, cut into lines: the last kept, so many a second passed on, the rest counted. Pure."""

    def __init__(self) -> None:
        self.last: deque[str] = deque(maxlen=NUM_LAST_LINES)
        self.num_bytes = 0
        self.num_dropped = 0
        self._rest = b""
        self._second, self._num_passed = 0, 0

    def feed(self, data: bytes, now: float) -> list[str]:
        """The lines to pass on. A line that does not end is cut at the bound and its rest dropped."""
        self.num_bytes += len(data)
        *whole, rest = (self._rest + data).split(b"\n")
        self._rest = rest[:MAX_LINE_BYTES]
        return [line for each in whole if (line := shown(each)) and self._passes(line, int(now))]

    def _passes(self, line: str, second: int) -> bool:
        self.last.append(line)
        if second != self._second:
            self._second, self._num_passed = second, 0
        self._num_passed += 1
        self.num_dropped += self._num_passed > LINES_PER_S
        return self._num_passed <= LINES_PER_S


def shown(line: bytes) -> str:
    """One line as a log may hold it: bounded, no control characters."""
    text = line[:MAX_LINE_BYTES].decode("utf-8", "replace").strip()
    return "".join(mark if mark.isprintable() else "?" for mark in text)


class KeptProcess:
    """Made by `start`. `stop` asks, `kill` does not; `exited` is its status once nothing of it is left."""

    def __init__(self, process: asyncio.subprocess.Process, name: str, folder: Path) -> None:
        self.pid = process.pid
        self.output = Output()
        self._process, self._name, self._folder = process, name, folder
        self.exited: asyncio.Task[int] = asyncio.create_task(self._watch())

    @classmethod
    async def start(
        cls, name: str, words: Sequence[str], environment: Mapping[str, str], folder: Path,
        stop_signal: int, stop_s: float,
    ) -> KeptProcess:  # fmt: skip
        """Start `words` in `folder` under a keeper. Raises OSError: no process can be made."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", KEEPER, str(stop_signal), str(stop_s), *words),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=dict(environment),
            cwd=folder,
            start_new_session=True,
        )
        return cls(process, name, folder)

    def stop(self) -> None:
        """Ask it to end: its signal now, SIGKILL when its time is up."""
        if self._process.stdin is not None and not self._process.stdin.is_closing():
            with suppress(OSError):
                self._process.stdin.write(b"s")

    def kill(self) -> None:
        """End it and all it started, now."""
        if self._process.stdin is not None:
            self._process.stdin.close()

    def last_words(self) -> str:
        """The end of what it wrote, for the operator's log."""
        return " | ".join(self.output.last)

    async def _watch(self) -> int:
        """Until the keeper ended; what a killed one left would hold its output open, and the engine's memory."""
        reading = asyncio.create_task(self._read())
        await _ended(self.pid)
        if num_strays := await asyncio.to_thread(end_strays, self.pid, self._folder):
            log.warning(
                "%s[%d]: its keeper was killed; so were %d processes", self._name, self.pid, num_strays
            )
        await asyncio.wait({reading}, timeout=OUTPUT_S)
        reading.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(OUTPUT_S):
                await self._process.wait()
        if self.output.num_dropped:
            log.info("%s[%d]: %d lines were left out", self._name, self.pid, self.output.num_dropped)
        return LOST if self._process.returncode is None else self._process.returncode

    async def _read(self) -> None:
        """Its output, to the end."""
        loop, stream = asyncio.get_running_loop(), self._process.stdout
        while stream is not None and (data := await stream.read(READ_BYTES)):
            for line in self.output.feed(data, loop.time()):
                log.info("%s[%d]: %s", self._name, self.pid, line)


async def _ended(pid: int) -> None:
    """Until this child has ended. `Process.wait` may wait for its output's end too, which others can hold."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop.add_reader(fd, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(fd)
        os.close(fd)

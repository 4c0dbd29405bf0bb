"""The edge's map: rows of every region as they come, the last valid one of each kept, in memory and on disk.

Each region is followed by its own stream, so no snapshot publisher and no single control plane can stop an
edge. A row that is not valid is refused by itself and said in the log; whatever was known stays in force. At a
start the rows on disk route until the first live one arrives.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from typing import TYPE_CHECKING, Final

from regions.map import MAX_ROW_BYTES, ROW_STALE_S
from regions.rows import NEVER, RowRefused, Snapshot, fold
from wire.dial import DialError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edge.reach import Reach
    from regions.rows import Signers

FILE: Final = "rows.ndjson"
RETRY_S: Final = 0.2  # after the first failure; doubled up to RETRY_MAX_S
RETRY_MAX_S: Final = 2.0
SILENCE_S: Final = ROW_STALE_S  # a stream without a row for so long is dead: ask again
KEEP_PERIOD_S: Final = 5.0  # figures that only tick over are written this often
KEEP_SOON_S: Final = 0.1  # keys and deployments are written at once, a burst of them together

log = logging.getLogger("nearfield.edge")


class LineCut:
    """Cuts a byte stream into lines; pure. A line above MAX_ROW_BYTES raises RowRefused and ends the stream."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` ends, without their newlines."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_ROW_BYTES:
            raise RowRefused("oversized", f"a line of more than {MAX_ROW_BYTES} bytes")
        return lines


class Feed:
    """`snapshot` is what this edge routes by; it is replaced whole, never changed."""

    def __init__(self, signers: Signers, state: Path) -> None:
        self.snapshot = Snapshot()
        self._signers = signers
        self._path = state / FILE
        self._changed = asyncio.Event()  # something that must be on disk soon
        self._kept: tuple[bytes, ...] = ()
        self._refused: dict[str, str] = {}  # source: code of its last refused row, so that each is said once

    def load(self) -> None:
        """Take the rows on disk; what is not valid (any more) is left out."""
        try:
            lines = self._path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return
        for line in filter(None, lines):
            self.take(line, None, NEVER)
        self._changed.clear()

    def take(self, line: bytes, source: str | None, now: float) -> bool:
        """Fold one line from region `source` (None: from disk) in; False, and nothing changes, if it is refused."""
        before = self.snapshot
        try:
            self.snapshot = fold(before, line, self._signers, now=now, source=source)
        except RowRefused as error:
            self._say_refused(source or "disk", error)
            return False
        self._refused.pop(source or "disk", None)
        if _matters(before, self.snapshot):
            self._changed.set()
        return True

    async def follow(self, reach: Reach, headers: tuple[tuple[str, str], ...]) -> None:
        """Keep the stream of one region until cancelled; a broken or silent one is asked for again."""
        loop = asyncio.get_running_loop()
        pause_s = RETRY_S
        while True:
            began = loop.time()
            try:
                await self._read(reach, headers)
            except (DialError, RowRefused) as error:
                log.info("the rows of %s broke off: %s", reach.name, error)
            known = self.snapshot.regions.get(reach.name)
            heard = known is not None and known.at >= began
            pause_s = RETRY_S if heard else min(RETRY_MAX_S, pause_s * 2)
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads edges, hides nothing

    async def keep(self) -> None:
        """Write the rows to disk until cancelled: soon when keys or deployments change, else now and then."""
        while True:
            try:
                async with asyncio.timeout(KEEP_PERIOD_S):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()
            await self.save()
            await asyncio.sleep(KEEP_SOON_S)

    async def save(self) -> None:
        """Write the rows in force, whole or not at all; a failure is said and tried again at the next change."""
        lines = self.snapshot.lines()
        if lines == self._kept:
            return
        try:
            await asyncio.to_thread(_write, self._path, b"".join(line + b"\n" for line in lines))
        except OSError as error:
            log.warning("the rows cannot be kept on disk: %s", error)
        else:
            self._kept = lines

    async def _read(self, reach: Reach, headers: tuple[tuple[str, str], ...]) -> None:
        """Read one stream to its end. Raises DialError, or RowRefused for a line without end."""
        cut, loop = LineCut(), asyncio.get_running_loop()
        async with await reach.pool.request("GET", "/rows", headers, head_s=SILENCE_S) as answer:
            if answer.head.status != 200:
                log.warning("region %s answers %d when asked for its rows", reach.name, answer.head.status)
                return
            async for data in answer.chunks(SILENCE_S):
                for line in cut.feed(data):
                    self.take(line, reach.name, loop.time())

    def _say_refused(self, source: str, error: RowRefused) -> None:
        if self._refused.get(source) != error.code:
            log.warning(
                "a row from %s is refused (%s), the last good one stays: %s", source, error.code, error
            )
        self._refused[source] = error.code


def _matters(before: Snapshot, now: Snapshot) -> bool:
    """Whether keys or what is deployed changed, rather than figures."""
    return before.policy_line != now.policy_line or _deployed(before) != _deployed(now)


def _deployed(snapshot: Snapshot) -> Mapping[str, Mapping[str, tuple[str, str]]]:
    return {
        region: {name: (model.revision, model.state) for name, model in heard.row.models.items()}
        for region, heard in snapshot.regions.items()
    }


def _write(path: Path, data: bytes) -> None:
    """Replace the file: a crash leaves the old one or the new one."""
    fresh = path.with_suffix(".new")
    with fresh.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

"""The edge's map: rows of every region as they come, the last valid one of each kept, in memory and on disk.

Each region is followed by its own stream, so no snapshot publisher and no single control plane can stop an
edge. A row that is not valid is refused by itself and said in the log; whatever was known stays in force. At a
start the rows on disk route until the first live one arrives. An operator who distrusts what comes may freeze the
map: the edge then keeps what it has, over restarts too, until it is thawed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from typing import TYPE_CHECKING, Any, Final

from edge.rows.figures import FeedFigures
from regions.map.policy import Rules
from regions.map.region import MAX_ROW_BYTES, ROW_STALE_S
from regions.rows import NEVER, RowRefused, Snapshot, fold, rules_body
from wire.dial import DialError
from wire.figures.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from edge.reach.region import Reach
    from regions.map.region import ModelRow
    from regions.rows import Signers

FILE: Final = "rows.ndjson"
FROZEN_FILE: Final = "rows.frozen"  # while it is there no row is taken
DISK: Final = "disk"  # the source of rows that were kept
WATCH_S: Final = 1.0  # between two looks for overdue rows
RETRY_S: Final = 0.2  # after the first failure; doubled up to RETRY_MAX_S
RETRY_MAX_S: Final = 2.0
SILENCE_S: Final = ROW_STALE_S  # a stream without a row for so long is dead: ask again
KEEP_PERIOD_S: Final = 5.0  # figures that only tick over are written this often
KEEP_SOON_S: Final = 0.1  # keys and deployments are written at once, a burst of them together
KEEP_BYTES_PER_S: Final = (
    8 << 20
)  # and on average no more than this, however many regions and models there are

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
    """`snapshot` is what this edge routes by, `rules` what it follows; both are replaced whole, never changed."""

    def __init__(
        self,
        signers: Signers,
        state: Path,
        edge: str = "",
        metrics: Metrics | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.snapshot = Snapshot()
        self.rules = Rules()
        self._signers = signers
        self._path = state / FILE
        self._edge = edge
        self._wall = wall
        self._is_frozen = False
        self._num_thaws = 0
        self._changed = asyncio.Event()  # something that must be on disk soon
        self._kept: tuple[bytes, ...] = ()
        self._refused: dict[str, str] = {}  # source: code of its last refused row, so that each is said once
        self.figures = FeedFigures(self, metrics or Metrics())

    @property
    def is_frozen(self) -> bool:
        """Whether an operator has it keep what it has."""
        return self._is_frozen

    def load(self) -> None:
        """Take the rows on disk; what is not valid (any more) is left out."""
        try:
            lines = self._path.read_bytes().split(b"\n")
        except FileNotFoundError:
            lines = []
        for line in filter(None, lines):
            self.take(line, None, NEVER)
        self._changed.clear()
        self._is_frozen = (self._path.parent / FROZEN_FILE).exists()

    async def freeze(self, *, frozen: bool) -> None:
        """Take no row any more, or take them again; over restarts. Raises OSError if that cannot be kept on disk."""
        path = self._path.parent / FROZEN_FILE
        await asyncio.to_thread(path.touch if frozen else lambda: path.unlink(missing_ok=True))
        self._is_frozen, self._num_thaws = frozen, self._num_thaws + 1
        log.warning("the map is %s", "frozen: rows are not taken" if frozen else "thawed")

    def take(self, line: bytes, source: str | None, now: float) -> bool:
        """Fold one line from region `source` (None: from disk) in; False, and nothing changes, if it is refused."""
        before = self.snapshot
        if self._is_frozen:
            self._say_refused(source or DISK, RowRefused("frozen", "an operator froze the map"))
            return False
        try:
            self.snapshot = fold(
                before, line, self._signers, now=now, source=source, wall_ms=self._wall() * 1e3
            )
        except RowRefused as error:
            self._say_refused(source or DISK, error)
            return False
        self._refused.pop(source or DISK, None)
        if self.snapshot.gathered is before.gathered or self.snapshot.regions is not before.regions:
            self.figures.taken(source or DISK)
        if self.snapshot.policy is not before.policy and self.snapshot.policy is not None:
            self.rules = self.snapshot.policy.rules_at(self._edge)
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
            except DialError as error:
                log.info("the rows of %s broke off: %s", reach.name, error)
            except RowRefused as error:  # a line without end
                self._say_refused(reach.name, error)
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
            num_bytes = sum(len(line) for line in self._kept)
            await asyncio.sleep(max(KEEP_SOON_S, num_bytes / KEEP_BYTES_PER_S))

    async def save(self) -> None:
        """Write the rows in force, whole or not at all; a failure is said and tried again at the next change."""
        lines = self.snapshot.lines()
        if lines == self._kept:
            return
        try:
            await asyncio.to_thread(_write, self._path, lines)
        except OSError as error:
            log.warning("the rows cannot be kept on disk: %s", error)
        else:
            self._kept = lines

    async def _read(self, reach: Reach, headers: tuple[tuple[str, str], ...]) -> None:
        """Read one stream to its end. Raises DialError, or RowRefused for a line without end.

        It ends too when the map was frozen or thawed meanwhile, or there is a gap: what was not taken must be said
        again.
        """
        cut, loop, num_thaws = LineCut(), asyncio.get_running_loop(), self._num_thaws
        async with await reach.pool.request("GET", "/rows", headers, head_s=SILENCE_S) as answer:
            if answer.head.status != 200:
                log.warning("region %s answers %d when asked for its rows", reach.name, answer.head.status)
                return
            async for data in answer.chunks(SILENCE_S):
                for line in cut.feed(data):
                    taken = self.take(line, reach.name, loop.time())
                    if num_thaws != self._num_thaws or (not taken and self._refused[reach.name] == "gap"):
                        return

    async def watch(self) -> None:
        """Say until cancelled whose rows are overdue, once, and when they come again."""
        overdue: frozenset[str] = frozenset()
        while True:
            await asyncio.sleep(WATCH_S)
            ages = self.ages(asyncio.get_running_loop().time())
            late = frozenset(region for region, age_s in ages.items() if age_s > ROW_STALE_S)
            for region in late - overdue:
                log.warning("the row of %s is %.0f s old: its figures are doubted", region, ages[region])
            for region in overdue - late:
                log.info("the rows of %s come again", region)
            overdue = late

    def ages(self, now: float) -> dict[str, float]:
        """Seconds since each region was heard, at `now` (loop time); infinite for what is only from disk."""
        return {region: now - heard.at for region, heard in self.snapshot.regions.items()}

    def status(self) -> dict[str, Any]:
        """What an operator sees of it."""
        policy, trial = self.snapshot.policy, self.snapshot.policy.trial if self.snapshot.policy else None
        return {
            "frozen": self._is_frozen,
            "refused": self.figures.refused_by_kind(),
            "policy": policy
            and {
                "epoch": policy.epoch,
                "seq": policy.seq,
                "num_keys": len(policy.keys),
                "rules": rules_body(self.rules),
                "trial": trial and {"edges": list(trial.edges), "seconds": trial.seconds},
                "withdrawn": policy.withdrawn,
            },
        }

    def _say_refused(self, source: str, error: RowRefused) -> None:
        self.figures.refused(source, error.code)
        if self._refused.get(source) != error.code:
            log.warning(
                "a row from %s is refused (%s), the last good one stays: %s", source, error.code, error
            )
        self._refused[source] = error.code


def _matters(before: Snapshot, now: Snapshot) -> bool:
    """Whether keys or what is deployed changed, rather than figures."""
    if before.policy_line != now.policy_line:
        return True
    return any(
        _moved(before.regions[name].row.models if name in before.regions else {}, heard.row.models)
        for name, heard in now.regions.items()
        if heard is not before.regions.get(name)
    )


def _moved(before: Mapping[str, ModelRow], now: Mapping[str, ModelRow]) -> bool:
    """Whether other models or revisions are deployed. Models that did not change are mostly the same values."""
    if before is now:
        return False
    return before.keys() != now.keys() or any(
        model is not before[name] and _deployed(model) != _deployed(before[name])
        for name, model in now.items()
    )


def _deployed(model: ModelRow) -> tuple[str, str]:
    return model.revision, model.state


def _write(path: Path, lines: tuple[bytes, ...]) -> None:
    """Replace the file: a crash leaves the old one or the new one."""
    fresh = path.with_suffix(".new")
    with fresh.open("wb") as file:
        file.writelines(line + b"\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

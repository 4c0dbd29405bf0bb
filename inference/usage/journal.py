"""A node's usage on its own disk: lines appended as things happen, sealed into files that never change again.

`journal-N.jsonl` takes lines; `append` returns when the kernel has them, so no line is lost with the process. They are
synced together, by a thread, every SYNC_S: what the machine's own death may cost is what came since. Sealing number
N: lines of requests without a record are written to `journal-N+1.jsonl`, which takes the next ones; the records are
written beside, synced and renamed to `sealed/DATE-N.jsonl`; only then journal N is deleted. Killed anywhere, both are
read again, and what stands in a sealed file is no record of the journal's any more. A sealed file is deleted when a
store has it, and not before its journal is.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from inference.usage.book import Book

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from inference.usage.book import Line, Record

SYNC_S: Final = 0.05
"""Lines wait so long for each other before they are synced: a sync costs as much for a hundred as for one."""
MAX_UNWRITTEN: Final = 256
"""Lines kept in memory while the disk takes none; then no request is let in that could not be counted."""
MAX_SEALED_RECORDS: Final = 5_000
"""In one file: 2 MB."""

log = logging.getLogger("nearfield.node")


class Journal:
    """The journal of one node, in a folder of its own. One loop uses it. Raises OSError: the folder is no good."""

    def __init__(self, folder: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._folder, self._now = folder, now
        self.sealed = folder / "sealed"
        self.sealed.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.id = _identity(folder / "id")
        self.book = Book()
        self._old = self._replay()
        self._number = max([0, *map(_number, self._old), *map(_number, self.sealed.glob("*.jsonl"))]) + 1
        self._unwritten: list[bytes] = []
        self._is_dirty = self._is_broken = False
        self._file = self._begin(self._carried())
        _sync_folder(folder)

    @property
    def num_unwritten(self) -> int:
        """Lines that the disk did not take."""
        return len(self._unwritten)

    @property
    def is_behind(self) -> bool:
        """Whether there is something to write or to sync."""
        return self._is_dirty or bool(self._unwritten)

    @property
    def takes_more(self) -> bool:
        """Whether a request that begins now can be counted."""
        return len(self._unwritten) < MAX_UNWRITTEN and not self._is_broken

    def append(self, line: Line) -> Record | None:
        """Write a line down; the record that it completes. A disk that takes none is tried again with the next."""
        self._unwritten.append(_encoded(line))
        self.retry()
        return self.book.receive(line)

    def retry(self) -> None:
        """Write what the disk did not take before."""
        try:
            while self._unwritten:
                data = self._unwritten[0]
                done = os.write(self._file, data)
                self._is_dirty = True
                if done < len(data):  # a part of a line is none: it is written again behind it
                    self._unwritten[0] = b"\n" + data.lstrip(b"\n")
                    return
                del self._unwritten[0]
        except OSError as error:
            if len(self._unwritten) == 1:
                log.warning("usage cannot be written down: %s", error)

    async def sync(self) -> None:
        """Have the disk keep what was written."""
        if not self._is_dirty:
            return
        self._is_dirty = False
        try:
            await asyncio.to_thread(os.fsync, self._file)
        except OSError as error:
            self._is_broken = True  # pages that failed are dropped; a new journal is written from memory
            log.warning("usage cannot be synced: %s", error)

    async def seal(self, placed: Callable[[Record], Record] = dict) -> bool:
        """Move the records to a file of their own, `placed` there. Whether it did. Raises OSError: not now."""
        if not self.book.num_complete and not self._is_broken:
            return False
        old, number, before = [*self._old, self._path(self._number)], self._number, self._file
        records = self.book.take(MAX_SEALED_RECORDS)
        try:
            self._number += 1
            self._file = self._begin([*self._carried(), *self.book_lines()])
        except OSError:
            self._number, self._file = number, before
            self.book.give_back(records)
            raise
        os.close(before)
        self._unwritten.clear()  # the new file has them all
        self._old = old
        try:
            await asyncio.to_thread(self._keep, number, [*map(placed, records)])
        except OSError:
            self.book.give_back(records)
            raise
        self._old = []
        self._is_broken = False
        return bool(records)

    def book_lines(self) -> list[Line]:
        """Records beyond those that are sealed now, as lines again."""
        return [line for record in self.book.complete for line in _as_lines(record)]

    def waiting(self) -> list[Path]:
        """The sealed files that no store has yet, oldest first."""
        return sorted(self.sealed.glob("*.jsonl"), key=_number)

    def close(self) -> None:
        """Let the file go; what was written stays."""
        with contextlib.suppress(OSError):
            os.fsync(self._file)
        os.close(self._file)

    def _keep(self, number: int, records: list[Record]) -> None:
        os.fsync(self._file)
        _sync_folder(self._folder)
        if records:
            day = self._now().strftime("%Y-%m-%d")
            write_whole(self.sealed / f"{day}-{number:08d}.jsonl", b"".join(map(_encoded, records)))
        with contextlib.suppress(OSError):  # one that stays is read at the next start, and says nothing new
            for path in self._old:
                path.unlink(missing_ok=True)

    def _begin(self, lines: Iterable[Line]) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        path = self._path(self._number)
        file = os.open(path, flags, 0o600)
        data = b"".join(map(_encoded, lines))
        try:
            written = os.write(file, data)
        except OSError:
            written = -1
        if written < len(data):
            os.close(file)
            path.unlink(missing_ok=True)
            raise OSError(f"the disk did not take {path}")
        return file

    def _carried(self) -> Iterable[Line]:
        return [line for lines in self.book.unfinished() for line in lines.values()]

    def _replay(self) -> list[Path]:
        """Read the journals that are there; records of sealed files are none of theirs."""
        old = sorted(self._folder.glob("journal-*.jsonl"), key=_number)
        for path in old:
            for line in read_records(path):
                with contextlib.suppress(KeyError, TypeError):
                    self.book.receive(line)
        self.book.forget({record["attempt"] for path in self.waiting() for record in read_records(path)})
        return old

    def _path(self, number: int) -> Path:
        return self._folder / f"journal-{number:08d}.jsonl"


def _as_lines(record: Record) -> list[Line]:
    """A record as its three lines; all of it is in the first, and the others add nothing."""
    attempt = record["attempt"]
    return [
        record | {"line": "open"},
        *({"line": kind, "attempt": attempt} for kind in ("answer", "account")),
    ]


def _encoded(line: Line) -> bytes:
    return json.dumps(line, separators=(",", ":")).encode() + b"\n"


def read_records(path: Path) -> list[Line]:
    """The whole lines of a file; what a kill or a full disk cut short is none."""
    found = []
    for text in path.read_bytes().splitlines():
        with contextlib.suppress(ValueError):
            value = json.loads(text)
            if isinstance(value, dict):
                found.append(value)
    return found


def _number(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])


def _identity(path: Path) -> str:
    """This folder's own name in the store: a node that lost its folder must not write over what it wrote before."""
    if not path.exists():
        write_whole(path, secrets.token_hex(4).encode())
    return path.read_text()


def write_whole(path: Path, data: bytes) -> None:
    """A file that is there whole or not at all, and is still there after a power cut. Raises OSError."""
    draft = path.with_name(f".{path.name}.tmp")
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

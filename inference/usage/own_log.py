"""An engine's own log: what each order cost it, kept by the engine in files that outlive it, read by its node.

Two parts. `NAME.NNNN.log` has a line for each order that ended, appended with one `write` before the node hears of
the end. `NAME.live` is a mapped file with the orders that still run: two banks, of which a word says which one is
whole; each step writes the other bank and then that word, so a process that is killed at any instruction leaves the
figures of its last step or of the one before it. An order in both has ended: its line is the truth.

The engine holds a lock on the mapped file; the kernel lets it go when the process is gone, and then nothing changes
any more. A file that is full or cannot be written costs no request: lines wait in memory. Room of the mapped file is
reserved when it is made, since a page that finds no room later would kill the engine.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import time
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from inference.usage.meter import BANK_WORDS, HEAD_WORDS, ID_BYTES, ROW_WORDS, WORD_BYTES, Account

if TYPE_CHECKING:
    from pathlib import Path

FIRST_BANK_BYTES: Final = mmap.PAGESIZE
BANK_BYTES: Final = BANK_WORDS * WORD_BYTES
LIVE_BYTES: Final = FIRST_BANK_BYTES + 2 * BANK_BYTES
PART_BYTES: Final = 4 << 20
"""A log goes on in another file beyond that: some 50,000 orders."""
MAX_WAITING_LINES: Final = 100_000
"""Kept in memory while the disk takes none; about 10 MB."""
LOCK_LOOK_S: Final = 0.02


def live_path(folder: Path, name: str) -> Path:
    """The mapped file of an engine."""
    return folder / f"{name}.live"


def part_path(folder: Path, name: str, number: int) -> Path:
    """One file of its lines."""
    return folder / f"{name}.{number:04d}.log"


def parts_of(folder: Path, name: str) -> list[Path]:
    """The files of its lines that are there, in order."""
    return sorted(folder.glob(f"{name}.[0-9]*.log"))


class OwnLog:
    """The engine's side (`meter.Book`)."""

    def __init__(self, folder: Path, name: str, part_bytes: int = PART_BYTES) -> None:
        """Raises OSError: there is no room, or the name is in use."""
        self._folder, self._name, self._part_bytes = folder, name, part_bytes
        fd = os.open(live_path(folder, name), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._lock = fd
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.posix_fallocate(fd, 0, LIVE_BYTES)
        self._map = mmap.mmap(fd, LIVE_BYTES)
        self._bank = memoryview(self._map)[:WORD_BYTES].cast("q")
        self._waiting: list[bytes] = []
        self._number, self._num_bytes = 0, 0
        self._part = self._open()

    def publish(self, image: memoryview) -> None:
        """See `Book`."""
        bank = 1 - self._bank[0]
        start = FIRST_BANK_BYTES + bank * BANK_BYTES
        self._map[start : start + len(image)] = image
        self._bank[0] = bank

    def ended(self, order_id: str, account: Account) -> None:
        """See `Book`."""
        value = {
            "order": order_id,
            "computed": account.computed,
            "sampled": account.sampled,
            "us": account.us,
        }
        if len(self._waiting) < MAX_WAITING_LINES:
            self._waiting.append(json.dumps(value).encode() + b"\n")
        with contextlib.suppress(OSError):  # it is tried again with the next
            self._write()

    def _write(self) -> None:
        while self._waiting:
            line = self._waiting[0]
            if self._num_bytes > self._part_bytes:
                self._next_part()
            done = os.write(self._part, line)
            self._num_bytes += done
            if done < len(line):  # a part of a line is none: it is written again behind it
                self._waiting[0] = b"\n" + line.lstrip(b"\n")
                return
            del self._waiting[0]

    def _next_part(self) -> None:
        before, self._number = self._part, self._number + 1
        self._part, self._num_bytes = self._open(), 0
        os.close(before)

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        return os.open(part_path(self._folder, self._name, self._number), flags, 0o600)


@dataclass(frozen=True, slots=True)
class Told:
    """What an engine's log says: orders that ended, those that ran, microseconds of all steps."""

    ended: dict[str, Account] = field(default_factory=dict)
    running: dict[str, Account] = field(default_factory=dict)
    total_us: int = 0
    num_steps: int = 0

    def of(self, order_id: str) -> Account:
        """One order; nothing for one that computed nothing."""
        return self.ended.get(order_id) or self.running.get(order_id) or Account()


def read_log(folder: Path, name: str) -> Told:
    """The whole log of an engine as it is now. Raises OSError: it cannot be read."""
    running, total_us, num_steps = _read_live(live_path(folder, name))
    ended = {order: account for path in parts_of(folder, name) for order, account in read_lines(path)}
    for order_id in ended.keys() & running.keys():
        del running[order_id]
    return Told(ended, running, total_us, num_steps)


def read_lines(path: Path) -> list[tuple[str, Account]]:
    """The orders in one file; a line that is cut short is none. Raises OSError."""
    found = []
    for line in path.read_bytes().splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            value = json.loads(line)
            account = Account(int(value["computed"]), int(value["sampled"]), int(value["us"]))
            found.append((str(value["order"]), account))
    return found


def _read_live(path: Path) -> tuple[dict[str, Account], int, int]:
    if not path.exists() or path.stat().st_size < LIVE_BYTES:  # it ended before it had made it
        return {}, 0, 0
    with path.open("rb") as file:
        data = file.read(LIVE_BYTES)
    start = FIRST_BANK_BYTES + (data[0] & 1) * BANK_BYTES
    words = array("q", data[start : start + BANK_BYTES])
    rows: dict[str, Account] = {}
    for at in range(HEAD_WORDS, HEAD_WORDS + words[0] * ROW_WORDS, ROW_WORDS):
        place = start + at * WORD_BYTES
        order_id = data[place : place + ID_BYTES].rstrip(b"\0").decode("utf-8", "replace")
        if order_id:
            rows[order_id] = Account(*words[at + 2 : at + ROW_WORDS])
    return rows, words[1], words[2]


def wait_gone(folder: Path, name: str, timeout_s: float) -> bool:
    """Wait until the engine of this log is gone; blocks. Whether it is."""
    path, until = live_path(folder, name), time.monotonic() + timeout_s
    if not path.exists():
        return True
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > until:
                    return False
                time.sleep(LOCK_LOOK_S)
            else:
                return True
    finally:
        os.close(fd)

"""Peak memory of a tree of processes, each shared page counted once: summed PSS, as the kernel shares it out."""

import os
import threading
from pathlib import Path
from typing import Self

SAMPLE_S = 0.03  # one look walks the page tables of a gigabyte, a few milliseconds


def descendants(pid: int) -> list[int]:
    """`pid` and every process below it now."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            parent = _parent(path)
            children.setdefault(parent, []).append(int(path.name))
    found = [pid]
    for each in found:  # it grows as it is walked
        found += children.get(each, [])
    return found


def _parent(path: Path) -> int:
    try:
        return int((path / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0  # it has ended


def command_of(pid: int) -> list[str]:
    """The words that a process was started with; none if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return []


def pss_bytes(pid: int) -> int:
    """What a process has of memory, of shared pages its share; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return 1024 * next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def node_pid() -> int:
    """The node's process among ours. Raises LookupError."""
    for pid in descendants(os.getpid()):
        if command_of(pid)[1:4] == ["-m", "deploy.roles.process", "node"]:
            return pid
    raise LookupError("there is no node below this process")


class Peak:
    """Samples a tree while the block runs; `num_bytes` is the most it had, `parts` what each process had then."""

    def __init__(self, pid: int) -> None:
        self.num_bytes = 0
        self.parts: dict[str, int] = {}
        self._pid = pid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while True:
            self._look()
            if self._stop.wait(SAMPLE_S):
                return

    def _look(self) -> None:
        found = {pid: pss_bytes(pid) for pid in descendants(self._pid)}
        if sum(found.values()) > self.num_bytes:
            self.num_bytes = sum(found.values())
            self.parts = {f"{_name(pid)} ({pid})": num_bytes for pid, num_bytes in found.items() if num_bytes}


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "ended"

"""The logs of this machine's roles: what is in them, and what comes to them, in the order of time."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.config.document import Config
from deploy.logs.line import Line, Source, read

MAX_TAIL_BYTES = 8 * 1024 * 1024
"""Of each log, from its end: days of a role's words, read in a moment."""
MAX_READ_BYTES = 1024 * 1024


@dataclass
class Tail:
    """One log file, read on from where it was; a file that was cut or replaced is read from its beginning."""

    path: Path
    source: Source
    offset: int = 0
    _inode: int = 0
    _rest: bytes = b""
    _last: float = 0.0

    @classmethod
    def near_end(cls, path: Path, source: Source) -> "Tail":
        """Begin MAX_TAIL_BYTES before the end, at a line's beginning."""
        tail = cls(path, source)
        size = path.stat().st_size
        if size > MAX_TAIL_BYTES:
            tail.offset = size - MAX_TAIL_BYTES
            tail._inode = path.stat().st_ino
            tail._skip_to_line()
        return tail

    def _skip_to_line(self) -> None:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            self.offset += len(file.readline())

    def more(self) -> list[Line]:
        """The whole lines that came since. A file that is not there (any more) has none."""
        found: list[Line] = []
        while data := self._read():
            *whole, self._rest = (self._rest + data).split(b"\n")
            found += [self._line(raw) for raw in whole if raw]
        return found

    def _read(self) -> bytes:
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                if status.st_size < self.offset or (self._inode and status.st_ino != self._inode):
                    self.offset, self._rest = 0, b""
                self._inode = status.st_ino
                file.seek(self.offset)
                data = file.read(MAX_READ_BYTES)
        except FileNotFoundError:
            return b""
        self.offset += len(data)
        return data

    def _line(self, raw: bytes) -> Line:
        line = read(raw.decode(errors="replace"), self.source, self._last)
        self._last = line.at
        return line


def sources(folder: Path, config: Config | None) -> Iterator[tuple[Path, Source]]:
    """Each log in the state folder's `logs`, and whose it is: `node-iad-0.log` is the role `node`, named `iad-0`."""
    regions = _regions(config)
    for path in sorted(folder.glob("*.log")):
        role, _, name = path.stem.partition("-")
        yield path, Source(role, name, regions.get((role, name), ""))


def _regions(config: Config | None) -> Mapping[tuple[str, str], str]:
    """Of roles that belong to a region; an edge and a link belong to none."""
    if config is None:
        return {}
    found = {("region", name): name for name in config.regions}
    found |= {("store", name): name for name in config.stores}
    return found | {("node", name): node.region for name, node in config.nodes.items()}


def tails(folder: Path, config: Config | None) -> list[Tail]:
    """Of all logs that there are."""
    return [Tail.near_end(path, source) for path, source in sources(folder, config)]


def merged(found: Iterable[Line]) -> list[Line]:
    """By time; lines of one log stay in their order."""
    return sorted(found, key=lambda line: line.at)

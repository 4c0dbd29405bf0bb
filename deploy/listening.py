"""Who listens on a port of this machine, from the kernel's own tables (proc(5)): for a message that names them."""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LISTEN = "0A"  # TCP_LISTEN, as /proc/net/tcp writes it
LOCAL, STATE, INODE = 1, 3, 9  # columns of it
ROLE_WORD = "deploy.roles.process"


@dataclass(frozen=True, slots=True)
class Listener:
    """A process by its id and command line; `state` is the folder of the platform that it is a role of, if it is."""

    pid: int
    words: tuple[str, ...]

    @property
    def state(self) -> Path | None:
        """Its last word is its nearfield.toml, which lies in the state folder."""
        return Path(self.words[-1]).parent if ROLE_WORD in self.words else None

    def __str__(self) -> str:
        return f"process {self.pid} ({' '.join(self.words)})"


def on(port: int) -> Listener | None:
    """Whoever listens there; None if nobody does, or it is not for us to see (another user's process)."""
    sockets = {f"socket:[{inode}]" for inode in _inodes(port)}
    if not sockets:  # or there is no /proc at all
        return None
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended just now
        return next((_listener(pid) for pid in _processes() if sockets & _open_of(pid)), None)
    return None


def _inodes(port: int) -> Iterator[str]:
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        lines = table.read_text().splitlines()[1:] if table.exists() else []
        for columns in map(str.split, lines):
            if columns[STATE] == LISTEN and int(columns[LOCAL].rpartition(":")[2], 16) == port:
                yield columns[INODE]


def _processes() -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if re.fullmatch(r"\d+", entry.name):
            yield int(entry.name)


def _open_of(pid: int) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):  # it ended just now, or is another user's
        for each in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile, as the one that we look by is
                found.add(str(each.readlink()))
    return found


def _listener(pid: int) -> Listener:
    raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    return Listener(pid, tuple(word for word in raw.decode(errors="replace").split("\0") if word.strip()))

"""A disk that keeps only what was flushed: the calls of a real store, recorded, and what is left after any of them.

Three ways to be cut off. `kept`: everything that was called is there (the process died, the machine did not).
`dropped`: every write, name and removal that no fsync followed is gone. `torn`: of those, each is there or not by
chance, a write perhaps by some of its sectors. A file's fsync covers its bytes only, a folder's its names.
"""

import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

SECTOR_BYTES = 512
CALLS = "openat,write,writev,pwrite64,fsync,fdatasync,rename,unlink,ftruncate,fallocate"
_CALL = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+)")
_HEX = re.compile(r"\\x([0-9a-f]{2})")
_FD = re.compile(r"-?\w+<((?:\\x..)*)>")
_TEXT = re.compile(r'"((?:\\x..)*)"')
_ACK = b"HTTP/1.1 2"


@dataclass(frozen=True, slots=True)
class Call:
    """One system call that came back well."""

    name: str
    path: str
    data: bytes = b""
    offset: int = 0
    target: str = ""


def read_trace(lines: Iterable[str], root: Path) -> Iterator[Call]:
    """The calls under `root`, and the `ack`s to the client, of a strace made with -f -xx -y."""
    begun: dict[str, str] = {}
    for line in lines:
        pid, _, rest = line.strip().partition(" ")
        if rest.endswith("<unfinished ...>"):
            begun[pid] = line.strip().removesuffix("<unfinished ...>")
            if _is_ack(begun[pid]):
                yield Call("ack", "")  # it may have left already
            continue
        resumed = " resumed>" in rest
        whole = begun.pop(pid) + rest.partition(" resumed>")[2] if resumed else line.strip()
        call = _CALL.match(whole)
        if call is not None and int(call[4]) >= 0:
            yield from _parsed(call[2], call[3], str(root), resumed=resumed)


def _is_ack(text: str) -> bool:
    data = _TEXT.search(text)
    return data is not None and "socket" in _plain(text) and _bytes(data[1]).startswith(_ACK)


def _parsed(name: str, words: str, root: str, *, resumed: bool) -> Iterator[Call]:
    texts = [_bytes(text) for text in _TEXT.findall(words)]
    opened = _FD.match(words)
    path = _bytes(opened[1]).decode("utf-8", "replace") if opened else ""
    if name in {"write", "writev"} and path.startswith("socket"):
        if not resumed and texts and texts[0].startswith(_ACK):
            yield Call("ack", "")
        return
    if name == "openat" and "O_CREAT" in words:
        path = texts[0].decode()
        yield from [Call("create", path)] if path.startswith(root) else []
    elif name in {"rename", "unlink"}:
        yield Call(name, texts[0].decode(), target=texts[-1].decode())
    elif path.startswith(root) and name in {"write", "pwrite64"}:
        yield Call(name, path, texts[0], int(words.rpartition(",")[2]))
    elif path.startswith(root) and name == "ftruncate":
        yield Call(name, path, offset=int(words.rpartition(",")[2]))
    elif path.startswith(root) and name == "fallocate":
        first, length = words.split(",")[-2:]
        yield Call("fallocate", path, offset=int(first) + int(length))
    elif path.startswith(root) and name in {"fsync", "fdatasync"}:
        yield Call("flush", path)


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def _plain(text: str) -> str:
    return _HEX.sub(lambda found: chr(int(found[1], 16)), text)


@dataclass(slots=True)
class _File:
    durable: bytes = b""
    now: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes]] = field(default_factory=list)  # offset, data; no data: a new size

    def change(self, offset: int, data: bytes) -> None:
        self.pending.append((offset, data))
        _apply(self.now, offset, data)

    def flush(self) -> None:
        self.durable = bytes(self.now)
        self.pending.clear()

    def torn(self, chance: random.Random) -> bytes:
        left = bytearray(self.durable)
        for offset, data in self.pending:
            if chance.random() < 0.5:
                whole = chance.random() < 0.7 or len(data) <= SECTOR_BYTES
                _apply(left, offset, data if whole else data[: len(data) // 2 // SECTOR_BYTES * SECTOR_BYTES])
        return bytes(left)


def _apply(content: bytearray, offset: int, data: bytes) -> None:
    if not data:
        content[:] = content[:offset].ljust(offset, b"\0")
        return
    content.extend(bytes(max(0, offset - len(content))))
    content[offset : offset + len(data)] = data


class Disk:
    """The files under a folder, as they are now and as they would be after the power was cut."""

    def __init__(self, root: Path) -> None:
        """Everything that is there is taken as flushed."""
        self.root = root
        self.num_acks = 0
        self._folders = [path.relative_to(root) for path in root.rglob("*") if path.is_dir()]
        self._now: dict[str, _File] = {}
        for path in root.rglob("*"):
            if path.is_file() and not path.name.endswith("-shm"):  # memory, made anew at each start
                data = path.read_bytes()
                self._now[str(path)] = _File(data, bytearray(data))
        self._durable = dict(self._now)
        self._pending: list[tuple[str, _File | None]] = []  # names since their folder's flush

    def play(self, call: Call) -> None:
        """One more call."""
        if call.name == "ack":
            self.num_acks += 1
        elif call.name == "create":
            if call.path not in self._now:
                self._name(call.path, _File())
        elif call.name == "rename":
            file = self._now[call.path]
            self._name(call.target, file)
            self._name(call.path, None)
        elif call.name == "unlink":
            self._name(call.path, None)
        elif call.name == "flush":
            self._flush(call.path)
        elif call.path in self._now and not call.path.endswith("-shm"):
            self._write(self._now[call.path], call)

    @staticmethod
    def _write(file: _File, call: Call) -> None:
        if call.name == "fallocate":
            file.change(max(call.offset, len(file.now)), b"")
        else:
            file.change(len(file.now) if call.name == "write" else call.offset, call.data)

    def _name(self, path: str, file: _File | None) -> None:
        self._pending.append((path, file))
        _rename(self._now, path, file)

    def _flush(self, path: str) -> None:
        if path in self._now:
            self._now[path].flush()
            return
        for name, file in self._pending:
            if str(Path(name).parent) == path:
                _rename(self._durable, name, file)
        self._pending = [each for each in self._pending if str(Path(each[0]).parent) != path]

    def write_out(self, folder: Path, way: str, seed: int = 0) -> None:
        """Make the files that are left in an empty folder. way: kept, dropped or torn."""
        chance = random.Random(seed)
        names = dict(self._now if way == "kept" else self._durable)
        if way == "torn":
            for name, file in self._pending:
                if chance.random() < 0.5:
                    _rename(names, name, file)
        for each in self._folders:
            (folder / each).mkdir(parents=True, exist_ok=True)
        for name, file in names.items():
            data = {"kept": file.now, "dropped": file.durable}.get(way)
            left = file.torn(chance) if data is None else bytes(data)
            (folder / Path(name).relative_to(self.root)).write_bytes(left)


def _rename(names: dict[str, _File], path: str, file: _File | None) -> None:
    if file is None:
        names.pop(path, None)
    else:
        names[path] = file

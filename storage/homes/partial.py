"""The file that the readers of one version share while it is being fetched, and after.

Beside the sparse file lie its sums: a line for each piece that was written whole, appended after the piece. Nothing
here is flushed: a copy can be fetched again. What a crash or a power cut leaves is read once more against the sums,
and what does not hold is fetched again; so a restart goes on where the last process was.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from struct import Struct

from storage.checksum import combine_crc64nvme, crc64nvme
from storage.homes.facts import Facts

PIECE_BYTES = 1024 * 1024  # of one sum: what a killed process fetched in vain is less, for each connection
READ_BYTES = 4 * 1024 * 1024
_LINE = Struct(">QQQ")
_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass(slots=True)
class Piece:
    """A run of bytes and its CRC64NVME."""

    start: int
    length: int = 0
    crc64: int = 0

    @property
    def end(self) -> int:
        """One behind its last byte."""
        return self.start + self.length


def read_sums(data: bytes, size: int) -> list[Piece]:
    """The pieces in a file of sums, by their place; half a line, and what cannot be, is left out."""
    pieces: list[Piece] = []
    whole = len(data) - len(data) % _LINE.size
    for start, length, crc64 in sorted(_LINE.iter_unpack(data[:whole])):
        if length and start + length <= size and (not pieces or pieces[-1].end <= start):
            pieces.append(Piece(start, length, crc64))
    return pieces


def joined_crc64(pieces: Iterable[Piece]) -> int:
    """The CRC64NVME of all pieces in the order of their places."""
    value = 0
    for piece in sorted(pieces, key=lambda each: each.start):
        value = combine_crc64nvme(value, piece.crc64, piece.length)
    return value


class Partial:
    """The files of one version: `NAME.data`, `NAME.sums` and `NAME.json`."""

    def __init__(self, folder: Path, name: str, facts: Facts) -> None:
        self.facts = facts
        self._data = folder / f"{name}.data"
        self._sums = folder / f"{name}.sums"
        self._json = folder / f"{name}.json"
        self.fd = -1

    def open(self) -> None:
        """Make or find the files. Raises: OSError."""
        if self.fd >= 0:
            return
        self.fd = os.open(self._data, os.O_CREAT | os.O_RDWR | _FLAGS, 0o600)
        if os.fstat(self.fd).st_size != self.facts.size:
            os.ftruncate(self.fd, self.facts.size)
        if not self._json.exists():
            self.describe(self.facts)
        os.utime(self._json)  # the order of eviction after a restart

    def describe(self, facts: Facts) -> None:
        """Write down what the bytes are. Raises: OSError."""
        draft = self._json.with_suffix(".new")
        draft.write_bytes(facts.to_json())
        draft.rename(self._json)
        self.facts = facts

    def close(self) -> None:
        """Let the file go."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def write(self, at: int, data: bytes) -> None:
        """Put bytes in their place. Raises: OSError."""
        view = memoryview(data)
        while view:
            num = os.pwrite(self.fd, view, at)
            at, view = at + num, view[num:]

    def keep_sum(self, piece: Piece) -> None:
        """Remember that a piece is here, whatever happens to the process. Raises: OSError."""
        with self._sums.open("ab") as file:
            file.write(_LINE.pack(piece.start, piece.length, piece.crc64))

    def sound_pieces(self) -> list[Piece]:
        """(A thread) the pieces whose bytes still have their sum; the others are forgotten. Raises: OSError."""
        if not self._sums.exists():
            return []
        kept = read_sums(self._sums.read_bytes(), self.facts.size)
        sound = [piece for piece in kept if self._is_sound(piece)]
        draft = self._sums.with_suffix(".new")
        draft.write_bytes(b"".join(_LINE.pack(each.start, each.length, each.crc64) for each in sound))
        draft.rename(self._sums)
        return sound

    def kept_bytes(self) -> int:
        """How much was kept, by the sums alone. Raises: OSError."""
        data = self._sums.read_bytes() if self._sums.exists() else b""
        return sum(piece.length for piece in read_sums(data, self.facts.size))

    def remove(self) -> None:
        """Delete the files; the facts first: files without facts are swept at the next start."""
        self.close()
        for path in (self._json, self._sums, self._data):
            path.unlink(missing_ok=True)

    def _is_sound(self, piece: Piece) -> bool:
        crc, at = crc64nvme(), piece.start
        while at < piece.end:
            data = os.pread(self.fd, min(READ_BYTES, piece.end - at), at)
            if not data:
                return False
            crc.update(data)
            at += len(data)
        return crc.value == piece.crc64

"""Message bodies of HTTP/1.1, bytes in and pieces out: by length, chunked, or up to the connection's end.

Stricter than RFC 9112 where leniency has been used for request smuggling: every line ends in CR LF, sizes are
1-15 hexadecimal digits, extensions and trailers are bounded and dropped, and a trailer that would change the
framing is an error.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

CHUNK_LINE_BYTES = 256  # a size and, at most, a short extension; nobody sends longer ones in good faith
EXTENSION_BYTES = 4096  # of all chunks together: a body must not be a fraction of what was sent for it
LEAST_PIECE_BYTES = (
    16  # on average, with what frames it, from a client: a piece costs as much time as 10 KiB of data
)
FREE_BYTES = 64 * 1024  # sent in pieces of any size: of a body, a few small writes are a client's habit
MANY_PIECES = 16  # from one read: more are joined, since each costs an object beside its bytes
TRAILER_BYTES = 4096  # all trailers together; they are dropped, so this only bounds work
PLAIN_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})\r\n")
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = rb'"[\t \x21\x23-\x5b\x5d-\x7e]*"'
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;%b(?:=(?:%b|%b))?)*" % (_TOKEN, _TOKEN, _QUOTED))
_TRAILER_LINE = re.compile(rb"([!#$%&'*+.^`|~0-9A-Za-z-]+):[\t\x20-\x7e]*")
_FRAMING_FIELDS = frozenset(
    {b"content-length", b"transfer-encoding", b"host", b"connection", b"authorization"}
)


class FramingError(ValueError):
    """The body's framing is not what it must be; the connection cannot be used any more."""


class Body(NamedTuple):
    """One piece of a message body, never empty."""

    data: bytes


@dataclass(frozen=True, slots=True)
class End:
    """The message is complete."""


END = End()


class Framing(Protocol):
    """Cuts one body out of the byte stream; `done` turns True at its last byte."""

    done: bool

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """The body pieces in `data`, and the bytes after the body (once `done`). Raises FramingError."""
        ...


class LengthFraming:
    """Exactly `length` bytes."""

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = length == 0

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """See Framing; the usual case hands `data` on without a copy."""
        if len(data) < self._left:
            self._left -= len(data)
            return ([data] if data else []), b""
        self.done = True
        cut, self._left = self._left, 0
        return ([data[:cut]] if cut else []), data[cut:]

    @property
    def left(self) -> int:
        """Bytes still to come."""
        return self._left

    def pass_by(self, num_bytes: int) -> None:
        """So many of them came by another way."""
        self._left -= num_bytes
        self.done = not self._left


NO_BODY: Final = LengthFraming(0)  # done from the start, so one serves all


class EofFraming:
    """Everything until the peer closes: only answers, and only where nothing else was said."""

    done = False

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """See Framing; never done by itself."""
        return ([data] if data else []), b""


class ChunkedFraming:
    """`Transfer-Encoding: chunked`; a `bounded` one refuses bodies in very many very small chunks."""

    done = False
    _left = 0  # bytes of the open chunk still to come
    _closing = False  # the CR LF after a chunk's data is due
    _trailers = -1  # bytes of trailers seen, -1 before the last chunk
    _partial = b""
    _extension_bytes = 0  # seen so far
    _within = False  # inside a chunk or the trailers, rather than before a chunk's size

    def __init__(self, *, bounded: bool = False) -> None:
        self._bytes_left = FREE_BYTES if bounded else math.inf  # to be sent before more pieces may come

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """See Framing; a piece is one chunk or a part of one."""
        num_bytes = len(data)
        pieces, rest = self._cut(data)
        self._bytes_left += num_bytes - LEAST_PIECE_BYTES * len(pieces)
        if self._bytes_left < 0:
            raise FramingError("the chunks are too small")
        return pieces, rest

    def _cut(self, data: bytes) -> tuple[list[bytes], bytes]:
        if self._partial:
            data, self._partial = self._partial + data, b""
        pieces: list[bytes] = []
        position = 0 if self._within else take_whole_chunks(data, pieces)
        if position == len(data):
            return pieces, b""
        if data[position:] == LAST_CHUNK and not self._within:  # how nearly every body ends
            self.done = True
            return pieces, b""
        rest = self._step_through(data, position, pieces)
        self._within = bool(self._left) or self._closing or self._trailers >= 0
        return pieces, rest

    def _step_through(self, data: bytes, position: int, pieces: list[bytes]) -> bytes:
        """Take what is not a whole chunk, or comes after one that is not; the bytes after the body."""
        end = len(data)
        while position < end and not self.done:
            if self._left:
                piece = data[position : position + self._left]
                pieces.append(piece)
                position += len(piece)
                self._left -= len(piece)
                self._closing = self._left == 0
                continue
            if self._closing and not b"\r\n".startswith(data[position : position + 2]):
                raise FramingError("a chunk is longer than its size")
            line = self._line(data, position)
            if line is None:
                self._partial = data[position:]
                return b""
            position += len(line) + 2
            self._take(line)
        return data[position:] if self.done else b""

    @staticmethod
    def _line(data: bytes, position: int) -> bytes | None:
        """The line at `position` without CR LF, or None while it is incomplete."""
        end = data.find(b"\r\n", position, position + CHUNK_LINE_BYTES)
        if end >= 0:
            return data[position:end]
        if len(data) - position >= CHUNK_LINE_BYTES or b"\n" in data[position:]:
            raise FramingError("a chunk's line does not end in CR LF, or is too long")
        return None

    def _take(self, line: bytes) -> None:
        """Advance over one line that is not chunk data."""
        if self._closing:
            self._closing = False
        elif self._trailers >= 0:
            self._trailer(line)
        else:
            match = _SIZE_LINE.fullmatch(line)
            if match is None:
                raise FramingError("a chunk's size is not a plain hexadecimal number")
            self._extension_bytes += len(line) - len(match[1])
            if self._extension_bytes > EXTENSION_BYTES:
                raise FramingError("the chunks' extensions are too long")
            self._left = int(match[1], 16)
            if self._left == 0:
                self._trailers = 0

    def _trailer(self, line: bytes) -> None:
        """Check one trailer field (and drop it), or end the body at the blank line."""
        if not line:
            self.done = True
            return
        self._trailers += len(line)
        match = _TRAILER_LINE.fullmatch(line)
        if match is None or self._trailers > TRAILER_BYTES or match[1].lower() in _FRAMING_FIELDS:
            raise FramingError("a trailer is malformed, too long, or would change the framing")


def take_whole_chunks(data: bytes, pieces: list[bytes], position: int = 0) -> int:
    """Put the data of the chunks that are here from size to end into `pieces`, most are; where they stop."""
    while size := PLAIN_SIZE.match(data, position):
        start = size.end()
        stop = start + int(size[1], 16)
        if start == stop or not data.startswith(b"\r\n", stop):
            break
        pieces.append(data[start:stop])
        position = stop + 2
    return position


def few(pieces: list[bytes]) -> Sequence[bytes]:
    """The same bytes in a bounded number of pieces."""
    return (b"".join(pieces),) if len(pieces) > MANY_PIECES else pieces


def chunk_parts(data: bytes) -> tuple[bytes, bytes, bytes]:
    """The three parts that frame `data` (not empty: an empty chunk would end the body) as one chunk."""
    return b"%x\r\n" % len(data), data, b"\r\n"


LAST_CHUNK = b"0\r\n\r\n"

"""The answer that nearly every request gets: 200 by HTTP/1.1, framed by itself, on a connection that stays.

One look for those who pass it on; whatever else comes is left to the strict reader (`response.py`).
"""

import re
from typing import Final

from wire.framing import LAST_CHUNK, PLAIN_SIZE
from wire.heads import HOP_HEADERS, NAME_CHARS

MAX_BYTES: Final = 8192  # of a head; ours have a tenth
MAX_LINES: Final = 64
_TEXT: Final = rb"[\t\x20-\x7e\x80-\xff]*"
_NAME: Final = rb"[%b_]+" % NAME_CHARS.encode()
_HEAD: Final = re.compile(rb"HTTP/1\.1 200(?: %b)?\r((?:\n%b:%b\r)+)\n\r\n" % (_TEXT, _NAME, _TEXT))
_TELLING: Final = re.compile(
    rb"\n(content-length|content-type|transfer-encoding|connection|server-timing|date|upgrade):"
    rb"[\t ]*([^\r]*?)[\t ]*\r"
)
_EVENT_END: Final = b"\n\n\r\n"  # of a chunk whose data ends a whole event
_TIMING: Final = re.compile(rb"\n(?i:server-timing):[\t ]*([^\r]*)\r")


def read(data: bytes) -> tuple[bytes, dict[bytes, bytes], int] | None:
    r"""The lines of a usual head (each `\nNAME: VALUE\r`), what they tell in lower case, and where the body begins."""
    match = _HEAD.match(data, 0, MAX_BYTES)
    if match is None:
        return None
    lines = match[1]
    pairs = _TELLING.findall(lines.lower())
    told = dict(pairs)
    if len(told) != len(pairs) or lines.count(b"\n") > MAX_LINES or b"upgrade" in told:
        return None
    if told.get(b"connection", b"keep-alive") != b"keep-alive" or not _is_framed(told):
        return None
    return lines, told, match.end()


def _is_framed(told: dict[bytes, bytes]) -> bool:
    """By one plain length or by chunks, and not by both."""
    length, coding = told.get(b"content-length"), told.get(b"transfer-encoding")
    if length is None:
        return coding == b"chunked"
    return coding is None and length.isdigit() and len(length) <= 15


def whole_length(told: dict[bytes, bytes]) -> int:
    """The length that frames the body; -1 if chunks do."""
    return int(told.get(b"content-length", b"-1"))


def timing(lines: bytes) -> bytes:
    """The value of `server-timing`."""
    found = _TIMING.search(lines)
    return b"" if found is None else found[1]


def dropping(names: frozenset[str]) -> re.Pattern[bytes]:
    """The pattern of the lines that a hop does not pass on: those of one connection, and `names`."""
    dropped = "|".join(sorted(re.escape(name) for name in HOP_HEADERS | names))
    return re.compile(rb"\n(?i:%b):[^\r]*\r" % dropped.encode())


def whole_chunks(data: bytes, start: int) -> int:
    """Where the chunks that are here from size to end, plain and not empty, stop."""
    while size := PLAIN_SIZE.match(data, start):
        stop = size.end() + int(size[1], 16)
        if stop == size.end() or data[stop : stop + 2] != b"\r\n":
            break
        start = stop + 2
    return start


def end_of_events(data: bytes, start: int) -> int:
    """Where the whole chunks of whole events from `start` on end: with `data`, or before the last chunk; else -1."""
    end = whole_chunks(data, start)
    if end > start and not data.endswith(_EVENT_END, start, end):
        return -1
    return end if (end == len(data) and end > start) or data[end:] == LAST_CHUNK else -1


def unchunked(data: bytes, start: int, end: int) -> bytes:
    """The data of the whole chunks from `start` to `end`."""
    pieces = []
    while start < end and (size := PLAIN_SIZE.match(data, start)):
        start = size.end() + int(size[1], 16) + 2
        pieces.append(data[size.end() : start - 2])
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)

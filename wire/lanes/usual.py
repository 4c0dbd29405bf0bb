"""The answer that nearly every request gets: 200 by HTTP/1.1, framed by itself, on a connection that stays.

One look for those who pass it on; whatever else comes is left to the strict reader (`response.py`).
"""

import re
from typing import Final

from wire.http.framing import LAST_CHUNK, take_whole_chunks
from wire.http.heads import HOP_HEADERS, NAME_CHARS

MAX_BYTES: Final = 8192  # of a head; ours have a tenth
MAX_LINES: Final = 64
TEXT: Final = rb"[\t\x20-\x7e\x80-\xff]*"
_NAME: Final = rb"[%b_]+" % NAME_CHARS.encode()
_HEAD: Final = re.compile(rb"HTTP/1\.1 200(?: %b)?\r((?:\n%b:%b\r)+)\n\r\n" % (TEXT, _NAME, TEXT))
_TELLING: Final = re.compile(
    rb"\n(content-length|content-type|transfer-encoding|connection|server-timing|date|upgrade):"
    rb"[\t ]*([^\r]*?)[\t ]*\r"
)
_LF: Final = 10
_LAST_OF_CHUNK: Final = b"\n\n\r\n"  # the end of an event, and of the chunk that it came in


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


def dropping(names: frozenset[str]) -> re.Pattern[bytes]:
    """The pattern of the lines that a hop does not pass on: those of one connection, and `names`."""
    dropped = "|".join(sorted(re.escape(name) for name in HOP_HEADERS | names))
    return re.compile(rb"\n(?i:%b):[^\r]*\r" % dropped.encode())


def whole_events(data: bytes, start: int) -> tuple[int, bytes]:
    """Where whole chunks of whole events from `start` on end, and their data, if `data` or its last chunk ends them.

    Else -1. The chunks are plain, and not empty. One chunk by itself, as nearly all come, needs no reading: what its
    size has to be for it is known.
    """
    if not start:
        first = data.find(_LF) + 1
        if data.endswith(_LAST_OF_CHUNK, first) and data.startswith(b"%x\r\n" % (len(data) - first - 2)):
            return len(data), data[first:-2]
    pieces: list[bytes] = []
    end = take_whole_chunks(data, pieces, start)
    block = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    if block and not block.endswith(b"\n\n"):
        return -1, b""
    if (end == len(data) and block) or data[end:] == LAST_CHUNK:
        return end, block
    return -1, b""

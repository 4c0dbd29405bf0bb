r"""The head of a whole answer, learnt from one that came: the next one like it is read by one pattern.

Answers on one lane have the same lines in the same order, and differ in their values: a length, a timing, a count of
tokens. What a head's lines mean was worked out by the strict look (`usual.py`) when the first came. Another is like it
if its names are the same bytes in the same places, so that no line can come or go, and if what says how it is framed
and what it is has the same value, but for the length.
"""

import re
from itertools import groupby
from typing import Final

from wire.lanes.usual import MAX_BYTES, TEXT

HOLE: Final = b"\0"  # where a request's id goes: no head has one
_FIRST: Final = rb"HTTP/1\.1 200(?: %b)?\r" % TEXT
_LENGTH, _TIMING = b"content-length", b"server-timing"
_SAME: Final = frozenset({b"content-type", b"connection"})  # they mean what they meant only by the same value
_VALUES: Final = {_LENGTH: b"[\t ]*([0-9]{1,15})[\t ]*", _TIMING: b"[\t ]*([\x20-\x7e]*)"}

Grounds = tuple[object, ...]
"""What a hop's own lines are made of: compared for each answer, so parts that stay the same object are the cheapest."""


class Shape:
    r"""See the file's docstring.

    Attributes:
        kind: the media type.
        lines: those of the first, each `\nNAME: VALUE\r`.
        told: what they tell, as `usual.read` says.
        grounds: what `own` was made of.
        own: the lines that a hop adds to such an answer, cut where the request's id stands.
    """

    __slots__ = ("_kept", "_length", "_match", "_timing", "grounds", "kind", "lines", "own", "told")

    def __init__(self, lines: bytes, told: dict[bytes, bytes], dropped: re.Pattern[bytes]) -> None:
        """Of a usual head with a length; lines that match `dropped` end at this hop, and the length is one."""
        self.lines, self.told = lines, told
        self.kind = told.get(b"content-type", b"")
        self.grounds: Grounds | None = None
        self.own: list[bytes] = []
        patterns, kept, names = [_FIRST], [], []
        for is_dropped, run in groupby(_each(lines), lambda line: dropped.fullmatch(line) is not None):
            if is_dropped:
                here = [(_name(line), _pattern(line)) for line in run]
                patterns += [pattern for _, pattern in here]
                names += [name for name, _ in here if name in _VALUES]
            else:
                patterns.append(b"(%b)" % b"".join(map(_pattern, run)))
                names.append(b"")
                kept.append(len(names))  # the number of its group
        self._match = re.compile(b"".join([*patterns, b"\n\r\n"])).match
        self._kept, self._length = kept, names.index(_LENGTH) + 1
        self._timing = names.index(_TIMING) + 1 if _TIMING in names else 0

    def whole(self, data: bytes) -> tuple[bytes, bytes, int] | None:
        """If `data` is such an answer, and all of it: the lines that go on, its timing, and where its body begins."""
        match = self._match  # Python calls what a name holds sooner than what an attribute does
        found = match(data, 0, MAX_BYTES)
        if found is None:
            return None
        start, kept = found.end(), self._kept
        if int(found[self._length]) != len(data) - start:
            return None
        lines = found[kept[0]] if len(kept) == 1 else b"".join(found.group(*kept)) if kept else b""
        return lines, found[self._timing] if self._timing else b"", start


def _each(lines: bytes) -> list[bytes]:
    return [line + b"\r" for line in lines.split(b"\r")[:-1]]


def _name(line: bytes) -> bytes:
    return line[1:].partition(b":")[0].lower()


def _pattern(line: bytes) -> bytes:
    """Of the lines that may stand in its place."""
    name = _name(line)
    if name in _SAME:
        return re.escape(line)
    return b"\n%b:%b\r" % (re.escape(line[1 : len(name) + 1]), _VALUES.get(name, TEXT))

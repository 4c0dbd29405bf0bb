"""Small changes to good bytes, where parsers are known to differ; the same seed makes the same change."""

import random
from collections.abc import Callable, Sequence

Mutator = Callable[[random.Random, bytes], bytes]

_TELLING = (b"\r\n", b"\r", b"\n", b"\0", b":", b"\t", b" ", b",", b";", b"\x0b", b"\x85", b"\xa0", b"\xff")
_NUMBERS = (
    b"+%d",
    b"-%d",
    b"0x%x",
    b"%d_0",
    b"0%d",
    b"%d ",
    b" %d",
    b"%d,%d",
    b"%d.0",
    b"%de0",
    b"18446744073709551616",
)
_REQUEST_FIELDS = (
    b"Content-Length: 0",
    b"Content-Length: 3",
    b"Content-Length: 5, 5",
    b"Content_Length: 3",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding: gzip, chunked",
    b"transfer-encoding:\tCHUNKED",
    b"Transfer-Encoding : chunked",
    b"Connection: close",
    b"Connection: keep-alive",
    b"Connection: Content-Length",
    b"Connection: Transfer-Encoding, Host",
    b"Expect: 100-continue",
    b"Expect: 100-Continue, x",
    b"Upgrade: websocket",
    b"Host: other",
    b" folded: 1",
    b"\tfolded",
    b": nameless",
    b"colonless",
)
_ANSWER_FIELDS = (
    *_REQUEST_FIELDS[:11],
    b"HTTP/1.1 200 OK",
    b"HTTP/1.1 100 Continue\r\n",
    b"Set-Cookie: a=b",
    b" folded: 1",
    b": nameless",
    b"colonless",
)


def _at(rng: random.Random, data: bytes) -> int:
    """A position; half of them where a line begins or ends, since that is where meaning is."""
    if rng.random() < 0.5 or b"\r\n" not in data:
        return rng.randrange(len(data) + 1)
    ends = data.split(b"\r\n")[: rng.randrange(1, 12)]
    return min(len(data), sum(map(len, ends)) + 2 * len(ends) - rng.randrange(4))


def _delete(rng: random.Random, data: bytes) -> bytes:
    at = _at(rng, data)
    return data[:at] + data[at + rng.choice((1, 1, 1, 2, 4)) :]


def _replace(rng: random.Random, data: bytes) -> bytes:
    at = _at(rng, data)
    return data[:at] + rng.randbytes(1) + data[at + 1 :]


def _insert(rng: random.Random, data: bytes) -> bytes:
    at = _at(rng, data)
    return data[:at] + rng.randbytes(1) + data[at:]


def _insert_telling(rng: random.Random, data: bytes) -> bytes:
    at = _at(rng, data)
    return data[:at] + rng.choice(_TELLING) * rng.choice((1, 1, 1, 2)) + data[at:]


def _repeat(rng: random.Random, data: bytes) -> bytes:
    at = _at(rng, data)
    return data[:at] + data[at : at + rng.choice((1, 2, 10, 60))] + data[at:]


def _flip_case(rng: random.Random, data: bytes) -> bytes:
    at = _at(rng, data)
    return data[:at] + data[at : at + 8].swapcase() + data[at + 8 :]


def _cut_off(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _line_end(rng: random.Random, data: bytes) -> bytes:
    end = data.find(b"\r\n", _at(rng, data))
    return (
        data
        if end < 0
        else data[:end] + rng.choice((b"\n", b"\r", b"\r\r\n", b"\n\r", b"\r\n\r\n", b"")) + data[end + 2 :]
    )


def _double_line(rng: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\r\n")
    at = rng.randrange(len(lines))
    return b"\r\n".join([*lines[: at + 1], *lines[at:]])


def _swap_lines(rng: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\r\n")
    at = rng.randrange(len(lines))
    return b"\r\n".join([*lines[:at], *lines[at : at + 2][::-1], *lines[at + 2 :]])


def _number(rng: random.Random, data: bytes) -> bytes:
    """One of the first numbers written otherwise: a length, a chunk's size, a version, a port."""
    starts = [i for i in range(len(data)) if data[i : i + 1].isdigit() and not data[i - 1 : i].isdigit()]
    if not starts:
        return data
    start = end = rng.choice(starts)
    while data[end : end + 1].isdigit():
        end += 1
    value, form = int(data[start:end][:15]) + rng.choice((0, 0, 1, -1, 7)), rng.choice(_NUMBERS)
    return data[:start] + form % ((value,) * form.count(b"%")) + data[end:]


def _cross(rng: random.Random, data: bytes) -> bytes:
    """The middle goes elsewhere: headers in bodies, sizes in heads."""
    a, b, c = sorted(_at(rng, data) for _ in range(3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def _field(fields: Sequence[bytes]) -> Mutator:
    def insert(rng: random.Random, data: bytes) -> bytes:
        lines = data.split(b"\r\n")
        lines.insert(rng.randrange(1, min(len(lines), 10) + 1), rng.choice(fields))
        return b"\r\n".join(lines)

    return insert


_ANYWHERE: tuple[Mutator, ...] = (
    _delete,
    _replace,
    _insert,
    _insert_telling,
    _insert_telling,
    _repeat,
    _flip_case,
    _cut_off,
    _line_end,
    _double_line,
    _swap_lines,
    _number,
    _number,
    _cross,
)
REQUESTS: tuple[Mutator, ...] = (*_ANYWHERE, *(_field(_REQUEST_FIELDS),) * 3)
ANSWERS: tuple[Mutator, ...] = (*_ANYWHERE, *(_field(_ANSWER_FIELDS),) * 3)


def mutated(rng: random.Random, data: bytes, mutators: tuple[Mutator, ...]) -> bytes:
    """`data` after one to three changes."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        data = rng.choice(mutators)(rng, data)
    return data

"""A head that is known by its shape is one that the strict look takes too, with the same meaning."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.lanes import usual
from wire.lanes.shape import Shape

DROPPED = usual.dropping(frozenset({"server", "content-length", "server-timing"}))
BODY = b'{"a": 1}'


def answer(*lines, body=BODY, first=b"HTTP/1.1 200 OK"):
    return b"\r\n".join([first, *lines, b"", b""]) + body


LENGTH = b"Content-Length: %d" % len(BODY)
LIKE = answer(
    b"Server: x",
    b"Date: now",
    b"Content-Type: application/json",
    LENGTH,
    b"x-a: 1",
    b"Server-Timing: node;dur=1",
)


def shape_of(data):
    lines, told, _ = usual.read(data)
    return Shape(lines, told, DROPPED)


def test_what_goes_on_and_what_ends_here():
    lines, timing, start = shape_of(LIKE).whole(LIKE)
    assert lines == b"\nDate: now\r\nContent-Type: application/json\r\nx-a: 1\r"
    assert timing == b"node;dur=1"
    assert LIKE[start:] == BODY


def test_values_may_differ_where_they_mean_nothing_to_a_hop():
    other = answer(
        b"Server: ",
        b"Date: later",
        b"Content-Type: application/json",
        b"Content-Length:\t11 ",
        b"x-a: 22",
        b"Server-Timing: ",
        body=b'{"b": "cc"}',
    )
    lines, timing, start = shape_of(LIKE).whole(other)
    assert (lines, timing) == (b"\nDate: later\r\nContent-Type: application/json\r\nx-a: 22\r", b"")
    assert other[start:] == b'{"b": "cc"}'


@pytest.mark.parametrize(
    ("was", "now"),
    [
        (b"application/json", b"text/event-stream"),  # what it is
        (LENGTH, b"Content-Length: 7"),  # not all of it, or more
        (LENGTH, b"Content-Length: 9"),
        (LENGTH, b"Content-Length: +8"),
        (LENGTH, b"Content-Length: 8, 8"),
        (LENGTH, b"Transfer-Encoding: chunked"),
        (LENGTH, LENGTH + b"\r\nTransfer-Encoding: chunked"),  # a line more
        (b"x-a: 1\r\n", b""),  # and one less
        (b"x-a: 1", b"x-a: 1\r\nUpgrade: h2c"),
        (b"x-a: 1", b"X-A: 1"),
        (b"x-a: 1", b"x-a : 1"),
        (b"x-a: 1", b"x-a: \0"),
        (b"x-a: 1", b"x-a: 1\n"),
        (b"x-a: 1", b"x-a: 1\r"),
        (b"Date: now\r\n", b"Date: now\r\n folded\r\n"),
        (b"200 OK", b"201 OK"),
        (b"HTTP/1.1", b"HTTP/1.0"),
    ],
)
def test_anything_else_is_not_like_it(was, now):
    assert was in LIKE
    assert shape_of(LIKE).whole(LIKE.replace(was, now)) is None


def test_a_connection_that_will_close_is_not_like_one_that_stays():
    stays = answer(b"connection: keep-alive", LENGTH)
    assert shape_of(stays).whole(stays) is not None
    assert shape_of(stays).whole(answer(b"connection: close     ", LENGTH)) is None


LINES = (
    LENGTH,
    b"content-length: 8",
    b"content-length: 08",
    b"Transfer-Encoding: chunked",
    b"connection: keep-alive",
    b"connection: close",
    b"upgrade: h2c",
    b"content-type: a",
    b"content-type: b",
    b"server-timing: a;dur=1",
    b"x-a: b",
    b"x-a: \x01",
    b"server: s",
    b" folded: x",
)


def test_every_head_that_is_like_another_reads_as_usual():
    """All heads of up to three of those lines, each by the shapes of all usual ones."""
    heads = [answer(*lines) for count in range(1, 4) for lines in itertools.permutations(LINES, count)]
    usual_ones = [data for data in heads if (found := usual.read(data)) and usual.whole_length(found[1]) == 8]
    shapes = {re.sub(rb"[0-9]", b"", data): shape_of(data) for data in usual_ones}
    num_like = 0
    for data, shape in itertools.product(heads, list(shapes.values())[::7]):
        whole = shape.whole(data)
        if whole is not None:
            num_like += 1
            lines, told, start = usual.read(data)
            assert (usual.whole_length(told), start) == (8, whole[2])
            assert whole[0] == DROPPED.sub(b"", lines)
            assert {name: told.get(name) for name in (b"content-type", b"connection")} == {
                name: shape.told.get(name) for name in (b"content-type", b"connection")
            }
    assert num_like >= len(shapes) // 7


@given(st.data())
def test_no_bytes_put_into_it_change_what_it_says(data):
    """Whatever is done to a head by hand is either not like it or reads the same by the strict look."""
    at = data.draw(st.integers(0, len(LIKE) - len(BODY)))
    num_gone = data.draw(st.integers(0, 3))
    more = data.draw(st.text("\r\n :ac0-", max_size=3)).encode()
    changed = LIKE[:at] + more + LIKE[at + num_gone :]
    whole = shape_of(LIKE).whole(changed)
    if whole is None:
        return
    lines, told, start = usual.read(changed)
    assert (whole[0], start, usual.whole_length(told)) == (
        DROPPED.sub(b"", lines),
        whole[2],
        len(changed) - start,
    )

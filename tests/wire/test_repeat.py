"""A head that came before is known again for another request's id, and never for anything else."""

import pytest

from wire.lanes import usual
from wire.lanes.repeat import NUM_SHAPES, Repeat
from wire.lanes.shape import Shape

FIRST, SECOND = b"req_" + b"0" * 32, b"req_" + b"1" * 32
GROUNDS = ("iad", b"terms", "Thu, 26 Nov 2026 16:00:00 GMT")


def came(number, more=b""):
    return b"HTTP/1.1 200 OK\r\nx-request-id: %b\r\n%btransfer-encoding: chunked\r\n\r\n" % (number, more)


def said(number):
    return b"HTTP/1.1 200 OK\r\nrequest-id: %b\r\nx-request-id: %b\r\n\r\n" % (number, number)


@pytest.fixture
def repeat():
    made = Repeat()
    assert made.of(came(FIRST), FIRST, GROUNDS) is None
    made.keep(came(FIRST), said(FIRST), FIRST, GROUNDS)
    return made


def test_the_same_head_for_another_request_is_known(repeat):
    for number in (FIRST, SECOND, b"x"):
        for body in (b"", b"5\r\nhello\r\n"):
            assert repeat.of(came(number) + body, number, GROUNDS) == (said(number), len(came(number)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        came(SECOND)[:-1],
        came(FIRST),
        came(SECOND, b"x-a: b\r\n"),
        came(b"\0"),
        came(SECOND).replace(b"chunked", b"Chunked"),
        came(SECOND).replace(b"200", b"201"),
        b" " + came(SECOND),
    ],
)
def test_anything_else_is_not(repeat, data):
    assert repeat.of(data, SECOND, GROUNDS) is None


def test_nor_the_same_head_on_other_grounds(repeat):
    assert repeat.of(came(SECOND), SECOND, ("fra", *GROUNDS[1:])) is None


@pytest.mark.parametrize(
    ("head", "number"),
    [
        (came(b"200"), b"200"),  # is a part of the first line too
        (came(FIRST, b"x-a: %b\r\n" % FIRST), FIRST),  # and of a line that may mean something else
        (came(b"chunked"), b"chunked"),
        (came(FIRST).replace(b"\r\n\r\n", b" \r\n\r\n", 1).replace(b"chunked", FIRST), FIRST),
    ],
)
def test_an_id_that_is_a_part_of_something_else_keeps_nothing(head, number):
    repeat = Repeat()
    repeat.keep(head, said(number), number, GROUNDS)
    assert repeat.of(head, number, GROUNDS) is None


def test_a_head_without_the_id_is_the_same_for_all():
    repeat = Repeat()
    repeat.keep(came(b"none"), said(FIRST), FIRST, GROUNDS)
    assert repeat.of(came(b"none"), SECOND, GROUNDS) == (said(SECOND), len(came(b"none")))


def test_shapes_that_come_in_turns_stay_and_the_oldest_goes():
    repeat, dropped = Repeat(), usual.dropping(frozenset({"content-length"}))
    heads = [b"HTTP/1.1 200 OK\r\nx-%d: a\r\ncontent-length: 0\r\n\r\n" % n for n in range(NUM_SHAPES + 1)]
    for head in heads:
        lines, told, _ = usual.read(head)
        repeat.learn(Shape(lines, told, dropped))
    known = [sum(shape.whole(head) is not None for shape in repeat.shapes) for head in heads]
    assert known == [0] + [1] * NUM_SHAPES

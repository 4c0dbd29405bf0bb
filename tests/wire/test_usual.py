"""What passes for a usual answer is one that the strict reader takes the same way; all else is left to it."""

import itertools

import pytest

from wire import usual
from wire.http1 import Body, End, ResponseHead, ResponseReader
from wire.response import ResponseError

LINES = (
    b"Content-Length: 5",
    b"content-length: 5",
    b"content-length: +5",
    b"content-length: 05 ",
    b"content-length: 5x",
    b"content-length:",
    b"Transfer-Encoding: chunked",
    b"transfer-encoding: gzip, chunked",
    b"transfer-encoding : chunked",
    b"connection: keep-alive",
    b"connection: close",
    b"Connection: Keep-Alive, x-a",
    b"upgrade: h2c",
    b"content-type: text/event-stream",
    b"x-a: b",
    b"x-a: \x01",
    b" folded: x",
    b"x-b: c\n",
)
FIRST = (
    b"HTTP/1.1 200 OK",
    b"HTTP/1.1 200",
    b"HTTP/1.0 200 OK",
    b"HTTP/1.1 206 OK",
    b"HTTP/1.1 102 Processing",
)
BODY = b"5\r\nhello\r\n0\r\n\r\n"


@pytest.mark.parametrize("first", FIRST)
def test_it_never_reads_otherwise_than_the_strict_reader(first):
    """All heads of up to three of those lines."""
    num_usual = 0
    for count in range(4):
        for lines in itertools.permutations(LINES, count):
            data = b"\r\n".join([first, *lines, b"", b""]) + BODY
            found = usual.read(data)
            if found is None:
                continue
            num_usual += 1
            _, told, start = found
            reader = ResponseReader()
            reader.start("POST")
            head = next(iter(reader.receive(data[:start])))
            assert isinstance(head, ResponseHead)
            assert (head.status, head.keep_alive) == (200, True)
            assert head.chunked == (usual.whole_length(told) == -1)
            assert head.content_length == (None if head.chunked else usual.whole_length(told))
    assert (num_usual > 0) == (first in FIRST[:2])


@pytest.mark.parametrize("cut", range(len(BODY) + 1))
def test_whole_chunks_end_where_the_reader_says(cut):
    data = b"3\r\nabc\r\nA\r\n0123456789\r\n" + BODY[:cut]
    stop = usual.whole_chunks(data, 0)
    reader = ResponseReader()
    reader.go_on_chunked()
    pieces = [event.data for event in reader.receive(data[:stop]) if isinstance(event, Body)]
    assert b"".join(pieces) == b"abc0123456789" + (b"hello" if cut >= 10 else b"")
    assert stop == 23 + (10 if cut >= 10 else 0)


def test_the_first_chunk_is_what_is_here_of_it():
    assert usual.first_chunk(b"xx5\r\nhel", 2) == b"hel"
    assert usual.first_chunk(b"5\r\nhello\r\n3\r\nabc\r\n", 0) == b"hello"
    assert usual.first_chunk(b"hello", 0) == b""


def test_a_reader_that_goes_on_has_the_rest_of_the_body():
    reader = ResponseReader()
    reader.go_on_chunked()
    assert reader.receive(BODY) == [Body(b"hello"), End()]
    reader.go_on_chunked()
    with pytest.raises(ResponseError):
        reader.receive(b"hello\r\n")


def test_lines_that_are_dropped_are_whole_lines():
    lines = usual.read(
        b"HTTP/1.1 200 OK\r\nx-server: a\r\nServer: b\r\ncontent-length: 0\r\nx: server: c\r\n\r\n"
    )[0]
    assert (
        usual.dropping(frozenset({"server"})).sub(b"", lines)
        == b"\nx-server: a\r\ncontent-length: 0\r\nx: server: c\r"
    )
    assert usual.timing(b"\nserver-timing:  a;dur=1 \r\nx: y\r").strip() == b"a;dur=1"

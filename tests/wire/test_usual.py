"""What passes for a usual answer is one that the strict reader takes the same way; all else is left to it."""

import itertools

import pytest

from wire.http.framing import take_whole_chunks
from wire.http.http1 import Body, End, ResponseHead, ResponseReader
from wire.http.response import ResponseError
from wire.lanes import usual

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
    pieces = []
    stop = take_whole_chunks(b"xx" + data, pieces, 2) - 2
    reader = ResponseReader()
    reader.go_on_chunked()
    read = [event.data for event in reader.receive(data[:stop]) if isinstance(event, Body)]
    assert b"".join(pieces) == b"".join(read) == b"abc0123456789" + (b"hello" if cut >= 10 else b"")
    assert stop == 23 + (10 if cut >= 10 else 0)


def chunks(*events):
    return b"".join([b"%x\r\n%b\r\n" % (len(each), each) for each in events])


ONE, TWO = b"data: 1\n\n", b": a comment\n\ndata: 2\n\n"


@pytest.mark.parametrize("last", [b"", b"0\r\n\r\n"])
@pytest.mark.parametrize("events", [(ONE,), (ONE, TWO), (b"data: ", b"1\n\n")])
def test_whole_events_end_with_what_is_here_or_before_the_last_chunk(events, last):
    data = b"xx" + chunks(*events)
    assert usual.whole_events(data + last, 2) == (len(data), b"".join(events))


ALONE = [
    chunks(ONE),
    chunks(b"data: " + b"x" * 300 + b"\n\n"),
    b"0009\r\n" + ONE + b"\r\n",
    chunks(b"data: A\n\n" * 9).replace(b"51", b"5_1").replace(b"5A", b"5a"),
    b"1\r\n\n\r\n",
    b"-2\r\n",
    b"a\r\n" + ONE + b"\r\n",
    b"8\r\n" + ONE + b"\r\n",
    b"+9\r\n" + ONE + b"\r\n",
    b"0x9\r\n" + ONE + b"\r\n",
    b" 9\r\n" + ONE + b"\r\n",
    b"9\n" + ONE + b"\r\n",
    b"9\r\n" + ONE + b"\n\n",
    b"9\r\n" + ONE + b"\r\n\r\n",
    chunks(ONE, ONE),
    chunks(b"x" * 16)[:4] + b"data: 3\n\n\n\n\n\n\n\n\n" + b"\r\n",
]


@pytest.mark.parametrize("data", ALONE)
def test_a_chunk_by_itself_is_read_as_it_is_among_others(data):
    for end in range(len(data) + 1):
        assert usual.whole_events(data[:end], 0) == moved(usual.whole_events(b"xx" + data[:end], 2))


def moved(found):
    end, block = found
    return (end if end < 0 else end - 2), block


def test_nothing_but_the_last_chunk_is_an_end_too():
    assert usual.whole_events(b"0\r\n\r\n", 0) == (0, b"")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        chunks(ONE)[:-1],
        chunks(ONE) + b"5\r\nda",
        chunks(ONE, b"data: "),
        chunks(b"data: ", b"\n"),
        chunks(ONE) + b"0\r\n",
        chunks(ONE) + b"0\r\n\r\nx",
        chunks(ONE) + b"0;x\r\n\r\n",
        b"9;x\r\n" + ONE + b"\r\n",
        chunks(b"data: 1\r\n\r\n"),
        ONE,
    ],
)
def test_parts_of_events_and_odd_chunks_have_no_end(data):
    assert usual.whole_events(data, 0) == (-1, b"")


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

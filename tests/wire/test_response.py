"""Where an answer ends, and whether its connection may be used again: by what its head says, never by hope."""

import pytest

from wire.http.http1 import Body, End, ResponseError, ResponseHead, ResponseReader, Unframed


def read(data: bytes, method: str = "GET") -> tuple[ResponseReader, list]:
    reader = ResponseReader()
    reader.start(method)
    return reader, reader.receive(data)


@pytest.mark.parametrize(
    ("method", "head", "rest", "keeps"),
    [
        ("GET", "HTTP/1.1 200 OK\r\ncontent-length: 2", b"hi", True),
        ("GET", "HTTP/1.0 200 OK\r\ncontent-length: 2", b"hi", False),
        ("GET", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: x, Close", b"hi", False),
        ("GET", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked", b"2\r\nhi\r\n0\r\n\r\n", True),
        ("GET", "HTTP/1.1 204 No", b"", True),
        ("GET", "HTTP/1.1 304 Same\r\ncontent-length: 9", b"", True),
        ("GET", "HTTP/1.1 304 Same", b"", True),
        ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 9", b"", True),
        ("GET", "HTTP/1.1 100 Go on\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2", b"hi", True),
    ],
)
def test_an_answer_that_says_where_it_ends(method, head, rest, keeps):
    reader, events = read(head.encode() + b"\r\n\r\n" + rest, method)

    assert isinstance(events[0], ResponseHead)
    assert isinstance(events[-1], End)
    assert b"".join(each.data for each in events if isinstance(each, Body)) == (b"hi" if rest else b"")
    assert events[0].keep_alive is keeps
    assert (reader.reusable, reader.ends_by_close) == (True, False)
    assert reader.continued is ("100 Go on" in head)


def test_one_that_does_not_ends_with_its_connection():
    reader, events = read(b"HTTP/1.1 200 OK\r\n\r\nhi")

    assert not events[0].keep_alive
    assert (reader.reusable, reader.ends_by_close) == (False, True)
    assert [type(each) for each in reader.receive_eof()] == [End]


@pytest.mark.parametrize(
    "data",
    [b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nhi", b"HTTP/1.1 100 Go on\r\n\r\n"],
)
def test_one_that_is_cut_is_not_whole(data):
    reader, _ = read(data)
    with pytest.raises(Unframed):
        reader.receive_eof()


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 101 Switch\r\n\r\n",
        b"HTTP/1.1 099 Odd\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 200 OK\n\n",
    ],
)
def test_one_that_nobody_can_be_sure_of_is_refused(data):
    with pytest.raises(ResponseError):
        read(data)


def test_bytes_behind_an_answer_are_none_of_the_next():
    reader, _ = read(b"HTTP/1.1 204 No\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert not reader.reusable
    reader, _ = read(b"HTTP/1.1 204 No\r\n\r\n")
    with pytest.raises(ResponseError):
        reader.receive(b"x")


def test_what_was_seen_of_one_answer_is_not_of_the_next():
    reader, _ = read(b"HTTP/1.1 100 Go on\r\n\r\nHTTP/1.1 204 No\r\n\r\n")
    assert (reader.started, reader.continued, reader.num_interim) == (True, True, 1)
    reader.start("GET")
    assert (reader.started, reader.continued, reader.num_interim) == (False, False, 0)

"""A familiar head is known again by its bytes, and nothing else is taken for it."""

import re

import pytest

from wire.http.http1 import Message, RequestGate
from wire.lanes.lane import Familiar, familiar

HEAD = "POST /v1/x HTTP/1.1\r\nhost: a\r\nContent-Length: {}\r\nauthorization: Bearer k\r\n\r\n"


def known(length="2", body=b"{}"):
    data = HEAD.format(length).encode() + body
    [message] = RequestGate().receive(data)
    assert isinstance(message, Message)
    return familiar(data[: len(data) - len(body)], message.head)


@pytest.mark.parametrize("size", [0, 1, 9, 10, 1000])
def test_the_same_head_with_any_length(size):
    found = known().whole(HEAD.format(size).encode() + b"x" * size)
    assert found is not None
    assert found[1] == b"x" * size


@pytest.mark.parametrize(
    "data",
    [
        HEAD.format(3).encode() + b"{}",
        HEAD.format(1).encode() + b"{}",
        HEAD.format("2,2").encode() + b"{}",
        HEAD.format("+2").encode() + b"{}",
        HEAD.format("").encode(),
        HEAD.format("2\r\nContent-Length: 2").encode() + b"{}",
        HEAD.format(2).replace("Bearer k", "Bearer j").encode() + b"{}",
        HEAD.format(2).replace("/v1/x", "/v1/y").encode() + b"{}",
        HEAD.format(2).encode()[:-4],
        HEAD.format("0" * 16).encode(),
        b"",
    ],
)
def test_everything_else_is_left_to_the_gate(data):
    assert known().whole(data) is None


@pytest.mark.parametrize(
    "head",
    [
        "GET /v1/x HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST /v1/x HTTP/1.0\r\nhost: a\r\ncontent-length: 2\r\n\r\n",
        "POST /v1/x HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 2\r\n\r\n",
        "POST /v1/x HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n",
        "POST /v1/x HTTP/1.1\r\nhost: a\r\nx: " + "y" * 5000 + "\r\ncontent-length: 2\r\n\r\n",
    ],
)
def test_some_heads_have_no_lane(head):
    event = RequestGate().receive(head.encode())[0]
    assert familiar(head.encode(), event.head if isinstance(event, Message) else event) is None


def test_more_may_vary_than_the_length():
    head = known().head
    each = Familiar(
        head, b"POST / ", re.compile(rb"id: ([a-z]+)\r\ncontent-length: ([0-9]{1,15})"), b"\r\n\r\n"
    )
    match, body = each.whole(b"POST / id: abc\r\ncontent-length: 4\r\n\r\nbody")
    assert (match[1], body) == (b"abc", b"body")

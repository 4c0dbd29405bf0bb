"""The link never hands out half a message, and a broken peer is one clean error."""

import asyncio
import json
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference import link
from inference.link import EngineLink, FrameReader, LinkError, NodeLink, frame_bytes, link_pair, receive_frame

MESSAGES = st.dictionaries(
    st.text(max_size=8), st.one_of(st.integers(), st.text(max_size=30), st.none()), max_size=4
)


@given(st.lists(MESSAGES, max_size=6), st.integers(1, 40))
def test_any_chunking_gives_the_same_messages(messages, size):
    data = b"".join(map(frame_bytes, messages))
    reader = FrameReader()
    seen = [m for start in range(0, len(data), size) for m in reader.receive(data[start : start + size])]
    reader.receive_eof()
    assert seen == messages


@pytest.mark.parametrize(
    "body", [b"[]", b"1", b"{", b'{"a":NaN}', b'{"a":Infinity}', b"\xff", b"", b"[" * 100_000, b'{"a":1}x']
)
def test_a_bad_body_is_a_link_error(body):
    with pytest.raises(LinkError):
        FrameReader().receive(len(body).to_bytes(4, "big") + body)


def test_a_frame_over_the_limit_is_refused_before_it_is_read():
    with pytest.raises(LinkError, match="over the limit"):
        FrameReader().receive((link.MAX_FRAME_BYTES + 1).to_bytes(4, "big"))
    with pytest.raises(LinkError, match="over the limit"):
        frame_bytes({"a": "x" * link.MAX_FRAME_BYTES})


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ((link.MAX_FRAME_BYTES + 1).to_bytes(4, "big"), "over the limit"),
        (b"\0\0", "inside a frame"),
        (frame_bytes({"a": 1})[:-1], "inside a frame"),
        (b"\0\0\0\2[]", "not an object"),
    ],
)
def test_a_bad_frame_is_no_message_for_who_waits_for_one(data, why):
    ours, theirs = socket.socketpair()
    theirs.sendall(data)
    theirs.close()
    with ours, pytest.raises(LinkError, match=why):
        receive_frame(ours)


def test_a_frame_is_read_to_its_last_byte_and_no_further():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(frame_bytes({"a": 1}) + frame_bytes({"b": 2}))
        theirs.shutdown(socket.SHUT_WR)
        assert [receive_frame(ours) for _ in range(3)] == [({"a": 1}, []), ({"b": 2}, []), (None, [])]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}])
def test_what_is_not_json_is_not_sent(value):
    with pytest.raises(LinkError):
        frame_bytes({"a": value})


def test_an_end_inside_a_frame_is_told_apart_from_a_clean_end():
    reader = FrameReader()
    reader.receive(frame_bytes({"a": 1})[:-1])
    with pytest.raises(LinkError):
        reader.receive_eof()


async def test_both_sides_speak():
    node_end, engine_end = link_pair()
    node, engine = await NodeLink.open(node_end), EngineLink(engine_end)
    big = {"op": "add", "tokens": list(range(200_000))}
    sending = asyncio.create_task(node.send(big))
    received = []
    while not received:
        received = await asyncio.to_thread(engine.poll, 1.0)
    await sending
    assert received == [big]
    assert engine.poll(0) == []
    await asyncio.to_thread(engine.send, [{"n": n} for n in range(100)])
    engine.close()
    assert [m["n"] async for m in node.messages()] == list(range(100))
    await node.close()
    await node.close()


async def test_the_engine_sees_a_node_that_left():
    node_end, engine_end = link_pair()
    node, engine = await NodeLink.open(node_end), EngineLink(engine_end)
    await node.send({"op": "stop"})
    await node.close()
    assert engine.poll(1.0) == [{"op": "stop"}]
    assert engine.poll(1.0) == []
    assert engine.closed
    with pytest.raises(LinkError):
        engine.send([{"op": "stats"}])
    engine.close()


async def test_the_node_sees_an_engine_that_died_inside_a_frame():
    node_end, engine_end = link_pair()
    node = await NodeLink.open(node_end)
    engine_end.sendall(frame_bytes({"a": 1}) + json.dumps({}).encode())
    engine_end.close()
    messages = node.messages()
    assert await anext(messages) == {"a": 1}
    with pytest.raises(LinkError):
        await anext(messages)
    await node.close()

"""A lane is found by the head that it is for, on whichever connection that comes, while it is used."""

import asyncio
import gc
import re

import pytest

from tests.wire.test_lane import HEAD, known
from tests.wire.test_serve import Client, serving
from wire.http.limits import Limits
from wire.lanes.known import Lanes
from wire.lanes.lane import Familiar


class Known:
    def __init__(self, familiar):
        self.familiar = familiar


@pytest.mark.parametrize("size", [0, 1, 9, 10, 1000])
def test_the_same_head_with_any_length(size):
    lanes, lane = Lanes(), Known(known())
    lanes.keep(lane)
    assert lanes.of(HEAD.format(size).encode() + b"x" * size) is lane


@pytest.mark.parametrize(
    "data",
    [
        HEAD.format("+2").encode() + b"{}",
        HEAD.format("2, 2").encode() + b"{}",
        HEAD.format(2).replace("Bearer k", "Bearer j").encode() + b"{}",
        HEAD.format(2).replace("/v1/x", "/v1/y").encode() + b"{}",
        HEAD.format(2).replace("host", "Host").encode() + b"{}",
        HEAD.format(2).encode()[:-2],
        HEAD.format(2).replace("host: a", "content-length: 2").encode(),
        b"POST / HTTP/1.1\r\n\r\n" + HEAD.format(2).encode(),
        b"x" * 5000 + HEAD.format(2).encode(),
        b"",
    ],
)
def test_no_other_head_finds_one(data):
    lanes, lane = Lanes(), Known(known())
    lanes.keep(lane)
    assert lanes.of(data) is None


def test_a_later_one_takes_its_place_and_none_outlives_its_connections():
    lanes, first, second = Lanes(), Known(known()), Known(known())
    lanes.keep(first)
    lanes.keep(second)
    assert lanes.of(HEAD.format(2).encode()) is second
    del first, second
    gc.collect()
    assert len(lanes) == 0
    assert lanes.of(HEAD.format(2).encode()) is None


def test_a_head_that_varies_elsewhere_is_not_shared():
    lanes, head = Lanes(), known().head
    lane = Known(
        Familiar(head, b"POST / HTTP/1.1\r\ncontent-length: ", re.compile(rb"([0-9]{1,3})"), b"\r\n\r\n")
    )
    lanes.keep(lane)
    assert len(lanes) == 0


class Answers(Known):
    """A lane that says 201 to every request; it is its own passage."""

    def take(self, data, line):
        if self.familiar.whole(data) is None:
            return None
        line.say(b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n")
        loop = asyncio.get_running_loop()
        loop.call_soon(line.passed, loop.time())
        return self

    def check(self, now):
        """Nothing is late."""

    def cancel(self):
        """Nothing is under way."""


async def leaves(exchange):
    familiar = exchange.familiar()
    if familiar is not None:
        exchange.leave(Answers(familiar))
    await exchange.respond(200, ())


async def test_a_connection_that_begins_on_a_lane_has_the_deadlines_of_any_other():
    one = HEAD.format(2).encode() + b"{}"
    async with serving(leaves, limits=Limits(head_s=0.1)) as server:
        first, second = await Client.open(server), await Client.open(server)
        for client, status in ((first, 200), (first, 201), (second, 201), (second, 201)):
            client.send(one)
            assert (await client.answer())[0] == status
        for client in (first, second):
            client.send(one[:20])
            assert (await asyncio.wait_for(client.answer(), 25))[0] == 408
            await client.close()


async def test_what_follows_on_a_connection_that_began_on_a_lane_is_read_as_ever():
    """Another head, the lane's again, two at once, and one in two parts."""
    one, other = HEAD.format(2).encode() + b"{}", HEAD.format(2).replace("/v1/x", "/v1/y").encode() + b"{}"
    async with serving(leaves) as server:
        first, second = await Client.open(server), await Client.open(server)
        first.send(one)
        assert (await first.answer())[0] == 200
        for sent, statuses in (([one], [201]), ([other], [200]), ([one], [201])):
            second.send(*sent)
            assert [(await second.answer())[0] for _ in statuses] == statuses
        second.send(one + other)
        assert {(await second.answer())[0] for _ in range(2)} <= {200, 201}
        second.send(one[:30])
        await asyncio.sleep(0.01)
        second.send(one[30:])
        assert (await second.answer())[0] == 200
        for client in (first, second):
            await client.close()

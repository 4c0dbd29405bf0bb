"""Any history of answers, faults, floods and clients that leave gives back all that the edge held for it."""

import asyncio
import contextlib
import random

import pytest

from edge.relay import lane
from tests.edge.faults import scripts
from tests.edge.test_replay import two
from tests.edge.world import BODY, STREAM_BODY
from tests.evidence import count
from wire import dial
from wire.dial import DialError

PATH = "/v1/chat/completions"
NUM_HISTORIES = count(2, 200)
NUM_REQUESTS = 60
AT_ONCE = 12
FAULTS = (
    scripts.reset_before_head,
    scripts.reset_after_head,
    scripts.cut_midway,
    scripts.truncated,
    scripts.garbage,
    scripts.garbage_midway,
    scripts.wrong_length,
    scripts.duplicates,
    scripts.page_500,
    scripts.refusing(429, "overloaded", ("retry-after", "1")),
    scripts.refusing(503, "overloaded", ("retry-after", "1")),
)


@pytest.fixture
def lanes(monkeypatch):
    """Every lane that was left, and any connection in use is about to be free."""
    made = []

    class Kept(lane.EdgeLane):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr("edge.infer.EdgeLane", Kept)
    monkeypatch.setattr(dial, "RECENT_S", 1e9)
    return made


def mixed(draws):
    """Mostly right answers; who comes first may wait a moment, so that others find no connection free."""

    async def script(exchange, region):
        if draws.random() < 0.3:
            await asyncio.sleep(draws.random() * 0.02)
        await (draws.choice(FAULTS) if draws.random() < 0.25 else scripts.well)(exchange, region)

    return script


async def client(edge, draws):
    """One request, which may be left at any moment. A connection that breaks is an answer, too."""
    body = draws.choice((BODY, STREAM_BODY, b"", b"{}", BODY[:-1]))
    asking = asyncio.create_task(edge.ask(PATH, body))
    if draws.random() < 0.3:
        await asyncio.sleep(draws.random() * 0.03)
        asking.cancel()
        asking.cancel()
    with contextlib.suppress(DialError, asyncio.CancelledError):
        await asking


def is_settled(inference, regions):
    """One connection to each region carries its rows."""
    in_use = any(each.pool.num_busy > 1 or each.pool.brief for each in regions)
    return not (in_use or inference.room.num_requests)


@pytest.mark.parametrize("seed", range(NUM_HISTORIES))
async def test_nothing_is_held_after_any_history(world, lanes, seed):
    draws = random.Random(seed)
    edge, near, far = await two(world, scripts.well)
    assert (await edge.ask(PATH, BODY))[0] == 200
    near.script, far.script = mixed(draws), mixed(draws)
    turns = asyncio.Semaphore(AT_ONCE)

    async def one():
        async with turns:
            if draws.random() < 0.05:
                near.say_policy()  # no lane of the policy before takes another request
            await client(edge, draws)

    await asyncio.wait_for(asyncio.gather(*(one() for _ in range(NUM_REQUESTS))), 60)
    inference = lanes[0].inference
    reaches = inference.relay.reaches.values()
    await edge.until(
        lambda _: is_settled(inference, reaches)
    )  # what clients left behind ends in its own time

    assert (inference.room.num_requests, inference.room.num_bytes) == (0, 0)
    near.script = far.script = scripts.well
    status = 0
    async with asyncio.timeout(60):  # who was told to wait is not told so for ever
        while status != 200:
            status, _, _ = await edge.ask(PATH, BODY)

"""A region is lost in mid-stream: its clients hear it, or, where they asked for that, go on in another region (A7)."""

import asyncio
import time
from itertools import pairwise

import pytest

from regions.map.headers import RESUME
from tests.lab.clients import body, stream
from tests.lab.losses import appeared, back, dead, pool_of, vanished
from tests.lab.world import MODEL

pytestmark = pytest.mark.lab

NUM_STREAMS, NUM_TOKENS = 20, 80
SILENCE_S = 2.0  # after which a stream whose region is gone says so
LOSSES = {"killed": (dead, back), "vanished": (vanished, appeared)}
HOW = {"killed": "killed", "vanished": "out of reach"}


def streams_over(lab, loss, wishes):
    """What clients in eu saw of streams of 50 ms a token, under which the region eu was lost after a second."""
    asked = body(MODEL, tokens=NUM_TOKENS, pace_ms=50, stream=True)

    async def ask():
        pool, key = pool_of(lab, "eu"), lab.credentials.api_key
        try:
            return await asyncio.gather(*(stream(pool, key, asked, **wishes) for _ in range(NUM_STREAMS)))
        finally:
            await pool.close()

    lose, end = LOSSES[loss]
    running = lab.clients["eu"].begin(ask())
    time.sleep(1.0)
    lose(lab, "eu")
    try:
        return running.result(60)
    finally:
        end(lab, "eu")


@pytest.mark.parametrize(("name", "loss"), [("A7", "killed"), ("A7'", "vanished")])
def test_a7_a_region_lost_in_mid_stream_is_an_error_event(at_rest, figures, name, loss):
    """Never silence, and never an end that looks like one: each client hears it within the budget."""
    found = streams_over(at_rest, loss, {})
    silent_s = max(each.ended - each.last for each in found)
    heard = sum(each.error is not None and bool(each.texts) and not each.done for each in found)
    figures(
        name,
        f"a region is {HOW[loss]} in mid-stream",
        streams=NUM_STREAMS,
        error_events=heard,
        cut=sum(bool(each.cut) for each in found),
        silent_s=silent_s,
    )

    assert heard == NUM_STREAMS
    assert {each.headers["x-nearfield-region"] for each in found} == {"eu"}
    assert silent_s <= SILENCE_S + 0.5  # of the budget itself, and a step of the kernel's timers


@pytest.mark.parametrize(("name", "loss"), [("A7r", "killed"), ("A7r'", "vanished")])
def test_a7_a_greedy_stream_whose_client_asks_for_it_goes_on_elsewhere(at_rest, figures, name, loss):
    """Every token once, in order, over a pause; and nothing that tells of the loss but the receipt."""
    found = streams_over(at_rest, loss, {RESUME: "true"})
    exact = sum(each.done and each.texts == [f"t{n} " for n in range(NUM_TOKENS)] for each in found)
    pause_s = max(later - sooner for each in found for sooner, later in pairwise(each.times))
    figures(
        name,
        f"a region is {HOW[loss]} and the clients asked to go on",
        streams=NUM_STREAMS,
        exact=exact,
        longest_pause_s=pause_s,
    )

    assert [(each.error, each.cut) for each in found] == [(None, "")] * NUM_STREAMS
    assert exact == NUM_STREAMS
    assert {each.headers["x-nearfield-region"] for each in found} == {"eu"}
    assert all("eu(" in "".join(each.replayed) for each in found)  # it was the loss that they outlived

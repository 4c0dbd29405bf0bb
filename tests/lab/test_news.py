"""What one region says is known at every POP: a revoked key, and a row that changed (issue 6, points 5 and 8).

The order goes in at the POP of the home region, whose answer comes when the change is made; from then on the clock of
this machine, which all processes share, says how long each edge acts on what was.
"""

import asyncio
import json
import time

import pytest

from tests.lab.clients import headers
from tests.lab.losses import pool_of
from tests.lab.network import PLACES, pop_address, rtt_ms
from tests.lab.world import ADMIN_PORT, HOME, MODEL
from wire.dial import Pool

pytestmark = pytest.mark.lab

REVOKED_S = 1.0
NEWS_S = 0.05  # and a round trip
BEAT_S = 0.005


def order(lab, method, path, **values):
    """An operator's order at the home POP: its answer, and when it was given and answered."""

    async def ask():
        pool = Pool(pop_address(HOME), ADMIN_PORT, tls=lab.tls)
        began = time.monotonic()
        try:
            admin = headers(lab.credentials.admin_key)
            answer = await pool.request(method, path, admin, json.dumps(values).encode())
            value = json.loads(await answer.read())
            assert answer.head.status in {200, 201, 202}, value
            return value, began, time.monotonic()
        finally:
            await pool.close()

    return lab.clients[HOME].do(ask())


async def asked(pool, path, key, is_new):
    """Ask on a beat until the answer is new; when the last old answer was asked for, and the longest round trip."""
    last = longest_s = 0.0
    while True:
        began = time.monotonic()
        answer = await pool.request("GET", path, headers(key))
        text = await answer.read()
        if is_new(answer.head.status, text):
            await pool.close()
            return last, longest_s
        last, longest_s = began, max(longest_s, time.monotonic() - began)
        await asyncio.sleep(BEAT_S)


def seen_everywhere(lab, path, key, is_new, act, *, port=None):
    """By place, how long after `act` was answered the old was last seen there, and after it was begun; and `busy_s`."""
    pools = {
        place: Pool(pop_address(place), port, tls=lab.tls) if port else pool_of(lab, place)
        for place in PLACES
    }
    running = {place: lab.clients[place].begin(asked(pools[place], path, key, is_new)) for place in PLACES}
    time.sleep(0.5)
    _, began, done = act()
    found = {place: each.result(60) for place, each in running.items()}
    after = {place: last - done for place, (last, _) in found.items()}
    return (
        after,
        max(last for last, _ in found.values()) - began,
        max(longest for _, longest in found.values()),
    )


def test_a_revoked_key_is_refused_everywhere_within_a_second(at_rest, figures):
    lab = at_rest
    made, _, _ = order(lab, "POST", "/nearfield/keys", tenant="acme", name="short")
    refused = lambda status, _: status == 401  # noqa: E731

    async def known(place):
        """Until the POP has heard of the new key."""
        pool = pool_of(lab, place)
        await asked(pool, "/v1/models", made["key"], lambda status, _: status == 200)

    for place in PLACES:
        lab.clients[place].do(known(place))
    revoke = lambda: order(lab, "DELETE", f"/nearfield/keys/{made['id']}")  # noqa: E731
    after, whole_s, busy_s = seen_everywhere(lab, "/v1/models", made["key"], refused, revoke)
    figures(
        "R1",
        "a key is revoked at the operators' listener",
        whole_s=whole_s,
        **{f"{place}_after_s": each for place, each in after.items()},
        busy_s=busy_s,
    )

    assert whole_s <= REVOKED_S + 5 * busy_s  # what a busy machine adds to every request


def test_a_row_that_changed_is_known_everywhere_within_a_round_trip(at_rest, figures):
    lab = at_rest

    def is_cold(_, text):
        return json.loads(text)["regions"][HOME]["body"]["models"][MODEL]["tier"] == "region"

    cool = lambda: order(lab, "POST", f"/nearfield/regions/{HOME}/cool", model=MODEL, to="region")  # noqa: E731
    key = lab.credentials.admin_key
    after, _, busy_s = seen_everywhere(lab, "/nearfield/status", key, is_cold, cool, port=ADMIN_PORT)
    order(lab, "POST", f"/nearfield/regions/{HOME}/prewarm", model=MODEL)
    figures(
        "R2",
        "a row changes",
        **{f"{place}_after_s": each for place, each in after.items()},
        busy_s=busy_s,
    )

    for place in PLACES:
        assert after[place] <= rtt_ms(HOME, place) / 1000 + NEWS_S + 5 * busy_s, place

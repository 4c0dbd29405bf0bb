"""What replication may take of the link, and how far behind it says it is."""

import asyncio
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from regions.assembly import Region
from regions.gateway.figures import GatewayFigures
from regions.gateway.row import region_row
from regions.map.region import RolloutState
from regions.objects.blobs import Holdings
from regions.rollout.lag import Behind, Lag
from regions.rollout.pace import BURST_S, Pace
from regions.rollout.replicate import Replicator
from storage.client.sdk import Unreachable
from tests.regions.folders import sharded, whole
from tests.regions.made_region import MODEL, Made, plan_of
from tests.regions.test_replicate_blobs import Link
from wire.figures.metrics import Metrics


class Clock:
    """A time that only sleeping moves, of several sleepers at once."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    async def sleep(self, seconds):
        until = self.now + seconds
        await asyncio.sleep(0)
        self.now = max(self.now, until)


CHUNKS = st.lists(st.tuples(st.integers(1, 10_000), st.floats(0, 3)), min_size=1, max_size=40)


@given(CHUNKS, st.floats(1, 1e5))
def test_over_any_time_no_more_passes_than_the_rate_allows(chunks, rate):
    """Whoever waits as told and then pauses for as long as it likes."""
    pace, now, moved = Pace(rate), 0.0, []
    for num_bytes, pause_s in chunks:
        moved.append((now, num_bytes))
        now += pace.take(num_bytes, now) + pause_s
    for first in range(len(moved)):
        for last in range(first, len(moved)):
            total = sum(num_bytes for _, num_bytes in moved[first:last])
            elapsed_s = moved[last][0] - moved[first][0]
            assert total <= rate * (elapsed_s + BURST_S) * (1 + 1e-9) + 1e-6


def test_without_a_bound_nobody_waits():
    assert [Pace(0.0).take(10**12, 0.0) for _ in range(3)] == [0.0] * 3


async def test_all_blobs_together_keep_to_the_rate():
    link, clock = Link(sharded(8), chunk_bytes=64), Clock()
    replicator = Replicator(link.own, link.home, Holdings(link.own), Pace(1000.0), clock, clock.sleep)
    await replicator.bring(link.revision, lambda percent, eta_s: None)

    assert link.is_whole()
    fastest_s = link.size / 1000.0
    assert fastest_s - BURST_S <= clock.now <= fastest_s + 1.0, "neither faster nor idle"


async def test_a_region_is_brought_at_the_rate_its_plan_says():
    fra = Made("fra", home=Made("iad"))
    plan = replace(plan_of("fra"), replication_bytes_per_s=7.0)
    bound = Region(plan, fra.own, fra.home, {})

    assert bound.replicator._pace.bytes_per_s == 7.0
    assert fra.region.replicator._pace.bytes_per_s == 0.0


def test_the_lag_is_what_is_due_and_the_silence_of_home():
    lag = Lag()
    assert lag.behind(5.0) == Behind(0, 0.0)
    lag.due("a", "r1", 0, 10.0)
    lag.due("a", "r1", 700, 11.0)
    lag.due("b", "r2", 300, 12.0)
    assert lag.behind(15.0) == Behind(1000, 5.0)
    lag.left("a", "r1", 100)
    lag.left("a", "r0", 5000)
    assert lag.behind(15.0) == Behind(400, 5.0)
    lag.due("a", "r3", 50, 14.0)
    assert lag.behind(15.0) == Behind(350, 3.0), "another revision is due since later"
    lag.silent(9.0)
    lag.silent(13.0)
    assert lag.behind(15.0).seconds == 6.0
    lag.heard()
    lag.done("a")
    lag.done("b")
    assert lag.behind(16.0) == Behind(0, 0.0)


def row(made):
    wakes = type("Wakes", (), {"running": {}, "figures": GatewayFigures(Metrics())})()
    return region_row(made.deployments, wakes, 1, 1)


async def test_the_row_shows_how_far_behind_a_region_is():
    home = Made("iad")
    fra = Made("fra", home=home)
    held, flow = asyncio.Event(), asyncio.Event()
    size = sum(map(len, whole().values()))

    async def stalled(bucket, key, **kwargs):
        held.set()
        await flow.wait()
        async for chunk in type(fra.home).stream(fra.home, bucket, key, **kwargs):
            yield chunk

    fra.home.stream = stalled
    async with home.running(), fra.running():
        home.disk.push(MODEL, whole())
        await home.until_live()
        await asyncio.wait_for(held.wait(), 60)
        await fra.until(lambda: row(fra).behind_bytes == size, "behind by the model")
        await fra.until(lambda: row(fra).behind_s > 0, "and since when")
        assert fra.find().state is not RolloutState.LIVE
        assert row(home).behind_bytes == 0
        flow.set()
        await fra.until_live()
        await fra.until(lambda: (row(fra).behind_bytes, row(fra).behind_s) == (0, 0.0), "up to date")


async def test_a_home_that_is_silent_is_lag_too():
    home = Made("iad")
    fra = Made("fra", home=home)
    async with home.running(), fra.running():
        await fra.until(lambda: fra.deployments.policy_line, "followed")
        assert row(fra).behind_s == 0

        def away(op, bucket, key):
            raise Unreachable("Unreachable", "cut")

        fra.home.offline, fra.home.before = True, away
        home.disk.log("put", "nearfield-system", "models/x/y.json")  # the long poll ends, the next one fails
        await fra.until(lambda: row(fra).behind_s > 0, "silent")
        fra.home.offline, fra.home.before = False, lambda op, bucket, key: None
        await fra.until(lambda: row(fra).behind_s == 0, "heard")

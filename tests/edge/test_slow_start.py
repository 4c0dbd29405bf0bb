"""A near region that has just become warm, beside a far one that is: what a start is given, and what that is worth.

The second is a small simulation. An engine's first answers cost a multiple of the later ones (kernels, graphs, no kept
prefixes), and an edge hears of a queue only with the next row: without a slow start all requests go there at once.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from statistics import mean

import pytest

from edge.choice.starts import LEAST, Start, Starts, full
from regions.choose import nearest, rank
from regions.health import HEALTHY
from regions.map.region import Tier
from regions.rows import SLOW_START_S, Heard
from regions.settle import Wish
from tests.edge.world import MODEL as ASKED
from tests.edge.world import answers, served
from tests.evidence import count
from tests.regions.made import MODEL, model_row, region_row

PREFILL_S, DECODE_S, ROW_S, LOOKED_AT_S = 0.05, 0.4, 0.2, 10.0
RTT_MS = {"iad": 5.0, "fra": 80.0}
NUM_EDGES = 4


class Way:
    health = HEALTHY

    def __init__(self, rtt_ms):
        self.rtt_ms = rtt_ms


class Engine:
    """`slowness` is how many times longer the first answer takes; each that was given takes a fifth of it away."""

    def __init__(self, name, slots, slowness):
        self.name, self.slots, self.slowness = name, slots, slowness
        self.num_done, self.running, self.waiting = 0, 0, []

    def factor(self):
        return 1 + self.slowness * 0.8**self.num_done

    def heard(self, at, fresh):
        known = self.num_done or not self.slowness  # the time of a step is only known once there was one
        row = model_row(
            running=self.running,
            waiting=len(self.waiting),
            slots=self.slots,
            step_ms=DECODE_S / 40 * 1e3 * self.factor() if known else 0.0,
        )
        return Heard(region_row(self.name, models={MODEL: row}), b"", at, fresh=fresh)


class Simulation:
    def __init__(self, per_s, slowness, seed, *, slowly):
        self.rng, self.slowly, self.number = random.Random(seed), slowly, itertools.count()
        self.ways = {name: Way(rtt_ms) for name, rtt_ms in RTT_MS.items()}
        self.engines = {"iad": Engine("iad", 16, slowness), "fra": Engine("fra", 64, 0)}
        self.previous, self.took_ms, self.due, self.rows = ["fra"] * NUM_EDGES, [], [], {}
        self.starts, self.asked = [Starts() for _ in range(NUM_EDGES)], []
        at = 0.0
        while at < LOOKED_AT_S and per_s:
            at += self.rng.expovariate(per_s)
            self.push(at, self.ask)
        for number in range(round(LOOKED_AT_S / ROW_S) + 1):
            self.push(number * ROW_S - 1e-9, self.say)

    def push(self, at, act, *more):
        heapq.heappush(self.due, (at, next(self.number), act, more))

    def run(self):
        while self.due:
            at, _, act, more = heapq.heappop(self.due)
            act(at, *more)
        return self.took_ms

    def say(self, at):
        fresh = {MODEL: 0.0} if self.slowly else {}
        self.rows = {"iad": self.engines["iad"].heard(at, fresh), "fra": self.engines["fra"].heard(at, {})}

    def ask(self, at, *, again=False):
        edge = 0 if again else self.rng.randrange(NUM_EDGES)
        starts = self.starts[edge].young(MODEL, self.rows, at)
        first = rank(
            MODEL,
            self.rows,
            nearest(self.ways),
            self.ways,
            prompt_tokens=100,
            now=at,
            wish=Wish(full=full(starts)),
            previous=self.previous[edge],
            draws=tuple(self.rng.random() for _ in range(3)),
        )[0]
        self.previous[edge], engine, start = (
            first.region,
            self.engines[first.region],
            starts.get(first.region),
        )
        if start is not None:
            start.enter()
        self.asked.append(first.region)
        engine.waiting.append((at, start, again))
        self.start(at, engine)

    def start(self, at, engine):
        if engine.waiting and engine.running < engine.slots:
            (began, *of), factor = engine.waiting.pop(0), engine.factor()
            engine.running += 1
            self.took_ms.append((at - began + PREFILL_S * factor) * 1e3 + RTT_MS[engine.name])
            took_s = (PREFILL_S + DECODE_S * self.rng.uniform(0.5, 1.5)) * factor
            self.push(at + took_s, self.end, engine, *of)

    def end(self, at, engine, start, again):
        engine.running -= 1
        engine.num_done += 1
        if start is not None:
            start.leave()
        self.start(at, engine)
        if again and at < LOOKED_AT_S:
            self.ask(at, again=True)


def heard(name="iad", fresh=0.0, model=MODEL):
    return Heard(region_row(name, models={model: model_row()}), b"", 0.0, fresh={model: fresh})


def test_a_start_grows_by_what_it_has_answered():
    start = Start(0.0)
    room = []
    for _ in range(3):
        room.append(LEAST + start.num_answered)
        for _ in range(room[-1]):
            assert not start.is_full
            start.enter()
        assert start.is_full
        for _ in range(room[-1]):
            start.leave()

    assert room == [LEAST, 2 * LEAST, 4 * LEAST]


def test_a_start_is_one_model_in_one_region_and_its_time_ends():
    starts, rows = Starts(), {"iad": heard(), "fra": heard("fra", 1.0)}
    young = starts.young(MODEL, rows, 1.0)
    for _ in range(LEAST):
        young["iad"].enter()

    assert full(young) == {"iad"}
    assert full(starts.young(MODEL, rows, 1.5)) == {"iad"}
    assert starts.young("acme/other", rows, 1.5) == {}
    assert set(starts.young(MODEL, rows, SLOW_START_S)) == {"fra"}
    assert full(starts.young(MODEL, {**rows, "iad": heard(fresh=2.0)}, 2.0)) == frozenset()  # once more cold


def test_starts_that_are_over_are_forgotten():
    starts = Starts()
    for n in range(100):
        assert starts.young(f"acme/{n}", {"iad": heard(fresh=float(n), model=f"acme/{n}")}, float(n))

    assert len(starts._known) <= SLOW_START_S + 1
    assert starts.young(MODEL, {}, 1000.0) == {}
    assert not starts._known


def figures(per_s, slowness, *, slowly):
    """Mean and p99 of the time to the first token, in ms, in the ten seconds after a start."""
    runs = [sorted(Simulation(per_s, slowness, seed, slowly=slowly).run()) for seed in range(count(2, 10))]
    return mean(map(mean, runs)), mean(run[int(0.99 * len(run))] for run in runs)


@pytest.mark.parametrize(("per_s", "slowness"), [(20, 3), (60, 3), (60, 10)])
def test_a_slow_start_shortens_the_wait_where_there_is_a_herd(per_s, slowness):
    herd, slow = (figures(per_s, slowness, slowly=slowly) for slowly in (False, True))

    assert slow[0] < 0.7 * herd[0], (herd, slow)
    assert slow[1] < 0.5 * herd[1], (herd, slow)


@pytest.mark.parametrize("per_s", [1, 3])
def test_a_slow_start_costs_little_where_there_is_none(per_s):
    herd, slow = (figures(per_s, 3, slowly=slowly) for slowly in (False, True))

    assert slow[0] < 1.05 * herd[0], (herd, slow)
    assert slow[1] < 1.05 * herd[1], (herd, slow)


def test_one_client_alone_is_always_answered_near():
    """One request after the other from the moment of the start: none is sent far, however slow the first answers."""
    alone = Simulation(0, 10, 1, slowly=True)
    alone.push(0.0, lambda at: alone.ask(at, again=True))
    alone.run()

    assert len(alone.asked) > 2
    assert set(alone.asked) == {"iad"}


async def test_an_edge_counts_what_is_under_way_at_a_start(world):
    """On the whole way and on a lane; what is over makes room for more."""
    edge, go, came = await world(), asyncio.Event(), []
    iad, fra = edge.regions["iad"], edge.regions["fra"]

    async def waits(exchange, region):
        came.append(exchange)
        await go.wait()
        await answers(exchange, region)

    iad.say({ASKED: served(tier=Tier.REGION, bytes=10**10)})
    fra.say({ASKED: served(running=4, waiting=4, slots=4, step_ms=2.0)})  # 0.3 s of queue
    await edge.until(lambda s: s["regions"]["iad"]["body"]["models"][ASKED]["tier"] == "region")
    await edge.until(lambda s: s["regions"]["fra"]["body"]["models"][ASKED]["running"] == 4)
    iad.script = waits
    iad.say({ASKED: served()})
    await edge.until(lambda s: s["regions"]["iad"]["body"]["models"][ASKED]["tier"] == "resident")
    first = [asyncio.ensure_future(edge.ask()) for _ in range(LEAST)]
    async with asyncio.timeout(60):
        while len(came) < LEAST:  # noqa: ASYNC110 - the far end of a connection
            await asyncio.sleep(0.001)
    beyond = [await edge.ask() for _ in range(3)]
    go.set()
    given = [*await asyncio.gather(*first), *[await edge.ask() for _ in range(3)]]

    assert {headers["x-nearfield-region"] for _, headers, _ in beyond} == {"fra"}
    assert {headers["x-nearfield-region"] for _, headers, _ in given} == {"iad"}

"""What a slow start is worth: a small simulation of a near region that has just become warm, beside a far one that is.

An engine's first answers cost a multiple of the later ones (kernels, graphs, no kept prefixes), and an edge hears of a
queue only with the next row: without a slow start all requests go there at once.
"""

from __future__ import annotations

import heapq
import itertools
import random
from statistics import mean

import pytest

from regions.choose import nearest, rank
from regions.health import HEALTHY
from regions.rows import Heard
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
        at = 0.0
        while at < LOOKED_AT_S:
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

    def ask(self, at):
        edge, draws = self.rng.randrange(NUM_EDGES), tuple(self.rng.random() for _ in range(3))
        near, previous = nearest(self.ways), self.previous[edge]
        first = rank(
            MODEL, self.rows, near, self.ways, prompt_tokens=100, now=at, previous=previous, draws=draws
        )[0]
        self.previous[edge], engine = first.region, self.engines[first.region]
        engine.waiting.append(at)
        self.start(at, engine)

    def start(self, at, engine):
        if engine.waiting and engine.running < engine.slots:
            began, factor = engine.waiting.pop(0), engine.factor()
            engine.running += 1
            self.took_ms.append((at - began + PREFILL_S * factor) * 1e3 + RTT_MS[engine.name])
            self.push(at + (PREFILL_S + DECODE_S * self.rng.uniform(0.5, 1.5)) * factor, self.end, engine)

    def end(self, at, engine):
        engine.running -= 1
        engine.num_done += 1
        self.start(at, engine)


def figures(per_s, slowness, *, slowly):
    """Mean and p99 of the time to the first token, in ms, in the ten seconds after a start."""
    runs = [sorted(Simulation(per_s, slowness, seed, slowly=slowly).run()) for seed in range(count(2, 10))]
    return mean(map(mean, runs)), mean(run[int(0.99 * len(run))] for run in runs)


@pytest.mark.parametrize(("per_s", "slowness"), [(20, 3), (60, 3), (60, 10)])
def test_a_slow_start_shortens_the_wait_where_there_is_a_herd(per_s, slowness):
    herd, slow = (figures(per_s, slowness, slowly=slowly) for slowly in (False, True))

    assert slow[0] < 0.8 * herd[0], (herd, slow)
    assert slow[1] < 0.9 * herd[1], (herd, slow)


def test_a_slow_start_costs_little_where_there_is_none():
    herd, slow = (figures(3, 3, slowly=slowly) for slowly in (False, True))

    assert slow[0] < 1.15 * herd[0], (herd, slow)
    assert slow[1] < 1.15 * herd[1], (herd, slow)

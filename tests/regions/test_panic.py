"""From which share of ill regions on an edge should doubt itself: a small simulation, and why it is not Envoy's half.

Requests go to the nearest region that has room. Either some regions fail all that they are sent (and answer their
probes, or do not), or all are well and the way loses a part of what is sent.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from statistics import mean

import pytest

from regions import health
from regions.health import HEALTHY, PANIC_SHARE, Breaker, Outcome, RegionHealth, after, panics
from tests.evidence import count

PER_S, SECONDS = 100.0, 20.0
HALF = 0.5
DOWN = RegionHealth(breaker=Breaker.OPEN, until=math.inf)


@dataclass
class World:
    num: int
    ill: int = 0  # of them, by chance; they answer probes
    down: int = 0  # and these do not
    lost: float = 0.0  # of what is sent
    load: float = 0.3  # of what all can take
    used: list = field(default_factory=list)

    def run(self, seed):
        """The share of requests that fail."""
        self.rng = rng = random.Random(seed)
        places = rng.sample(range(self.num), self.num)
        self.bad = set(places[: self.ill])
        self.healths = [
            DOWN if each in places[len(places) - self.down :] else HEALTHY for each in range(self.num)
        ]
        self.used, self.budget, now, num_failed, num_all, probed = [0.0] * self.num, 10.0, 0.0, 0, 0, 0.0
        while now < SECONDS:
            passed = rng.expovariate(PER_S)
            now, num_all = now + passed, num_all + 1
            self.used = [max(0.0, each - self.room() * passed) for each in self.used]
            self.budget = min(20.0, self.budget + 10 * passed)
            if now - probed > 1.0:
                probed = now
                self.probe(now)
            num_failed += not self.ask(now)
        return num_failed / num_all

    def room(self):
        """Requests a second that one region takes."""
        return PER_S / (self.load * self.num)

    def answers(self, place):
        down = self.healths[place].is_down
        return not down and place not in self.bad and self.rng.random() >= self.lost

    def probe(self, now):
        for place, each in enumerate(self.healths):
            if each.breaker is not Breaker.CLOSED and each.admits(now):
                outcome = Outcome.SUCCEEDED if self.answers(place) else Outcome.FAILED
                self.healths[place] = after(after(each, Outcome.SENT, now), outcome, now)

    def order(self, now):
        """The regions to ask, as the choice has them: by what is to do there, then by distance."""
        panic, none_answers = panics(self.healths, now), all(each.is_down for each in self.healths)

        def is_away(place):
            each = self.healths[place]
            return each.breaker is not Breaker.CLOSED and not (panic and (none_answers or not each.is_down))

        return sorted(
            range(self.num),
            key=lambda each: (is_away(each), max(0.0, self.used[each] - 2) / self.room() * 1e3 + each),
        )

    def ask(self, now):
        for attempt, place in enumerate(self.order(now)[:3]):
            if attempt:
                if self.budget < 1:
                    return False
                self.budget -= 1
            if self.used[place] > self.room():
                continue  # overloaded, which is no failure
            answered = self.answers(place)
            if self.healths[place].breaker is Breaker.CLOSED:
                self.healths[place] = after(
                    self.healths[place], Outcome.SUCCEEDED if answered else Outcome.FAILED, now
                )
            if answered:
                self.used[place] += 1
                self.budget = min(20.0, self.budget + 0.2)
                return True
        return False


def failed(monkeypatch, share, **world):
    monkeypatch.setattr(health, "PANIC_SHARE", share)
    return mean(World(**world).run(seed) for seed in range(count(2, 8)))


@pytest.mark.parametrize("world", [{"num": 3, "ill": 2}, {"num": 5, "ill": 3}, {"num": 8, "ill": 5}])
def test_where_most_regions_are_truly_ill_half_would_fail_what_the_rest_can_answer(monkeypatch, world):
    assert failed(monkeypatch, PANIC_SHARE, **world) < 0.01
    assert failed(monkeypatch, HALF, **world) > 0.15


@pytest.mark.parametrize("world", [{"num": 3, "down": 2}, {"num": 8, "down": 5}, {"num": 5, "down": 3}])
def test_regions_that_answer_no_probe_are_in_nobodys_way_whatever_the_share(monkeypatch, world):
    assert failed(monkeypatch, PANIC_SHARE, **world) < 0.01
    assert failed(monkeypatch, HALF, **world) < 0.01


@pytest.mark.parametrize("lost", [0.1, 0.3])
@pytest.mark.parametrize("num", [3, 8])
def test_where_only_the_way_is_ill_half_would_gain_little(monkeypatch, num, lost):
    ours, half = (failed(monkeypatch, share, num=num, lost=lost, load=0.7) for share in (PANIC_SHARE, HALF))
    never = failed(monkeypatch, 0.0, num=num, lost=lost, load=0.7)

    assert ours < half + 0.1
    assert ours <= never + 0.02

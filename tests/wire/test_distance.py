"""The distance to a region: noise does not move it, a longer way does soon, a shorter one at once."""

import random

from wire.ways.distance import MOVED_AFTER, Distance


def far(distance, *rtts):
    return [distance.saw(rtt) for rtt in rtts]


def test_one_slow_probe_moves_nothing_and_a_fast_one_does_at_once():
    distance = Distance()
    far(distance, 80.0, 81.0, 80.5)

    assert far(distance, 400.0, 80.7, 300.0, 250.0, 80.2) == [80.0, 80.0, 80.0, 80.0, 80.0]
    assert far(distance, 20.0) == [20.0]


def test_a_longer_way_is_seen_after_a_few_probes_and_stays():
    distance = Distance()
    far(distance, *[20.0] * 10)
    found = far(distance, *[81.0, 80.0, 82.0, 80.5])

    assert found == [20.0] * (MOVED_AFTER - 1) + [80.0, 80.0]


def test_a_busy_machine_is_no_longer_way():
    """Most probes wait, by up to ten times the way; no three in a row do."""
    rng, distance = random.Random(1), Distance()
    found = [distance.saw(10.0 if n % 3 == 0 else rng.uniform(10.0, 100.0)) for n in range(300)]

    assert set(found) == {10.0}


def test_a_slow_drift_is_followed():
    distance = Distance()
    found = [distance.saw(10.0 + n / 10) for n in range(100)]

    assert 18.0 < found[-1] <= 19.9


def test_what_was_forgotten_does_not_count():
    distance = Distance()
    far(distance, 5.0, 5.0)
    distance.forget()

    assert far(distance, 90.0) == [90.0]

"""What `python -m bench fair` makes of its rounds: one sample, whose p99 is not one stall of the machine."""

import pytest

from bench.fair import HOG, OTHERS, _rows, _times
from bench.fair_load import Asked

BESIDE = "beside one at 50x"
NUM = 24  # streams of each tenant in a round of 12 s, as they come on average


def asked(total_s, num=NUM):
    return [Asked(200, total_s / 10, total_s, True, {}) for _ in range(num)]


def rounds(num, beside_s=0.13):
    made = []
    for _ in range(num):
        alone = {name: asked(0.1) for name in OTHERS}
        made.append({"alone": alone, BESIDE: {name: asked(beside_s) for name in OTHERS} | {HOG: asked(9.0)}})
    return made


def row(found, *, of_middle=False):
    rows = [each for each in _rows(BESIDE, found) if each.what.startswith("whole answer, p99")]
    return next(each for each in rows if each.what.endswith("in the middle round") is of_middle)


def test_of_one_round_the_p99_is_its_slowest_and_of_seven_it_is_not():
    stalled = asked(0.9, num=1)
    one, seven = rounds(1), rounds(7)
    for each in (one, seven):
        each[0][BESIDE]["ada"][:1] = stalled

    assert _times(BESIDE, one) == pytest.approx(9.0)
    assert _times(BESIDE, seven) == pytest.approx(1.3)
    assert not row(one).holds
    assert row(seven).holds


def test_what_is_slow_in_each_round_breaks_the_target():
    assert not row(rounds(7, beside_s=0.16)).holds
    slow = rounds(7)
    for each in slow:
        each[BESIDE]["bob"][:2] = asked(0.2, num=2)
    assert not row(slow).holds


def test_a_machine_that_stood_still_while_they_were_alone_hides_nothing():
    found = rounds(7, beside_s=0.16)
    found[0]["alone"]["ada"] = asked(0.9)

    assert row(found).holds, "by all rounds as one, their p99 alone is that standstill"
    assert not row(found, of_middle=True).holds
    assert row(rounds(7), of_middle=True).holds

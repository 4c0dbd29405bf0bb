import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regions.health import (
    EJECT_MAX_S,
    EJECT_S,
    HEALTHY,
    RAMP_S,
    TABLE,
    TRIAL_S,
    Breaker,
    Outcome,
    RegionHealth,
    after,
    panics,
)

OK, BAD, SENT = Outcome.SUCCEEDED, Outcome.FAILED, Outcome.SENT


def told(*outcomes, health=HEALTHY, now=0.0):
    for outcome in outcomes:
        health = after(health, outcome, now)
    return health


def test_health_the_table_has_every_pair():
    assert set(TABLE) == set(itertools.product(Breaker, Outcome))


@pytest.mark.parametrize(
    ("breaker", "outcome", "due", "expected"),
    [
        (Breaker.CLOSED, SENT, True, Breaker.CLOSED),
        (Breaker.CLOSED, OK, True, Breaker.CLOSED),
        (Breaker.CLOSED, BAD, True, Breaker.CLOSED),
        (Breaker.OPEN, SENT, False, Breaker.OPEN),
        (Breaker.OPEN, SENT, True, Breaker.TRIAL),
        (Breaker.OPEN, OK, True, Breaker.OPEN),
        (Breaker.OPEN, BAD, True, Breaker.OPEN),
        (Breaker.TRIAL, SENT, True, Breaker.TRIAL),
        (Breaker.TRIAL, OK, True, Breaker.CLOSED),
        (Breaker.TRIAL, BAD, True, Breaker.OPEN),
    ],
)
def test_health_every_move(breaker, outcome, due, expected):
    health = RegionHealth(breaker, until=0.0 if due else 99.0)

    assert after(health, outcome, 10.0).breaker is expected


def test_health_one_failure_is_forgiven_and_two_in_a_row_eject():
    assert told(BAD).admits(0.0)
    assert told(BAD, OK, BAD).admits(0.0)

    ejected = told(BAD, BAD)
    assert not ejected.admits(EJECT_S - 0.01)
    assert ejected.admits(EJECT_S)


def test_health_failing_every_second_request_ejects_too():
    health = HEALTHY
    for n in range(200):
        health = after(health, BAD if n % 2 else OK, 0.0)
        if health.breaker is Breaker.OPEN:
            break

    assert health.breaker is Breaker.OPEN


def test_health_only_one_trial_goes_until_it_answers_or_its_time_is_up():
    trial = told(SENT, health=told(BAD, BAD), now=EJECT_S)

    assert trial.breaker is Breaker.TRIAL
    assert not trial.admits(EJECT_S + TRIAL_S - 0.01)
    assert trial.admits(EJECT_S + TRIAL_S)


def test_health_each_ejection_in_a_row_is_twice_as_long_up_to_the_cap():
    health, now, away = told(BAD, BAD), 0.0, []
    for _ in range(8):
        away.append(health.until - now)
        now = health.until
        health = told(SENT, BAD, health=health, now=now)

    assert away == [min(EJECT_MAX_S, EJECT_S * 2**n) for n in range(8)]


def test_health_a_region_that_came_back_gets_its_share_slowly_and_its_record_cleared_late():
    back = told(SENT, OK, health=told(BAD, BAD), now=EJECT_S)

    assert [back.share(EJECT_S + t) for t in (0, RAMP_S / 2, RAMP_S, 99)] == [0.0, 0.5, 1.0, 1.0]
    assert told(OK, health=back, now=EJECT_S + 1).num_ejections == 1
    assert told(OK, health=back, now=EJECT_S + RAMP_S).num_ejections == 0


def test_health_an_answer_from_before_the_ejection_does_not_end_it():
    assert not told(OK, OK, health=told(BAD, BAD)).admits(0.5)


def test_health_one_bad_of_three_is_no_panic_but_nearly_all_bad_is():
    bad = told(BAD, BAD)

    assert not panics([], 0.0)
    assert not panics([bad, HEALTHY, HEALTHY], 0.0)
    assert not panics([bad, bad, HEALTHY], 0.0)
    assert panics([bad, bad, bad], 0.0)
    assert panics([bad] * 4 + [HEALTHY], 0.0)
    assert not panics([bad] * 3, EJECT_S)


def test_health_regions_that_answer_no_probe_have_no_say_in_a_panic_unless_none_answers():
    bad, down = told(BAD, BAD), RegionHealth(breaker=Breaker.OPEN, until=math.inf)

    assert not panics([down] * 7 + [HEALTHY], 0.0)
    assert panics([down] * 7 + [bad], 0.0)
    assert panics([down] * 3, 0.0)


@given(st.lists(st.tuples(st.sampled_from(Outcome), st.floats(0, 5)), max_size=60))
def test_health_invariants_hold_whatever_happens(history):
    """A region is never away for longer than the caps, and its figures stay in their ranges."""
    health, now = HEALTHY, 0.0
    for outcome, wait_s in history:
        now += wait_s
        health = after(health, outcome, now)

        assert health.admits(now + max(EJECT_MAX_S, TRIAL_S))
        assert 0.0 <= health.failure_rate <= 1.0
        assert 0.0 <= health.share(now) <= 1.0

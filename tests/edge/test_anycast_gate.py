"""The gate's rules alone: rise, fall, hysteresis, drain; every state with every event."""

import random

import pytest

from edge.anycast.gate import (
    FALL,
    LATELY_S,
    PERIOD_S,
    RISE,
    STEADY_MAX_S,
    STEADY_S,
    Checks,
    GateState,
    Standing,
    decide,
    drain,
    steady_s,
    undrain,
)

GOOD, DEAF, ALONE = Checks(True, 3), Checks(False, 3), Checks(True, 0)


class Pop:
    """A gate that is checked every PERIOD_S; `told` are the standings in the order in which they changed."""

    def __init__(self):
        self.state, self.now, self.told = GateState(), 100.0, []

    def see(self, checks, times=1):
        for _ in range(times):
            before = self.state.standing
            self.state = decide(self.state, checks, self.now)
            self.told += [self.state.standing] if self.state.standing is not before else []
            self.now += PERIOD_S
        return self.state.standing

    def up(self):
        self.see(GOOD, RISE)
        return self


def test_it_announces_after_three_good_checks_and_not_before():
    pop = Pop()

    assert [pop.see(GOOD) for _ in range(RISE)] == [Standing.WITHDRAWN] * (RISE - 1) + [Standing.ANNOUNCED]


@pytest.mark.parametrize("bad", [DEAF, ALONE], ids=["no listener", "no region"])
def test_it_withdraws_after_two_bad_checks_and_not_before(bad):
    pop = Pop().up()

    assert pop.see(bad) is Standing.ANNOUNCED
    assert pop.see(bad) is Standing.WITHDRAWN


def test_one_bad_check_between_good_ones_changes_nothing():
    pop = Pop().up()
    for _ in range(50):
        pop.see(DEAF)
        pop.see(GOOD)

    assert pop.told == [Standing.ANNOUNCED]


def test_one_reachable_region_is_enough():
    assert Pop().see(Checks(True, 1), RISE) is Standing.ANNOUNCED


def test_a_pop_that_was_withdrawn_comes_back_once_it_was_steady():
    pop = Pop().up()
    pop.see(DEAF, FALL)
    pop.see(GOOD, round(STEADY_S / PERIOD_S))
    assert pop.state.standing is Standing.WITHDRAWN
    pop.see(GOOD, 2)

    assert pop.told == [Standing.ANNOUNCED, Standing.WITHDRAWN, Standing.ANNOUNCED]


@pytest.mark.parametrize("good_checks", range(1, 9))
@pytest.mark.parametrize("bad_checks", range(1, 5))
def test_ten_flaps_in_about_ten_seconds_move_clients_at_most_twice(good_checks, bad_checks):
    """Once away, and once back when it is over; whatever part of each second it is well."""
    pop = Pop().up()
    for _ in range(10):
        pop.see(DEAF, bad_checks)
        pop.see(GOOD, good_checks)
    pop.see(GOOD, 20)

    assert len(pop.told) - 1 <= 2


def test_slower_flaps_are_answered_ever_more_rarely():
    """5 s well and 0.4 s ill, for an hour and a half: it comes back while 2 and 4 s of that are enough."""
    pop = Pop().up()
    for _ in range(1000):
        pop.see(DEAF, FALL)
        pop.see(GOOD, round(5.0 / PERIOD_S))
    moves = len(pop.told) - 1

    assert moves <= 2 * 3 * (1 + 1000 * 5.4 / LATELY_S)
    assert steady_s(pop.state, pop.now) <= STEADY_MAX_S


def test_a_withdrawal_long_ago_is_forgotten():
    pop = Pop().up()
    pop.see(DEAF, FALL)
    pop.now += LATELY_S

    assert pop.see(GOOD, RISE) is Standing.ANNOUNCED


def test_a_drain_de_prefers_first_and_withdraws_at_its_deadline():
    pop = Pop().up()
    pop.state = drain(pop.state, pop.now, 2.0)
    pop.see(GOOD, round(2.0 / PERIOD_S) + 2)

    assert pop.told == [Standing.ANNOUNCED, Standing.DRAINING, Standing.WITHDRAWN]


def test_a_drain_that_is_asked_for_again_keeps_its_deadline():
    state = drain(GateState(), 10.0, 5.0)

    assert drain(state, 14.0, 5.0) == state


def test_a_drained_pop_comes_back_at_once_and_without_a_penalty():
    pop = Pop().up()
    pop.state = drain(pop.state, pop.now, 1.0)
    pop.see(GOOD, 10)
    pop.state = undrain(pop.state)

    assert pop.see(GOOD) is Standing.ANNOUNCED
    assert steady_s(pop.state, pop.now) == 0


def test_a_drained_pop_that_falls_ill_is_withdrawn_before_its_deadline():
    pop = Pop().up()
    pop.state = drain(pop.state, pop.now, 100.0)
    pop.see(GOOD)

    assert pop.see(DEAF, FALL) is Standing.WITHDRAWN


def test_a_gate_that_starts_under_a_drain_announces_at_most_a_last_resort():
    pop = Pop()
    pop.state = drain(pop.state, pop.now, 1.0)
    pop.see(GOOD, 20)

    assert pop.told == [Standing.DRAINING, Standing.WITHDRAWN]


STEPS = (
    lambda state, now: decide(state, GOOD, now),
    lambda state, now: decide(state, DEAF, now),
    lambda state, now: decide(state, ALONE, now),
    lambda state, now: drain(state, now, 1.0),
    lambda state, _now: undrain(state),
)


def walks(state, n=0):
    """Every state that a walk of seven steps meets, with its length and its last step; beginnings are shared."""
    for kind, step in enumerate(STEPS) if n < 7 else ():
        after = step(state, n * PERIOD_S)
        yield n, kind, after
        yield from walks(after, n + 1)


def test_every_walk_keeps_the_rules():
    """All walks of seven steps: never announced with FALL bad checks seen, nor from RISE - 1 good ones."""
    num = 0
    for n, step, state in walks(GateState()):
        num += n == 6
        assert state.num_bad < FALL or state.standing is Standing.WITHDRAWN or step > 2
        assert state.standing is Standing.WITHDRAWN or n >= RISE - 1
    assert num == len(STEPS) ** 7


def test_a_long_random_life_stays_bounded():
    draw, state = random.Random(6), GateState()
    for n in range(20_000):
        state = draw.choice(STEPS)(state, n * PERIOD_S)

    assert len(state.withdrawals) <= 8
    assert max(state.num_good, state.num_bad) <= RISE

"""The first pass of a start waits for those who came together, while that costs nothing."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from inference.engine.steps.gather import ENOUGH_LANDED, MOST_S, QUIET_S, Gather


def test_nobody_is_waited_for_before_the_first_or_after_the_first_step_may_begin() -> None:
    gather = Gather(lambda: 0.0)
    assert gather.patience_s(5.0) == 0.0
    gather.heard(5.0)
    assert 0 < gather.patience_s(5.0) <= QUIET_S
    assert gather.patience_s(5.0 + QUIET_S) == 0.0
    gather.heard(6.0)
    assert gather.patience_s(6.0) == 0.0, "it has begun: never again"


def test_once_enough_has_landed_nothing_is_waited_for() -> None:
    landed = 0.0
    gather = Gather(lambda: landed)
    gather.heard(1.0)
    assert gather.patience_s(1.0) > 0
    landed = ENOUGH_LANDED
    assert gather.patience_s(1.0) == 0.0


@given(st.lists(st.floats(0, 2 * QUIET_S), min_size=1, max_size=200))
def test_it_ends_with_the_first_pause_and_after_the_longest_wait_at_the_latest(gaps: list[float]) -> None:
    gather, now = Gather(lambda: 0.0), 10.0
    times = [now := now + gap for gap in gaps]
    begun = next(
        (
            min(before + QUIET_S, times[0] + MOST_S)
            for before, after in pairwise([*times, times[-1] + 9])
            if after > min(before + QUIET_S, times[0] + MOST_S)
        ),
    )
    for at in times:
        if at < begun:
            gather.heard(at)
            assert gather.patience_s(at) > 0
    assert gather.patience_s(begun + 1e-9) == 0.0

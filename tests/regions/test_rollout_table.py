"""The rollout table, every pair of it, and the pure decision on top of it."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regions.map.region import ModelFault, RolloutState
from regions.rollout.life import TABLE, WORK, Event, ForbiddenMoveError, Move, Rollout, Task, Work, decide

S, E = RolloutState, Event

# The same table once more, by hand and by event: whoever changes one must mean it twice.
EXPECTED = {
    (S.PUSHED, E.CHECKED): S.VERIFIED,
    (S.VERIFIED, E.COPIED): S.REPLICATED,
    (S.REPLICATED, E.LOADING): S.WARMING,
    (S.WARMING, E.PROBED): S.LIVE,
    (S.WARMING, E.ABANDONED): S.REPLICATED,
    **{(state, E.REFUSED): S.FAILED for state in (S.PUSHED, S.VERIFIED, S.REPLICATED, S.WARMING)},
    **{
        (state, event): S.RETIRED
        for state in (S.PUSHED, S.VERIFIED, S.REPLICATED, S.WARMING, S.FAILED)
        for event in (E.SUPERSEDED, E.REMOVED)
    },
    (S.LIVE, E.SUPERSEDED): S.DRAINING,
    (S.LIVE, E.STOOD): S.LIVE,
    (S.LIVE, E.FELL): S.FAILED,
    (S.LIVE, E.REMOVED): S.DRAINING,
    (S.DRAINING, E.DRAINED): S.RETIRED,
    (S.DRAINING, E.AGAIN): S.LIVE,
    (S.RETIRED, E.AGAIN): S.PUSHED,
    (S.FAILED, E.AGAIN): S.PUSHED,
}


@pytest.mark.parametrize(("state", "event"), itertools.product(S, E), ids=str)
def test_every_state_and_event(state, event):
    """Either the table says where it leads, or the pair is refused loudly."""
    rollout = Rollout("r1", state)

    if (state, event) in EXPECTED:
        assert rollout.after(event).state is EXPECTED[state, event]
    else:
        with pytest.raises(ForbiddenMoveError):
            rollout.after(event)


def test_the_table_has_a_row_for_every_state_and_no_failure_touches_a_live_one():
    assert set(TABLE) == set(S)
    assert E.REFUSED not in TABLE[S.LIVE]
    assert E.REFUSED not in TABLE[S.DRAINING]


def test_a_failure_keeps_its_reason_and_a_new_try_forgets_it():
    fault = ModelFault("probe_failed", "m", "n")
    failed = Rollout("r1", S.WARMING).after(E.REFUSED, fault)

    assert failed.fault == fault
    assert failed.after(E.AGAIN).fault is None


def test_a_candidate_is_worked_on_step_by_step():
    for state in (S.PUSHED, S.VERIFIED, S.REPLICATED, S.WARMING):
        assert decide("r1", [Rollout("r1", state)]) == ((), (Task("r1", WORK[state]),))


def test_a_live_or_failed_revision_needs_nothing():
    assert decide("r1", [Rollout("r1", S.LIVE)]) == ((), ())
    assert decide("r1", [Rollout("r1", S.FAILED)]) == ((), ())


@pytest.mark.parametrize("state", [S.PUSHED, S.VERIFIED, S.REPLICATED, S.WARMING, S.FAILED])
def test_the_old_one_stays_live_until_the_new_one_is(state):
    moves, _ = decide("r2", [Rollout("r1", S.LIVE), Rollout("r2", state)])

    assert moves == ()


def test_the_old_one_drains_when_the_new_one_is_live():
    rollouts = [Rollout("r1", S.LIVE), Rollout("r2", S.LIVE)]

    assert decide("r2", rollouts) == ((Move("r1", E.SUPERSEDED),), ())
    assert decide("r2", [rollouts[0].after(E.SUPERSEDED), rollouts[1]]) == ((), (Task("r1", Work.DRAIN),))


def test_a_canary_bakes_the_new_one_beside_the_old_and_others_hold_it():
    rollouts = [Rollout("r1", S.LIVE), Rollout("r2", S.LIVE)]

    assert decide("r2", rollouts, is_proven=False) == ((), (Task("r2", Work.BAKE),))
    assert decide("r2", [rollouts[0], Rollout("r2", S.LIVE).after(E.FELL)], is_proven=False) == ((), ())
    for state in (S.PUSHED, S.VERIFIED):
        held = [Rollout("r1", S.LIVE), Rollout("r2", state)]
        assert decide("r2", held, is_held=True) == (
            (),
            (Task("r2", WORK[state]),),
        )  # its bytes come meanwhile
    assert decide("r2", [Rollout("r1", S.LIVE), Rollout("r2", S.REPLICATED)], is_held=True) == ((), ())


def test_a_removed_model_drains_and_is_forgotten():
    assert decide(None, [Rollout("r1", S.LIVE)])[0] == (Move("r1", E.REMOVED),)
    assert decide(None, [Rollout("r1", S.DRAINING)])[1] == (Task("r1", Work.DRAIN),)
    assert decide(None, [Rollout("r1", S.RETIRED)])[1] == (Task("r1", Work.FORGET),)


def test_a_roll_back_to_a_draining_revision_serves_at_once():
    assert decide("r1", [Rollout("r1", S.DRAINING), Rollout("r2", S.LIVE)])[0] == (Move("r1", E.AGAIN),)


def outcome_of(work, draw_event):
    return {
        Work.CHECK: (E.CHECKED, E.REFUSED),
        Work.COPY: (E.COPIED, E.REFUSED),
        Work.CHOOSE: (E.LOADING, E.REFUSED),
        Work.PROBE: (E.PROBED, E.ABANDONED, E.REFUSED),
        Work.DRAIN: (E.DRAINED,),
    }[work][draw_event % {Work.PROBE: 3, Work.DRAIN: 1}.get(work, 2)]


@given(
    st.lists(
        st.tuples(st.sampled_from(["r1", "r2", "r3", None]), st.lists(st.integers(0, 5), max_size=9)),
        max_size=8,
    )
)
def test_whatever_the_pointer_and_the_outcomes_something_live_is_never_lost(history):
    """Walks random pointers and outcomes: no forbidden move; once live, it stays so until it is removed."""
    rollouts, was_live = {}, False
    for desired, outcomes in history:
        if desired is not None:
            rollouts.setdefault(desired, Rollout(desired))
        else:
            was_live = False
        for outcome in [*outcomes, *[0] * 12]:
            moves, tasks = decide(desired, list(rollouts.values()))
            for move in moves:
                rollouts[move.revision] = rollouts[move.revision].after(move.event)
            if tasks and tasks[0].work is Work.FORGET:
                del rollouts[tasks[0].revision]
            elif tasks:
                one = tasks[0]
                rollouts[one.revision] = rollouts[one.revision].after(outcome_of(one.work, outcome))
            serving = any(each.state in {S.LIVE, S.DRAINING} for each in rollouts.values())
            assert serving or not was_live or desired is None
            was_live = serving and desired is not None
    assert sum(each.state is S.LIVE for each in rollouts.values()) <= 1

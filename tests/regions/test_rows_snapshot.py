import contextlib
import random

import pytest

from regions.rows import NEVER, RowRefused, Snapshot, encode, fold
from tests.regions.made import KEYS, MODEL, SIGNERS, model_row, policy_row, region_row


def line(name="iad", **changes):
    return encode(region_row(name, **changes), KEYS[name])


def folded(snapshot, *lines, now=1.0, source=None):
    for each in lines:
        snapshot = fold(snapshot, each, SIGNERS, now=now, source=source)
    return snapshot


def refused(snapshot, data, source=None):
    with pytest.raises(RowRefused) as caught:
        fold(snapshot, data, SIGNERS, now=9.0, source=source)
    return caught.value.code


def test_rows_the_newest_row_of_each_region_stays():
    snapshot = folded(Snapshot(), line(), line("fra"), line(seq=2), line(epoch=2, seq=1))

    assert {name: (h.row.epoch, h.row.seq) for name, h in snapshot.regions.items()} == {
        "iad": (2, 1),
        "fra": (1, 1),
    }


@pytest.mark.parametrize(("epoch", "seq"), [(1, 9), (2, 4), (0, 99)])
def test_rows_an_older_row_is_refused_and_the_newer_stays(epoch, seq):
    before = folded(Snapshot(), line(epoch=2, seq=5))

    assert refused(before, line(epoch=epoch, seq=seq)) == "older"
    assert before.regions["iad"].row.seq == 5


def test_rows_the_same_line_again_is_only_heard_again_but_a_twin_of_its_number_is_refused():
    before = folded(Snapshot(), line(seq=5), now=NEVER)
    after = folded(before, line(seq=5), now=7.0)

    assert after.regions["iad"].at == 7.0
    assert refused(after, line(seq=5, draining=True)) == "older"


def test_rows_a_region_speaks_only_for_itself_but_passes_on_the_policy():
    snapshot = folded(Snapshot(), line("fra"), encode(policy_row(), KEYS["iad"]), source="fra")

    assert set(snapshot.regions) == {"fra"}
    assert snapshot.policy is not None
    assert refused(snapshot, line("iad"), source="fra") == "wrong_region"


def test_rows_a_policy_never_goes_back_and_is_taken_byte_exact():
    new, old = encode(policy_row(seq=3), KEYS["iad"]), encode(policy_row(seq=2), KEYS["iad"])
    snapshot = folded(Snapshot(), new)

    assert refused(snapshot, old) == "older"
    assert snapshot.policy_line == new
    assert folded(snapshot, new) is snapshot


def test_rows_a_region_that_restarts_without_any_model_is_not_believed():
    before = folded(Snapshot(), line(epoch=1))

    assert refused(before, line(epoch=2, models={})) == "empty"
    assert folded(before, line(epoch=1, seq=2, models={})).regions["iad"].row.models == {}


def test_rows_half_or_twice_the_models_is_a_change_like_any_other_within_the_bounds():
    two = {MODEL: model_row(), "acme/n": model_row()}
    snapshot = folded(Snapshot(), line(), line(seq=2, models=two), line(seq=3))

    assert set(snapshot.regions["iad"].row.models) == {MODEL}


def test_rows_any_order_of_arrival_ends_at_the_newest():
    lines = [line(seq=n) for n in range(1, 20)]
    random.Random(7).shuffle(lines)
    snapshot = Snapshot()
    for each in lines:
        with contextlib.suppress(RowRefused):
            snapshot = folded(snapshot, each)

    assert snapshot.regions["iad"].row.seq == 19


def test_rows_what_is_kept_on_disk_folds_back_to_the_same_rows():
    snapshot = folded(Snapshot(), encode(policy_row(), KEYS["iad"]), line(), line("nrt", seq=4))
    again = folded(Snapshot(), *snapshot.lines(), now=NEVER)

    assert again.policy == snapshot.policy
    assert {n: h.row for n, h in again.regions.items()} == {n: h.row for n, h in snapshot.regions.items()}
    assert all(h.at == NEVER for h in again.regions.values())


def test_rows_a_refused_line_changes_nothing():
    snapshot = folded(Snapshot(), line())
    kept = dict(snapshot.regions)
    for bad in (b"", b"{}", line(seq=1, draining=True), line(seq=2)[:-1]):
        refused(snapshot, bad)

    assert snapshot.regions == kept

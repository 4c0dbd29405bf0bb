"""What a roll back means, what a push says of the revision before, and which word of a region counts after a move."""

import pytest

from deploy import fleet
from deploy.faults import NotLive, Silent
from deploy.models import pointing, watch
from deploy.models.pointing import earlier
from deploy.models.proofs import changes
from deploy.roles.bootstrap import _user_grants
from regions.objects.pointer import Pointer, new_pointer
from regions.objects.proof import Proof
from storage.client.sdk import StoreError
from tests.deploy.test_watch import Scripted, _status

IDS = tuple(letter * 64 for letter in "abcde")
AT_E = Pointer("acme/m", IDS[4], (IDS[3], IDS[2], IDS[1], IDS[0]))


def _proof(ok=True, region="iad", start="region", cold_s=2.0, warm_s=0.1, origin=0):
    return Proof(
        "acme/m",
        IDS[0],
        region,
        1,
        ok=ok,
        start=start,
        cold_s=cold_s,
        warm_s=warm_s,
        bytes={"origin": origin},
    )


@pytest.mark.parametrize(
    ("wanted", "failed", "found"),
    [
        (None, (), IDS[3]),
        (None, (IDS[3],), IDS[2]),
        ("ccc", (), IDS[2]),
        (IDS[3], (IDS[3],), IDS[3]),
    ],
    ids=["the last", "the last that was proven", "named", "named although it failed once"],
)
def test_a_roll_back_means(wanted, failed, found):
    known = {each: {"iad": _proof(), "fra": _proof(ok=each not in failed)} for each in IDS}

    assert earlier(AT_E, wanted, known) == found


@pytest.mark.parametrize("wanted", ["a", "e", "f", "b"])
def test_what_is_gone_or_never_was_is_no_roll_back(wanted):
    with pytest.raises(NotLive) as told:
        earlier(AT_E, wanted, {})
    assert told.value.next_step == "nearfield revisions acme/m"


def test_a_model_of_one_revision_has_nothing_to_roll_back_to():
    with pytest.raises(NotLive):
        earlier(Pointer("acme/m", IDS[0]), None, {})
    with pytest.raises(NotLive):
        earlier(AT_E, None, {each: {"iad": _proof(ok=False)} for each in IDS})


def test_where_proofs_may_not_be_read_the_last_one_is_meant():
    assert earlier(AT_E, None, {}) == IDS[3]


def test_a_change_is_of_regions_that_proved_both_and_of_starts_from_one_place():
    now = {
        "iad": _proof(cold_s=1.0, origin=7_000_000),
        "fra": _proof(region="fra", warm_s=0.1004),
        "nrt": _proof(region="nrt"),
    }
    before = {
        "iad": _proof(),
        "fra": _proof(region="fra", start="host"),
        "nrt": _proof(ok=False, region="nrt"),
    }
    fra, iad, nrt = changes(now, before)

    assert (iad.cold, iad.warm) == (0.5, 1.0)
    assert (fra.cold, round(fra.warm, 3)) == (None, 1.004)
    assert (nrt.cold, nrt.warm, nrt.before) == (None, None, None)
    assert (
        iad.words() == "iad  cold 1.00 s (-50 %) from region, warm 100 ms (±0 %), 7.0 MB from another region"
    )
    assert "%" not in nrt.words()


def test_a_model_that_was_only_a_preview_begins_where_that_is():
    made = new_pointer(
        Pointer("acme/m@pr-1", IDS[1], (IDS[0],), ("iad",), 60.0, fingerprint="f", serial=4), 9
    )

    assert made == Pointer("acme/m", IDS[1], (), ("iad",), 60.0, serial=1, pushed_s=9)


def test_what_a_region_said_before_it_heard_of_a_move_does_not_count():
    """Neither that it serves the revision, nor what was wrong with another."""

    def said(pushed_s, error=None):
        status = _status(iad="live")
        row = status["regions"]["iad"]["body"]["models"]["a/m"]
        row |= {"pushed_s": pushed_s, "error": error}
        return status

    old = {"code": "probe_failed", "message": "no token", "next": "look"}
    seen = []
    watch.until_live(
        Scripted(said(6, old), said(7)),
        "a/m",
        watch.Move("r1", 7),
        None,
        lambda now: seen.append(now["iad"].pushed_s),
        5,
    )
    assert seen == [6, 7]
    with pytest.raises(NotLive, match="r1 goes on serving there"):
        watch.until_live(Scripted(said(7, old)), "a/m", watch.Move("r2", 7), None, lambda _: None, 5)


@pytest.mark.parametrize("grants", [fleet.USER_GRANTS, fleet.FORMER_USER_GRANTS])
def test_a_fleet_of_before_proofs_goes_on_with_its_users_key(grants):
    class Key:
        def __init__(self, grants):
            self.grants = grants

    class Config:
        access_keys = (Key(fleet.SYSTEM_GRANTS), Key(grants))

    assert _user_grants(Config()) == grants


@pytest.mark.parametrize(
    ("now", "code"), [(None, "removed"), (AT_E, "overtaken"), (Pointer("acme/m", IDS[0]), None)]
)
def test_a_wait_is_over_where_the_pointer_names_something_else(monkeypatch, now, code):
    monkeypatch.setattr(pointing, "read", lambda _credentials, _model, give_up_s: [now])
    if code is None:
        pointing.check_named(None, "acme/m", IDS[0])
        return
    with pytest.raises(NotLive) as told:
        pointing.check_named(None, "acme/m", IDS[0])

    assert told.value.code == code


@pytest.mark.parametrize("error", [StoreError("no answer", 503), Silent("nothing was heard")])
def test_a_store_that_does_not_answer_ends_no_wait(monkeypatch, error):
    def read(_credentials, _model, give_up_s):
        raise error

    monkeypatch.setattr(pointing, "read", read)
    pointing.check_named(None, "acme/m", IDS[0])

"""A new revision goes to one region first: it stands its bake, or falls and no other region ever leaves the old."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from regions.map.policy import Canary
from regions.map.region import ModelFault, RolloutState
from regions.objects.pointer import Pointer, PointerError
from regions.rollout.canary import Verdict, canary_of, has_fallen
from storage.client.sdk import StoreError
from tests.regions.folders import whole
from tests.regions.made_region import MODEL, Made, put_rules
from tests.regions.pretend_node import failure
from tests.regions.test_ingest_pushes import with_manifest

V1, V2, V3 = (whole(fill=bytes([n])) for n in (1, 2, 3))


def trio():
    home = Made("iad")
    return home, Made("fra", home=home), Made("nrt", home=home)


async def both_live(home, fra, revision=None):
    return await fra.until_live(await home.until_live(revision))


@asynccontextmanager
async def two(**canary):
    """(home, fra, the revision that both serve), with these rules for a new one; only home has anything to say."""
    home, fra, _ = trio()
    if canary:
        put_rules(home.disk, canary=canary)
    async with home.running(), fra.running():
        with_manifest(home.disk, V1)
        yield home, fra, await both_live(home, fra)


async def moved(region, *from_revisions, why):
    """Until `region` serves another revision than these, which it gives."""
    await region.until(lambda: region.live() not in {None, *from_revisions}, why)
    return region.live()


async def pushed_over(home, folder, *from_revisions):
    """A new revision is pushed and the canary serves it; the others have not heard."""
    with_manifest(home.disk, folder)
    return await moved(home, *from_revisions, why="the canary serves the new one")


def verdict(home):
    return home.system(f"canary/{MODEL}.json") or {}


async def test_a_new_revision_goes_to_the_canary_and_on_when_it_stood():
    async with two(bake_s=0, regions=["fra"]) as (home, fra, first):
        assert verdict(home) == {}, "the first revision replaces nothing and waits for nobody"
        seen = []
        home.node.on_load = lambda: seen.append((verdict(home)["state"], fra.live()))
        with_manifest(home.disk, V2)
        await moved(home, first, why="the second is live")

        assert seen == [("passed", home.live())], "the home region waited for fra"
        await fra.until(lambda: (first, "region") in fra.node.unloads, "the old one is unloaded")
        assert verdict(home)["region"] == "fra"
        assert len(fra.node.probes) > len(home.node.probes), "asked once more at the end of its bake"


async def test_while_it_bakes_the_others_wait_and_say_for_whom():
    async with two(bake_s=3600) as (home, fra, first):
        await pushed_over(home, V2, first)
        await fra.until(lambda: fra.find().waits_for == "iad", "fra waits")

        assert fra.live() == first
        assert len(fra.node.loads) == 1
        assert verdict(home)["state"] == "baking"
        assert not home.node.unloads, "the old one stays at hand"
        assert home.written() == first, "what still bakes is not what a restart trusts"
        put_rules(home.disk, canary={"bake_s": 0})
        await fra.until(lambda: fra.live() == home.live(), "the operator shortened it")
        assert fra.find().waits_for == ""


@pytest.mark.parametrize("how", ["probe", "requests"])
async def test_what_falls_in_its_bake_goes_back_there_and_never_on(how, monkeypatch):
    monkeypatch.setattr("regions.rollout.bake.LOOK_S", 0.01)
    async with two(bake_s=3600) as (home, fra, first):
        await pushed_over(home, V2, first)
        second = home.find().live
        await home.until(lambda: home.find().baking == second.id, "its requests are counted")
        if how == "probe":
            home.node.probe_errors.append(failure("engine_died", passing=True))
        else:
            for n in range(20):
                home.find().count(second, failed=n % 2 == 0)
        await home.until(lambda: home.live() == first, "back at the old one")
        await fra.until(fra.error, "fra hears of it")

        assert fra.live() == first
        assert fra.error().code == "canary_failed"
        assert "iad" in fra.error().message
        assert home.error().code in {"engine_died", "canary_failed"}
        assert len(fra.node.loads) == 1, "it was never tried there"
        await home.until(lambda: (second.id, "region") in home.node.unloads, "its memory is given back")
        await home.until(lambda: home.status()["state"] == "failed", "the pusher is told")

    again = fra.again()
    async with again.running():
        await asyncio.sleep(0.1)
        assert again.live() == first
        assert again.error().code == "canary_failed", "the reason outlives a restart"
        assert not again.node.loads[1:]


async def test_a_revision_that_does_not_even_start_at_the_canary_goes_nowhere():
    async with two() as (home, fra, first):
        home.node.probe_errors.append(failure("probe_failed"))
        with_manifest(home.disk, V2)
        await fra.until(fra.error, "refused everywhere")

        assert (home.live(), fra.live()) == (first, first)
        assert fra.error().code == "canary_failed"
        assert "the node says probe_failed" in fra.error().message
        with_manifest(home.disk, V2)
        await moved(fra, first, why="the same push again is tried again")
        assert fra.error() is None


async def test_no_row_says_a_move_beside_what_became_of_the_one_before():
    """A roll back right after a push that fell: whoever waits for it would take that push's fault for its own."""
    async with two() as (home, fra, first):
        home.node.probe_errors.append(failure("probe_failed"))
        with_manifest(home.disk, V2)
        await fra.until(fra.error, "refused everywhere")
        said, fell = [], Pointer.from_value(home.pointer())
        fra.own.before = fra.home.before = lambda *_: said.append((fra.find().pushed_s, fra.find().error))
        back = fell.turned(first, fell.pushed_s + 5)
        home.disk.put("nearfield-system", f"models/{MODEL}.json", back.to_json())
        await fra.until(lambda: fra.error() is None, "the roll back is heard")
        await fra.until(lambda: fra.written() and (back.pushed_s, None) in said, "it is written down")

        assert {(at, error and error.code) for at, error in said} == {
            (fell.pushed_s, "canary_failed"),
            (back.pushed_s, None),
        }


async def test_a_push_whose_verdict_cannot_be_read_yet_is_not_started_beyond_the_canary():
    """The first push had no canary, so who has read half of the second must not go by that."""
    async with two(bake_s=3600) as (home, fra, first):
        tries = []

        def fails_twice(op, _bucket, key):
            if op == "get" and key == f"canary/{MODEL}.json" and len(tries) < 2:
                tries.append(fra.find().candidate)
                raise StoreError("SlowDown", "later", 503)

        fra.home.before = fails_twice
        await pushed_over(home, V2, first)
        await fra.until(lambda: fra.find().waits_for == "iad", "it has read the verdict at last")

        assert tries == [None, None]
        assert (fra.live(), len(fra.node.loads)) == (first, 1)


async def test_a_push_during_a_bake_replaces_what_bakes():
    async with two(bake_s=3600) as (home, fra, first):
        second = await pushed_over(home, V2, first)
        await pushed_over(home, V3, first, second)
        put_rules(home.disk, canary={"bake_s": 0})
        await fra.until(lambda: fra.live() == home.live(), "the third is everywhere")
        await home.until(
            lambda: len(home.find().leases) == 0 and len(home.node.unloads) >= 2, "both are gone"
        )
        assert {revision for revision, _ in home.node.unloads} == {first, second}


async def test_a_canary_that_restarts_in_a_bake_bakes_again():
    home, fra, _ = trio()
    put_rules(home.disk, canary={"bake_s": 3600})
    async with fra.running():
        async with home.running():
            with_manifest(home.disk, V1)
            first = await both_live(home, fra)
            await pushed_over(home, V2, first)
            await home.until(lambda: home.written() == first, "written down")
        again = home.again()
        async with again.running():
            assert again.live() == first
            await moved(again, first, why="baking again")
            put_rules(home.disk, canary={"bake_s": 0})
            await fra.until(lambda: fra.live() == again.live(), "on everywhere")


async def test_a_region_alone_and_the_first_push_wait_for_nobody():
    home, fra, _ = trio()
    async with home.running(), fra.running():
        with_manifest(home.disk, V1, regions=("fra",))
        first = await fra.until_live()
        with_manifest(home.disk, V2, regions=("fra",))
        await moved(fra, first, why="at once")
        assert verdict(home) == {}


def test_who_goes_first():
    one = Pointer("a/b", "1" * 64)
    second = Pointer("a/b", "2" * 64, previous=("1" * 64,))
    fleet = ("iad", "fra", "nrt")

    assert canary_of(one, Canary(), fleet) is None
    assert canary_of(second, Canary(), fleet) == "iad"
    assert canary_of(second, Canary(("nrt", "fra")), fleet) == "nrt"
    abroad = Pointer("a/b", "2" * 64, previous=("1" * 64,), regions=("fra", "nrt"))
    assert canary_of(abroad, Canary(("iad",)), fleet) == "fra"
    assert canary_of(Pointer("a/b", "2" * 64, ("1" * 64,), ("fra",)), Canary(), fleet) is None


def test_a_verdict_is_about_one_move_unless_it_is_good():
    failed = Verdict("a/b", "2" * 64, 3, "iad", "failed", ModelFault("c", "m", "n"))
    passed = Verdict("a/b", "2" * 64, 3, "iad", "passed")
    pushed_again = Pointer("a/b", "2" * 64, serial=4)

    assert failed.is_about(Pointer("a/b", "2" * 64, serial=3))
    assert not failed.is_about(pushed_again)
    assert passed.is_about(pushed_again)
    assert not passed.is_about(Pointer("a/b", "3" * 64, serial=3))
    assert Verdict.from_json(failed.to_json()) == failed
    for bad in (b"{}", b"x", passed.to_json().replace(b"passed", b"maybe")):
        with pytest.raises(PointerError):
            Verdict.from_json(bad)


def test_a_few_failures_are_chance_and_many_are_not():
    assert not has_fallen(3, 3)
    assert has_fallen(4, 4)
    assert not has_fallen(1000, 100)
    assert has_fallen(1000, 101)
    assert RolloutState.LIVE

"""Regions that follow a home: live only after a probe, old until new, removed when told, back after a restart."""

import asyncio
import json

import pytest

from regions.deployments import DEFAULT_IDLE_TIMEOUT_S
from regions.map.policy import KeyGrant, PolicyRow
from regions.map.region import RolloutState, Tier
from regions.rollout import works
from regions.rows import encode
from tests.regions.folders import sharded, whole
from tests.regions.made_region import HOME_KEY, MODEL, Made, put_key
from tests.regions.pretend_node import failure
from tests.regions.test_ingest_pushes import with_manifest
from wire.refused.refusal import Refusal

V1, V2, V3 = (whole(fill=bytes([n])) for n in (1, 2, 3))


def pair():
    home = Made("iad")
    return home, Made("fra", home=home)


async def turned(home, fra, revision):
    """Both serve a revision that was there before, as a roll back makes them."""
    back = home.region.controller._tracked[MODEL].pointer.turned(revision, 7)
    home.disk.put("nearfield-system", f"models/{MODEL}.json", back.to_json())
    await fra.until_live(await home.until_live(revision))


async def test_a_push_goes_live_in_every_region_with_one_copy_over_the_wan():
    home, fra = pair()
    async with home.running(), fra.running():
        with_manifest(home.disk, sharded(3))
        revision = await home.until_live()
        await fra.until_live(revision)

        assert fra.blobs() == home.blobs()
        assert fra.node.loads == [(revision, "probe", DEFAULT_IDLE_TIMEOUT_S, 0)]
        assert fra.node.probes == [revision, revision], "cold and warm"
        await fra.until(lambda: fra.written() == revision, "written down: live comes first")
        assert fra.deployments.tier(fra.find()) is Tier.REGION
        streamed = [key for op, bucket, key in fra.home.log if (op, bucket) == ("stream", "nearfield-blobs")]
        assert sorted(streamed) == sorted(home.blobs())


async def test_a_region_that_is_not_named_serves_nothing_and_the_home_keeps_the_bytes_for_the_one_that_is():
    home, fra = pair()
    async with home.running(), fra.running():
        with_manifest(home.disk, V1, regions=("fra",))
        revision = await fra.until_live()
        await home.until(lambda: (home.status() or {}).get("revision") == revision, "told")

        assert home.live() is None
        assert home.find() is None
        assert len(home.blobs()) == 3
        await home.region.controller.sweep(9e12)
        assert len(home.blobs()) == 3
        assert home.status()["revision"] == revision


async def test_the_old_revision_serves_until_the_new_one_has_passed_its_probe():
    made = Made()
    async with made.running():
        with_manifest(made.disk, V1)
        first = await made.until_live()
        at_load = []
        made.node.on_load = lambda: at_load.append((made.live(), made.find().candidate.id))
        with_manifest(made.disk, V2)
        await made.until(lambda: made.live() not in {None, first}, "replaced")

        assert at_load == [(first, made.live())]
        await made.until(lambda: (first, "region") in made.node.unloads, "the old one is unloaded")


async def test_a_draining_revision_waits_for_its_requests():
    made = Made()
    async with made.running():
        with_manifest(made.disk, V1)
        first = await made.until_live()
        deployment, leased = made.find(), made.find().live
        deployment.lease(leased)
        with_manifest(made.disk, V2)
        await made.until(lambda: made.live() not in {None, first}, "replaced")
        await asyncio.sleep(0.25)
        assert not made.node.unloads
        deployment.release(leased)
        await made.until(lambda: made.node.unloads, "unloaded")


async def test_who_still_comes_does_not_keep_a_model_that_was_taken_out(monkeypatch):
    """Under load there was never a moment without a request: it served on until the drain's end cut some of them."""
    monkeypatch.setattr(works, "LAST_CALL_S", 0.0)
    made = Made()
    async with made.running():
        with_manifest(made.disk, V1)
        first = await made.until_live()
        deployment, leased = made.find(), made.find().live
        deployment.lease(leased)
        pointer = made.disk.buckets["nearfield-system"][f"models/{MODEL}.json"].data
        made.disk.delete("nearfield-system", f"models/{MODEL}.json")
        await made.until(lambda: deployment.closed == first, "closed")
        assert made.find().live is leased, "the request that is under way is answered"
        made.disk.put("nearfield-system", f"models/{MODEL}.json", pointer)
        await made.until(lambda: not deployment.closed, "open again: it is wanted after all")
        deployment.release(leased)


async def test_a_model_that_was_removed_is_at_no_moment_on_its_way():
    """Until its last blob was deleted, requests were told to ask again shortly (503), for a model that is gone."""
    home, fra = pair()
    seen = {made.name: set() for made in (home, fra)}
    async with home.running(), fra.running():
        with_manifest(home.disk, V1)
        await fra.until_live(await home.until_live())
        for made in (home, fra):
            made.own.before = lambda *_, made=made: seen[made.name].add(
                found.live if (found := made.find()) else "gone"
            )
        served = {made.name: made.find().live for made in (home, fra)}
        home.disk.delete("nearfield-system", f"models/{MODEL}.json")
        for made in (home, fra):
            await made.until(lambda made=made: not made.blobs(), "its bytes are gone")

    assert seen == {name: {revision, "gone"} for name, revision in served.items()}


async def test_a_push_of_what_is_just_being_deleted_keeps_its_revision():
    """`rm`, then the same bytes again: the second push pins what it is about to write."""
    made = Made()
    async with made.running():
        with_manifest(made.disk, V1)
        first = await made.until_live()
        holdings = made.region.controller._holdings
        with holdings.pinned({first}):
            made.disk.delete("nearfield-system", f"models/{MODEL}.json")
            await made.until(lambda: not made.blobs(), "its bytes are gone")
            async with holdings.asked(first) as is_needed:  # in its turn, after whoever deletes
                assert is_needed
            assert made.system(f"revisions/{first}.json") is not None


@pytest.mark.parametrize("step", ["load", "probe"])
async def test_a_failed_candidate_keeps_the_old_one_and_says_why(step):
    made = Made()
    async with made.running():
        with_manifest(made.disk, V1)
        first = await made.until_live()
        getattr(made.node, f"{step}_errors").append(failure("probe_failed"))
        with_manifest(made.disk, V2)
        await made.until(made.error, "failed")

        assert made.live() == first
        assert made.find().state is RolloutState.LIVE
        assert made.error().code == "probe_failed"
        await made.until(lambda: made.status()["state"] == "failed", "told")
        assert made.status()["next"] == "do something"

    again = made.again()
    async with again.running():
        assert again.live() == first
        assert again.error().code == "probe_failed"
        await asyncio.sleep(0.05)
        assert len(again.node.loads) == 2, "what failed is not tried at every start"

        with_manifest(again.disk, V2)
        await again.until(lambda: again.live() not in {None, first}, "tried again after the next push")
        assert again.error() is None


async def test_a_first_push_that_fails_its_probe_is_shown_as_failed():
    made = Made()
    made.node.probe_errors.append(failure("probe_failed"))
    async with made.running():
        with_manifest(made.disk, V1)
        await made.until(made.error, "failed")

        assert made.find().state is RolloutState.FAILED
        assert made.live() is None


async def test_a_node_that_is_away_or_busy_is_waited_for():
    made = Made()
    async with made.running():
        made.node.load_errors += [
            failure("memory_short", passing=True),
            failure("node_unreachable", passing=True),
        ]
        with_manifest(made.disk, V1)
        await made.until_live()

        assert len(made.node.loads) == 3
        assert made.error() is None


async def test_a_model_that_kills_its_engine_is_not_tried_for_ever(monkeypatch):
    monkeypatch.setattr("regions.rollout.works.PAUSE_S", 0.001)
    made = Made()
    made.node.probe_errors += [failure("engine_died", passing=True) for _ in range(9)]
    async with made.running():
        with_manifest(made.disk, V1)
        await made.until(lambda: made.error() and made.find().state is RolloutState.FAILED, "failed")

        assert len(made.node.probes) == 3


async def test_rm_takes_it_out_everywhere_and_frees_the_blobs():
    home, fra = pair()
    async with home.running(), fra.running():
        with_manifest(home.disk, V1)
        with_manifest(home.disk, V2, model="acme/other")
        for made in (home, fra):
            await made.until_live()
            await made.until_live(model="acme/other")
        home.disk.delete("nearfield-system", f"models/{MODEL}.json")
        for made in (home, fra):
            await made.until(lambda made=made: made.find() is None, "gone")
            await made.until(
                lambda made=made: len(made.blobs()) == 3, "its own blob is gone, the shared ones are not"
            )
            assert made.live("acme/other")
            assert made.system(f"local/pointers/{MODEL}.json") is None

        await asyncio.sleep(0.1)
        assert home.pointer() is None, "the unchanged prefix is not committed again"


async def test_rm_of_a_model_that_the_home_itself_does_not_serve_frees_its_blobs_too():
    home, fra = pair()
    async with home.running(), fra.running():
        with_manifest(home.disk, V1, regions=("fra",))
        await fra.until_live()
        home.disk.delete("nearfield-system", f"models/{MODEL}.json")
        for made in (home, fra):
            await made.until(lambda made=made: not made.blobs(), "no blob left")


async def test_a_removed_model_can_be_pushed_again():
    made = Made()
    async with made.running():
        with_manifest(made.disk, V1)
        first = await made.until_live()
        made.disk.delete("nearfield-system", f"models/{MODEL}.json")
        await made.until(lambda: made.find() is None, "gone")
        with_manifest(made.disk, V1)
        assert await made.until_live() == first


async def test_a_roll_back_is_a_move_of_the_pointer():
    home, fra = pair()
    async with home.running(), fra.running():
        with_manifest(home.disk, V1)
        first = await fra.until_live(await home.until_live())
        for number, folder in enumerate((V2, V3), 2):
            before = home.live()
            with_manifest(home.disk, folder)
            for made in (home, fra):
                await made.until(
                    lambda made=made, before=before: made.live() not in {None, before}, f"{number} is live"
                )
        await fra.until(lambda: len(fra.blobs()) == 4, "fra keeps the last one and lets the first go")
        assert len(home.blobs()) == 5, "home keeps what a roll back may name"
        third, (second, oldest) = home.live(), home.pointer()["previous"]
        assert oldest == first

        fra.home.log.clear()
        await turned(home, fra, second)
        assert [key for op, bucket, key in fra.home.log if bucket == "nearfield-blobs"] == [], "it was kept"
        await turned(home, fra, first)
        assert home.pointer()["previous"] == [second, third]


async def test_a_roll_back_after_a_refused_push_is_not_told_that_refusal():
    home, fra = pair()
    async with home.running(), fra.running():
        with_manifest(home.disk, V1)
        first = await fra.until_live(await home.until_live())
        with_manifest(home.disk, V2)
        await home.until(lambda: home.live() not in {None, first}, "the second is live")
        with_manifest(home.disk, V3 | {"model.safetensors": b"no weights"})
        await home.until(lambda: home.status()["state"] == "refused" and home.error(), "the third is refused")

        said, second = set(), home.find().pushed_s
        home.own.before = lambda *_: said.add((home.find().pushed_s, home.error() is None))
        await turned(home, fra, first)
        moved = home.pointer()["pushed_s"]
        await home.until(lambda: home.find().pushed_s == moved, "the row says the move")
        home.own.before()
        await home.until(lambda: home.written() == first, "written down")

        assert home.error() is None
        assert said == {(second, False), (moved, True)}
        assert home.status()["state"] == "refused", "beside the files that lie there"
    again = home.again()
    async with again.running():
        tracked = again.region.controller._tracked
        await again.until(
            lambda: MODEL in tracked and tracked[MODEL].refusal, "what was decided is read again"
        )
        assert again.error() != tracked[MODEL].refusal
        await again.until_live(first)


async def test_a_sweep_that_sees_a_push_first_does_not_hide_it_from_the_rollout():
    """Of a push of what failed before: the second try is caused by the move, which the rollout must still see."""
    made = Made()
    async with made.running():
        with_manifest(made.disk, V1)
        first = await made.until_live()
        made.node.probe_errors.append(failure("probe_failed"))
        with_manifest(made.disk, V2)
        await made.until(made.error, "the second fell")
        await made.until(lambda: made.status()["state"] == "failed", "all of it is written")
        fell = made.pointer()
    again = made.again()
    await again.region.recover()
    again.disk.put(
        "nearfield-system",
        f"models/{MODEL}.json",
        json.dumps(fell | {"serial": fell["serial"] + 1, "pushed_s": fell["pushed_s"] + 1}).encode(),
    )
    await again.region.controller.sweep(0.0)
    await again.region.controller.step(MODEL)
    try:
        await again.until(lambda: again.live() not in {None, first}, "it is tried once more")
        assert again.status()["pushed_s"] == again.find().pushed_s == fell["pushed_s"] + 1
    finally:
        await again.region.controller.close()


async def test_scale_changes_settings_without_a_rollout():
    made = Made()
    async with made.running():
        with_manifest(made.disk, V1)
        await made.until_live()
        pointer = made.region.controller._tracked[MODEL].pointer
        changed = pointer.from_value({**made.pointer(), "min_replicas": 2, "idle_timeout_s": 5, "serial": 2})
        made.disk.put("nearfield-system", f"models/{MODEL}.json", changed.to_json())
        await made.until(lambda: made.find().min_replicas == 2, "scaled")

        assert made.find().idle_timeout_s == 5.0
        assert len(made.node.loads) == 1


async def test_a_restart_serves_from_local_copies_with_the_home_dead():
    home, fra = pair()
    async with home.running(), fra.running():
        with_manifest(home.disk, V1)
        revision = await fra.until_live()
    again = fra.again()
    again.home.offline = True
    async with again.running():
        assert again.live() == revision, "at once, before anything was asked of the home"
        assert again.deployments.tier(again.find()) is Tier.REGION
        assert again.deployments.policy_line == fra.deployments.policy_line
        await asyncio.sleep(0.05)
        assert again.live() == revision

        again.home.offline = False
        async with home.again().running() as home_again:
            with_manifest(home.disk, V2)
            second = await home_again.until_live()
            await again.until(lambda: again.live() not in {None, revision}, "follows again")
            assert second in {revision, again.live()}


async def test_a_home_that_lost_its_data_takes_nothing_down():
    home, fra = pair()
    async with home.running(), fra.running():
        with_manifest(home.disk, V1)
        revision = await fra.until_live()
    home.disk.buckets = {"nearfield-system": {}, "nearfield-blobs": {}, "models": {}}
    home.disk.events.clear()
    again = fra.again()
    async with again.running():
        await asyncio.sleep(0.2)
        assert again.live() == revision


async def test_a_region_cooled_to_origin_pulls_its_blobs_again():
    home, fra = pair()
    async with home.running(), fra.running():
        with_manifest(home.disk, V1)
        await fra.until_live()
        deployment = fra.find()

        assert await deployment.cool_to_origin() == sum(map(len, V1.values()))
        assert fra.deployments.tier(deployment) is Tier.ORIGIN
        assert fra.blobs() == set()
        assert (
            await asyncio.gather(*(deployment.ensure_in_region() for _ in range(5)))
            == [sum(map(len, V1.values()))] * 5
        )
        assert fra.deployments.tier(deployment) is Tier.REGION
        assert fra.blobs() == home.blobs()
        assert await deployment.ensure_in_region() == 0
        assert await home.find().cool_to_origin() == 0
        assert home.deployments.tier(home.find()) is Tier.REGION


async def test_a_restart_after_cooling_knows_that_the_bytes_are_at_the_origin(monkeypatch):
    monkeypatch.setattr("regions.rollout.replicate.RESUME_PAUSE_S", 0.001)
    home, fra = pair()
    async with home.running(), fra.running():
        with_manifest(home.disk, V1)
        await fra.until_live()
        await fra.find().cool_to_origin()
    again = fra.again()
    again.home.offline = True
    async with again.running():
        assert again.live()
        assert again.deployments.tier(again.find()) is Tier.ORIGIN
        with pytest.raises(Refusal) as caught:
            await again.find().ensure_in_region()
        assert caught.value.status == 503


async def test_a_region_retired_by_the_pointer_drains_and_forgets():
    home, fra = pair()
    async with home.running(), fra.running():
        with_manifest(home.disk, V1)
        revision = await fra.until_live(await home.until_live())
        with_manifest(home.disk, V1, regions=("iad",))
        await fra.until(lambda: fra.find() is None and not fra.blobs(), "gone from fra")

        assert home.live() == revision


async def test_the_policy_is_signed_at_home_and_copied_byte_for_byte():
    home, fra = pair()
    async with home.running(), fra.running():
        await fra.until(lambda: fra.deployments.policy_line, "a policy")
        first = fra.region.policy.row
        put_key(home.disk, "b" * 64, ("infer", "admin"))
        await fra.until(lambda: len(fra.region.policy.row.keys) == 2, "the new key")

        assert fra.region.policy.row.seq == first.seq + 1
        assert fra.region.policy.row.keys["b" * 64] == KeyGrant("default", frozenset({"infer", "admin"}))
        assert fra.deployments.policy_line == home.deployments.policy_line
        home.disk.delete("nearfield-system", f"keys/{'b' * 64}.json")
        await fra.until(lambda: len(fra.region.policy.row.keys) == 1, "revoked")


async def test_an_old_or_forged_policy_is_not_taken():
    home, fra = pair()
    async with home.running(), fra.running():
        await fra.until(lambda: fra.deployments.policy_line, "a policy")
        line, row = fra.deployments.policy_line, fra.region.policy.row
        older = encode(PolicyRow(row.epoch - 1, 9, {"c" * 64: KeyGrant("x", frozenset({"admin"}))}), HOME_KEY)
        for bad in (older, b"garbage", line[:-5] + b"00000"):
            await fra.region.policy.take(bad)
            assert fra.deployments.policy_line == line


async def test_a_restart_of_the_home_signs_nothing_new():
    made = Made()
    async with made.running():
        await made.until(lambda: made.deployments.policy_line, "a policy")
    again = made.again()
    put_key(again.disk)
    async with again.running():
        await asyncio.sleep(0.05)
        assert again.deployments.policy_line == made.deployments.policy_line


async def test_a_malformed_key_object_grants_nothing_and_harms_no_other():
    made = Made()
    made.disk.put("nearfield-system", "keys/" + "d" * 64 + ".json", b"{not json")
    made.disk.put(
        "nearfield-system",
        "keys/" + "e" * 64 + ".json",
        made.disk.buckets["nearfield-system"]["keys/" + "a" * 64 + ".json"].data,
    )
    async with made.running():
        await made.until(lambda: made.deployments.policy_line, "a policy")
        assert set(made.region.policy.row.keys) == {"a" * 64}


async def test_damaged_objects_in_the_system_bucket_are_no_crash():
    made = Made()
    made.disk.put("nearfield-system", "models/acme/damaged.json", b"\xff\x00garbage")
    made.disk.put("nearfield-system", "models/not-a-model.json", b"{}")
    async with made.running():
        with_manifest(made.disk, V1)
        await made.until_live()


async def test_a_revision_object_that_is_not_what_its_name_says_is_refused():
    home, fra = pair()
    async with home.running():
        with_manifest(home.disk, V1)
        revision = await home.until_live()
        with_manifest(home.disk, V2, model="acme/other")
        other = await home.until_live(model="acme/other")
        objects = home.disk.buckets["nearfield-system"]
        objects[f"revisions/{revision}.json"] = objects[f"revisions/{other}.json"]
        async with fra.running():
            await fra.until(fra.error, "refused")
            assert fra.error().code == "bad_revision"
            await fra.until_live(model="acme/other")

"""`org/model@preview`: a name of its own for revisions of a model, with no second copy of any byte."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from regions.deployments import Deployment
from regions.map.names import BadNameError, ModelName, base_of, is_preview
from regions.map.policy import Canary, KeyGrant, Rules
from regions.objects.pointer import first_pointer
from regions.places import resident
from regions.rollout.canary import canary_of
from regions.rollout.tracked import Tracked
from tests.regions.folders import whole
from tests.regions.made_region import MODEL, Made, put_rules
from tests.regions.made_revision import revision_of
from tests.regions.pretend_node import failure
from tests.regions.test_ingest_pushes import with_manifest
from weights_cache.model.revision import Spec

V1, V2, V3 = (whole(fill=bytes([n])) for n in (1, 2, 3))
PREVIEW = f"{MODEL}@pr-1"


@asynccontextmanager
async def previewed(folder=V2, bake_s=3600):
    """(home, fra): V1 is live, and `folder` is live as its preview."""
    home = Made("iad")
    put_rules(home.disk, canary={"bake_s": bake_s})
    fra = Made("fra", home=home)
    async with home.running(), fra.running():
        with_manifest(home.disk, V1)
        await fra.until_live(await home.until_live())
        with_manifest(home.disk, folder, PREVIEW)
        await fra.until_live(await home.until_live(model=PREVIEW), model=PREVIEW)
        yield home, fra


def promoted(home, revision):
    turned = home.region.controller._tracked[MODEL].pointer.turned(revision, 7)
    home.disk.put("nearfield-system", f"models/{MODEL}.json", turned.to_json())


def remove(home, model):
    for key in home.disk.keys("models", f"{model}/"):
        home.disk.delete("models", key)
    home.disk.delete("nearfield-system", f"models/{model}.json")


@pytest.mark.parametrize("text", ["acme/m", "acme/m@pr-1", "acme/m@0", "a.b/c_d@" + "x" * 32])
def test_a_preview_has_a_name(text):
    assert str(ModelName.parse(text)) == text
    assert is_preview(text) == ("@" in text)
    assert base_of(text) == text.partition("@")[0]


@pytest.mark.parametrize(
    "text",
    ["acme/m@", "acme/m@-a", "acme/m@A", "acme/m@a@b", "acme@a/m", "@a", "acme/m@" + "x" * 33, "acme/m@a/b"],
)
def test_what_is_no_preview_has_none(text):
    with pytest.raises(BadNameError):
        ModelName.parse(text)


def test_rules_of_a_model_hold_for_its_previews_and_its_grant_does_not():
    rules = Rules(residency={"acme/m": ("fra",)})

    assert resident(rules, "t", PREVIEW, ()) == {"fra"}
    assert not KeyGrant("t", frozenset(), ("acme/m",)).names(PREVIEW)
    assert KeyGrant("t", frozenset(), ("acme/*",)).names(PREVIEW)
    assert KeyGrant("t", frozenset(), (PREVIEW,)).names(PREVIEW)


def test_a_preview_keeps_nothing_awake_and_waits_for_no_canary():
    revision, other = (replace(revision_of(each), spec=Spec(min_replicas=2)) for each in (V1, V2))
    pointer = first_pointer(revision, "f", 1, model=PREVIEW).moved(other, "g", 2)

    tracked = Tracked(PREVIEW, Deployment(PREVIEW, None))
    tracked.take(pointer, "iad", 300.0)

    assert (pointer.model, pointer.min_replicas, tracked.deployment.num_kept) == (PREVIEW, 2, 0)
    assert first_pointer(revision, "f", 1).promoted(pointer, 3, at_once=True).min_replicas == 2
    assert canary_of(pointer, Canary(), ("iad", "fra")) is None


def test_what_was_proven_waits_for_no_canary_and_the_next_push_does():
    first, second, third = (revision_of(each) for each in (V1, V2, V3))
    pushed = first_pointer(first, "f", 1).moved(second, "g", 2)
    back = pushed.turned(first.id, 3)

    assert (back.revision, back.previous, back.fingerprint) == (first.id, (second.id,), "g")
    assert back.serial == pushed.serial + 1
    assert [canary_of(each, Canary(), ("iad", "fra")) for each in (pushed, back)] == ["iad", None]
    assert canary_of(back.moved(third, "h", 4), Canary(), ("iad", "fra")) == "iad"
    assert canary_of(pushed.turned(first.id, 3, at_once=False), Canary(), ("iad", "fra")) == "iad"


async def test_a_preview_serves_beside_its_model_without_baking():
    async with previewed() as (home, fra):
        assert home.live(PREVIEW) == fra.live(PREVIEW) != home.live()
        assert home.find(PREVIEW).live.model == MODEL, "a revision is of the model"
        assert home.find(PREVIEW).baking == ""
        assert home.system(f"proofs/{home.live(PREVIEW)}/fra.json")["model"] == PREVIEW


async def test_a_preview_of_the_same_bytes_is_the_same_revision_and_no_blob_more():
    async with previewed(V1) as (home, fra):
        assert home.live(PREVIEW) == home.live()
        assert home.blobs() == fra.blobs() == {each.blake3 for each in home.find().live.files}
        blobs = home.blobs()
        remove(home, PREVIEW)
        await fra.until(lambda: fra.find(PREVIEW) is None, "the preview is gone")
        await home.until(lambda: home.find(PREVIEW) is None, "at home too")

        assert home.live() == fra.live(), "the model serves on"
        assert (home.blobs(), fra.blobs()) == (blobs, blobs)
        assert home.system(f"revisions/{home.live()}.json")
        assert home.system(f"proofs/{home.live()}/iad.json")["ok"]
        assert not home.node.unloads, "its worker is the model's"
        assert not fra.node.unloads


async def test_a_preview_that_is_removed_takes_its_bytes_with_it():
    async with previewed() as (home, fra):
        second = home.live(PREVIEW)
        assert len(home.blobs()) == 4
        remove(home, PREVIEW)
        await home.until(lambda: len(home.blobs()) == 3, "at home")
        await fra.until(lambda: len(fra.blobs()) == 3, "abroad")
        await fra.until(lambda: (second, "region") in fra.node.unloads, "unloaded")

        await home.until(lambda: home.system(f"revisions/{second}.json") is None, "its record goes last")
        assert home.live() == fra.live() is not None


async def test_a_promotion_moves_no_byte_and_waits_for_no_bake():
    async with previewed() as (home, fra):
        first, second = home.live(), home.live(PREVIEW)
        for made in (home, fra):
            made.own.log.clear()
        fra.home.log.clear()
        promoted(home, second)
        await fra.until_live(await home.until_live(second))

        touched = [
            (op, bucket)
            for log in (home.own.log, fra.own.log, fra.home.log)
            for op, bucket, _key in log
            if bucket == "nearfield-blobs" and op != "head"
        ]
        assert touched == [], "no byte of a blob is read or written"
        assert home.pointer()["previous"] == [first]
        assert home.find().baking == ""
        remove(home, PREVIEW)
        await home.until(lambda: home.find(PREVIEW) is None, "the preview goes")
        assert home.live() == second
        assert (second, "region") not in home.node.unloads


async def test_a_restart_after_a_roll_back_does_not_commit_the_push_again():
    home = Made("iad")
    async with home.running():
        with_manifest(home.disk, V1)
        first = await home.until_live()
        with_manifest(home.disk, V2)
        await home.until(lambda: home.live() not in {None, first}, "the second is live")
        await home.until(lambda: home.system(f"judged/{MODEL}.json"), "written down")
        second = home.live()
        promoted(home, first)
        await home.until_live(first)
        await home.until(lambda: home.written() == first, "written down")
    again = home.again()
    async with again.running():
        await again.until_live(first)
        await asyncio.sleep(0.2)
        assert again.pointer()["revision"] == first
        with_manifest(again.disk, V2)
        await again.until_live(second)


async def test_a_preview_that_fails_its_probe_harms_nobody():
    home = Made("iad")
    async with home.running():
        with_manifest(home.disk, V1)
        first = await home.until_live()
        home.node.probe_errors.append(failure("probe_failed"))
        with_manifest(home.disk, V3, PREVIEW)
        await home.until(lambda: home.error(PREVIEW), "refused")

        assert (home.live(), home.live(PREVIEW), home.error()) == (first, None, None)
        assert not home.system(f"proofs/{home.pointer(PREVIEW)['revision']}/iad.json")["ok"]

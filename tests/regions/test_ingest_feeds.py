"""What becomes of a push does not depend on how its changes are heard: each case on our feed and on listings.

What is committed is always, whole, one of the folders that somebody pushed.
"""

import asyncio
import random
from functools import partial

import pytest
from blake3 import blake3

from regions.objects.changes import ListFeed
from tests.evidence import count
from tests.regions.folders import INDEX, sharded, whole
from tests.regions.made_region import MODEL, PATIENCE, Made
from tests.regions.test_ingest_pushes import with_manifest

LONG = PATIENCE.__class__(60.0, 60.0, 60.0)
PAUSE_S = PATIENCE.quiet_s * 1.5
SHARD = "model-00002-of-00003.safetensors"


@pytest.fixture(params=[True, False], ids=["our feed", "listings"])
def made(request, monkeypatch):
    monkeypatch.setattr("regions.objects.changes.ListFeed", partial(ListFeed, period_s=0.01))
    return Made(feed=request.param)


def hashes(files):
    return {path: blake3(data).hexdigest() for path, data in files.items()}


def committed(made):
    """What the live revision is made of."""
    return {each.path: each.blake3 for each in made.find().live.files}


async def until_live_as(made, files):
    await made.until(
        lambda: (
            made.live() and made.pointer()["revision"] == made.live() and committed(made) == hashes(files)
        ),
        "live as pushed",
    )


async def until_refused(made, code):
    await made.until(lambda: (made.status() or {}).get("code") == code, code)
    assert made.status()["state"] == "refused"
    assert made.status()["next"]


@pytest.mark.parametrize("files", [whole(), sharded(3)], ids=["single", "sharded"])
async def test_a_manifest_written_last_is_the_commit(made, files):
    async with made.running():
        made.region.ingest._patience = LONG
        made.disk.push(MODEL, files)
        await asyncio.sleep(PAUSE_S)
        assert made.pointer() is None, "nobody waits a minute here: the manifest is what is missing"
        with_manifest(made.disk, files)
        await until_live_as(made, files)


@pytest.mark.parametrize("seed", range(count(4, 40)))
async def test_index_and_shards_in_any_order(made, seed):
    files = sharded(3)
    paths = random.Random(seed).sample(sorted(files), len(files))
    async with made.running():
        for path in paths:
            assert made.pointer() is None, f"before {path}"
            made.disk.push(MODEL, {path: files[path]})
            await asyncio.sleep(PAUSE_S)
        await until_live_as(made, files)


async def test_one_file_is_a_model(made):
    async with made.running():
        made.disk.push(MODEL, whole())
        await until_live_as(made, whole())


async def test_an_index_of_an_older_push_is_told_and_its_removal_mends_it(made):
    async with made.running():
        made.disk.push(MODEL, {**whole(), INDEX: sharded(3)[INDEX]})
        await until_refused(made, "missing_shard")
        assert "older push" in made.status()["next"]
        assert made.pointer() is None

        made.disk.delete("models", f"{MODEL}/{INDEX}")
        await until_live_as(made, whole())


async def test_an_older_index_over_newer_shards_is_no_model(made):
    """The same names, another map: tensors would be looked for where they are not."""
    new = sharded(3)
    names = sorted(path for path in new if path.startswith("model-"))
    swapped = {**new, names[0]: new[names[1]], names[1]: new[names[0]]}
    async with made.running():
        made.disk.push(MODEL, swapped)
        await until_refused(made, "index_mismatch")
        assert made.pointer() is None
        made.disk.push(MODEL, new)
        await until_live_as(made, new)


async def test_a_missing_shard_is_waited_for_then_told_then_taken(made):
    files = sharded(3)
    async with made.running():
        made.disk.push(MODEL, {path: data for path, data in files.items() if path != SHARD})
        await until_refused(made, "missing_shard")
        assert SHARD in made.status()["message"]
        assert made.pointer() is None

        made.disk.push(MODEL, {SHARD: files[SHARD]})
        await until_live_as(made, files)


@pytest.mark.parametrize("cut", [1, 4])
async def test_a_truncated_shard_is_told_and_the_whole_one_taken(made, cut):
    files = sharded(3)
    async with made.running():
        made.disk.push(MODEL, {**files, SHARD: files[SHARD][:-cut]})
        await made.until(lambda: (made.status() or {}).get("state") == "refused", "refused")
        assert SHARD in made.status()["message"]
        assert made.pointer() is None

        made.disk.push(MODEL, {SHARD: files[SHARD]})
        await until_live_as(made, files)


READS = {"get", "stream", "chunk", "copy", "list"}


def at_moment(made, moment, what):
    """Does `what` once, before the region's operation number `moment` on the bucket; whether it has."""
    seen, done = [], []

    def before(op, bucket, key):
        if bucket == "models" and op in READS and made.disk.keys("models", MODEL + "/") and not done:
            seen.append(op)
            if len(seen) == moment:
                done.append(moment)
                what()

    made.own.before = before
    return done


MOMENTS = range(1, 90, count(11, 1))


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_shard_overwritten_during_the_commit(made, moment):
    """One shard of a newer push, at any moment, the rest behind it: old or new in the end, and at no time both."""
    old, new = sharded(3, fill=b"\x01"), sharded(3, fill=b"\x02")
    done = at_moment(made, moment, lambda: made.disk.push(MODEL, {SHARD: new[SHARD]}))
    async with made.running():
        with_manifest(made.disk, old)
        await made.until(lambda: done or made.live(), "overwritten or over")
        if made.live():
            assert committed(made) == hashes(old)
        with_manifest(made.disk, new)
        await until_live_as(made, new)
        for revision in (made.pointer()["revision"], *made.pointer()["previous"]):
            files = {
                each["path"]: each["blake3"] for each in made.system(f"revisions/{revision}.json")["files"]
            }
            assert files in (hashes(old), hashes(new))


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_deletion_in_between(made, moment):
    """A shard goes at any moment of the commit: what was committed by then stays, else there is no model."""
    files = sharded(3)
    done = at_moment(made, moment, lambda: made.disk.delete("models", f"{MODEL}/{SHARD}"))
    async with made.running():
        with_manifest(made.disk, files)
        await made.until(lambda: done or made.live(), "deleted or over")
        await asyncio.sleep(PATIENCE.grace_s * 2)
        if made.pointer() is not None:
            await until_live_as(made, files)
        made.own.before = lambda op, bucket, key: None
        made.disk.push(MODEL, {SHARD: files[SHARD]})
        with_manifest(made.disk, files)
        await until_live_as(made, files)


async def test_a_prefix_deleted_between_two_pushes(made):
    async with made.running():
        made.disk.push(MODEL, sharded(3))
        await until_live_as(made, sharded(3))
        for key in made.disk.keys("models", f"{MODEL}/"):
            made.disk.delete("models", key)
        made.disk.push(MODEL, whole(fill=b"\x05"))
        await until_live_as(made, whole(fill=b"\x05"))


@pytest.mark.parametrize("seed", range(count(6, 100)))
async def test_two_pushes_at_once(made, seed):
    """Files and manifests of two pushers in any order: one of them, whole, or only a word; then who comes last."""
    draw = random.Random(seed)
    pushes = [sharded(3, fill=b"\x01"), sharded(3, fill=b"\x02")]
    left = [[*draw.sample(sorted(files), len(files)), "manifest.json"] for files in pushes]
    seen = set()
    async with made.running():
        while any(left):
            number = draw.choice([n for n in (0, 1) if left[n]])
            path = left[number].pop(0)
            if path == "manifest.json":
                manifest_of(made.disk, pushes[number])
            else:
                made.disk.push(MODEL, {path: pushes[number][path]})
            if draw.random() < 0.5:
                await asyncio.sleep(PATIENCE.quiet_s * draw.random())
            seen |= {made.pointer()["revision"]} if made.pointer() else set()
        await asyncio.sleep(PATIENCE.grace_s * 2)
        with_manifest(made.disk, pushes[1])
        await until_live_as(made, pushes[1])
        seen |= {made.pointer()["revision"], *made.pointer()["previous"]}

    for revision in seen:
        found = made.system(f"revisions/{revision}.json")
        if found is not None:
            assert {each["path"]: each["blake3"] for each in found["files"]} in map(hashes, pushes)


def manifest_of(disk, files):
    """A manifest that names the pusher's own files, whatever lies there by then."""
    from hashlib import md5

    from regions.push.manifest import Manifest, ManifestFile

    entries = tuple(
        ManifestFile(path, len(data), md5(data, usedforsecurity=False).hexdigest())
        for path, data in files.items()
    )
    disk.put("models", f"{MODEL}/manifest.json", Manifest(entries).to_json())

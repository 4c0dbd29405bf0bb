"""Pushes by any client into a home region on dictionaries: what is committed, what is refused, and when."""

import asyncio
import json

import pytest
from blake3 import blake3

from regions.map.region import RolloutState
from regions.push.manifest import Manifest, ManifestFile
from storage.client.sdk import StoreError
from tests.regions.folders import sharded, whole
from tests.regions.made_region import MODEL, PATIENCE, STRIDE, Made
from tests.regions.pretend_node import FACTS, failure
from tests.regions.test_commit_verdicts import REFUSALS


def with_manifest(disk, files, model=MODEL, **kwargs):
    """What `nearfield push` does: files first, the manifest last."""
    etags = {path: disk.put("models", f"{model}/{path}", data) for path, data in files.items()}
    entries = tuple(ManifestFile(path, len(data), etags[path]) for path, data in files.items())
    disk.put("models", f"{model}/manifest.json", Manifest(entries, **kwargs).to_json())


@pytest.mark.parametrize("feed", [True, False], ids=["our feed", "another S3"])
@pytest.mark.parametrize("files", [whole(), sharded(3)], ids=["single", "sharded"])
async def test_a_push_by_any_s3_client_becomes_a_live_model(files, feed):
    made = Made(feed=feed)
    async with made.running():
        made.disk.push(MODEL, files)
        revision = await made.until_live()

        assert made.pointer()["revision"] == revision
        assert made.blobs() == {blake3(data).hexdigest() for data in files.values()}
        await made.until(lambda: (made.status() or {}).get("state") == "live", "told")
        assert made.status()["revision"] == revision
        assert made.system(f"revisions/{revision}.json")["model"] == MODEL
        assert made.node.inspects[0][0:2] == ("models", "acme/m/")


async def test_a_manifest_is_committed_without_a_quiet_period():
    made = Made()
    async with made.running():
        made.region.ingest._patience = PATIENCE.__class__(60.0, 60.0, 60.0)
        with_manifest(made.disk, whole(), regions=("iad",))
        await made.until_live()

        assert made.pointer()["regions"] == ["iad"]


@pytest.mark.parametrize("code", REFUSALS)
async def test_bad_input_is_refused_in_the_bucket_and_in_the_row(code):
    made = Made()
    async with made.running():
        made.disk.push(MODEL, REFUSALS[code])
        await made.until(lambda: (made.status() or {}).get("state") == "refused", "refused")

        status, error = made.status(), made.error()
        assert (status["code"], error.code) == (code, code)
        assert status["message"] == error.message
        assert status["next"] == error.next
        assert error.next
        assert made.find().state is RolloutState.FAILED
        assert made.pointer() is None
        assert made.blobs() == set()


@pytest.mark.parametrize("error", ["unsupported_architecture", "bad_tokenizer"])
async def test_what_transformers_refuses_is_refused_at_push_time(error):
    made = Made()
    made.node.inspect_errors = [failure(error)]
    async with made.running():
        made.disk.push(MODEL, whole())
        await made.until(lambda: made.status() is not None, "told")

        assert made.status()["code"] == error
        assert made.pointer() is None


async def test_a_model_that_does_not_fit_is_refused_with_the_figures():
    made = Made()
    made.node.budget_bytes = 8 << 20
    made.node.facts = FACTS.__class__(**{**FACTS.as_value(), "weight_bytes": 64 << 20, "eos_token_ids": ()})
    async with made.running():
        made.disk.push(MODEL, whole())
        await made.until(lambda: made.status() is not None, "told")

        assert made.status()["code"] == "does_not_fit"
        assert "64.0 MiB" in made.status()["message"]
        assert "8.0 MiB" in made.status()["message"]


async def test_a_node_that_is_away_is_waited_for_and_blames_nobody():
    made = Made()
    made.node.down = True
    async with made.running():
        made.disk.push(MODEL, whole())
        await asyncio.sleep(0.15)
        assert made.status() is None
        assert made.pointer() is None

        made.node.down = False
        await made.until_live()


async def test_half_a_push_is_never_committed():
    """Files arrive one by one with pauses above the quiet period; only the last one makes it a model."""
    made = Made()
    files = sharded(2)
    async with made.running():
        for path, data in files.items():
            assert made.pointer() is None
            made.disk.push(MODEL, {path: data})
            await asyncio.sleep(PATIENCE.quiet_s * 1.5)
        await made.until_live()


async def test_an_upload_under_way_holds_the_commit_back():
    made = Made()
    files = sharded(2)
    async with made.running():
        made.disk.uploads["acme/m/model-00002-of-00002.safetensors"] = 9e9
        made.region.ingest._wall = lambda: 9e9 + 5
        made.disk.push(MODEL, files)
        await asyncio.sleep(PATIENCE.grace_s * 2)
        assert made.pointer() is None

        made.disk.uploads.clear()
        await made.until_live()


@pytest.mark.parametrize(("code", "is_live"), [("NotImplemented", True), ("InternalError", False)])
async def test_an_s3_that_does_not_list_uploads_is_served_all_the_same(code, is_live):
    made = Made()

    def refuse(op, bucket, key):
        if op == "uploads":
            raise StoreError(code, "no", 501)

    made.own.before = refuse
    async with made.running():
        made.disk.push(MODEL, whole())
        if is_live:
            await made.until_live()
        else:
            await asyncio.sleep(0.3)
            assert made.live() is None


async def test_an_abandoned_upload_is_not_waited_for_for_ever():
    made = Made()
    made.disk.uploads["acme/m/other.safetensors"] = 1.0
    async with made.running():
        made.disk.push(MODEL, whole())
        await made.until_live()


async def test_an_overwrite_during_the_commit_is_never_mixed():
    """At every read and copy of the commit, once: one shard is overwritten. Old or new, never both."""
    old, new = sharded(2, fill=b"\x01"), sharded(2, fill=b"\x02")
    shards = sorted(path for path in old if path.endswith(".safetensors"))
    for moment in range(1, 60, STRIDE):
        made, seen, fired = Made(), 0, False

        def overwrite(op, bucket, key, moment=moment, made=made):
            nonlocal seen, fired
            if fired or not (bucket == "models" and op in {"get", "stream", "chunk", "copy", "list"}):
                return
            if made.disk.keys("models", MODEL + "/"):
                seen += 1
            if seen == moment:
                fired = True
                made.disk.push(MODEL, new)

        made.own.before = overwrite
        async with made.running():
            made.disk.push(MODEL, old)
            await made.until_live()
            await made.until(lambda made=made: made.status() and made.status()["state"] == "live", "settled")
            await asyncio.sleep(PATIENCE.quiet_s * 3)
            await made.until_live()
            revision = made.find().live

        hashes = {each.path: each.blake3 for each in revision.files}
        sets = [{path: blake3(files[path]).hexdigest() for path in shards} for files in (old, new)]
        assert {path: hashes[path] for path in shards} in sets, moment
        if not fired:
            break
        assert {path: hashes[path] for path in shards} == sets[1], "the newest push wins in the end"
    assert moment > 20, "the commit has many moments"


async def test_an_overwritten_prefix_does_not_touch_a_committed_revision():
    made = Made()
    async with made.running():
        made.disk.push(MODEL, whole())
        revision = await made.until_live()
        before = {key: made.disk.buckets["nearfield-blobs"][key].data for key in made.blobs()}
        made.disk.push(MODEL, {"model.safetensors": b"garbage"})
        await made.until(lambda: made.error() is not None, "refused")
        await made.until(lambda: made.status()["state"] == "refused", "told")

        assert made.live() == revision
        assert made.find().state is RolloutState.LIVE
        assert {key: made.disk.buckets["nearfield-blobs"][key].data for key in before} == before
        assert made.pointer()["revision"] == revision


async def test_a_good_push_after_a_refused_one_clears_the_refusal():
    made = Made()
    async with made.running():
        made.disk.push(MODEL, {**whole(), "model.safetensors": b"garbage"})
        await made.until(lambda: made.error() is not None, "refused")
        made.disk.push(MODEL, whole())
        await made.until_live()

        assert made.error() is None
        assert made.system(f"refusals/{MODEL}.json") is None
        await made.until(lambda: made.status()["state"] == "live", "told")


async def test_two_pushes_one_after_the_other_end_with_the_second():
    made = Made()
    async with made.running():
        with_manifest(made.disk, whole(fill=b"\x01"))
        first = await made.until_live()
        with_manifest(made.disk, whole(fill=b"\x02"))
        await made.until(lambda: made.live() not in {None, first}, "the second is live")

        assert made.pointer()["previous"] == [first]
        assert made.pointer()["serial"] == 2


async def test_the_same_bytes_again_are_the_same_revision_and_a_move():
    made = Made()
    async with made.running():
        with_manifest(made.disk, whole())
        revision = await made.until_live()
        made.disk.delete("models", f"{MODEL}/nearfield-status.json")
        with_manifest(made.disk, whole())
        await made.until(lambda: made.pointer()["serial"] == 2, "moved")

        assert made.pointer()["revision"] == revision
        assert made.pointer()["previous"] == []
        await made.until(lambda: (made.status() or {}).get("state") == "live", "told again")


async def test_the_pointer_is_moved_over_somebody_elses_change():
    """A `scale` lands between our read and our write: the conditional write loses, looks again, and keeps both."""
    made = Made()
    async with made.running():
        with_manifest(made.disk, whole(fill=b"\x01"))
        first = await made.until_live()
        raced = []

        def scale(op, bucket, key):
            if op == "put" and key == f"models/{MODEL}.json" and not raced:
                raced.append(key)
                pointer = {**made.pointer(), "min_replicas": 2}
                made.disk.put("nearfield-system", key, json.dumps(pointer).encode())

        made.own.before = scale
        with_manifest(made.disk, whole(fill=b"\x02"))
        await made.until(lambda: made.live() not in {None, first}, "the second is live")

        assert raced
        assert made.pointer()["min_replicas"] == 2
        assert made.find().min_replicas == 2


async def test_a_prefix_deleted_half_way_is_no_model_and_leaves_no_word():
    made = Made()
    async with made.running():
        made.disk.push(MODEL, {**whole(), "model.safetensors": b"garbage"})
        await made.until(lambda: made.error() is not None, "refused")
        for key in made.disk.keys("models", f"{MODEL}/"):
            made.disk.delete("models", key)
        await made.until(lambda: made.find() is None, "forgotten")
        await made.until(lambda: made.status() is None, "no status")

        assert made.system(f"refusals/{MODEL}.json") is None


async def test_a_prefix_deleted_while_it_is_read_is_no_error_of_ours():
    made = Made()

    def vanish(op, bucket, key):
        if op == "stream":
            for each in made.disk.keys("models", f"{MODEL}/"):
                made.disk.delete("models", each)

    made.own.before = vanish
    async with made.running():
        made.disk.push(MODEL, whole())
        await made.until(lambda: not made.disk.keys("models", f"{MODEL}/"), "deleted")
        await asyncio.sleep(PATIENCE.grace_s)
        assert made.pointer() is None
        made.own.before = lambda op, bucket, key: None
        made.disk.push(MODEL, whole())
        await made.until_live()


async def test_extra_files_are_told_and_are_not_in_the_revision():
    extra = {"modeling_evil.py": b"raise SystemExit", "pytorch_model.bin": b"\x80\x04", "README.md": b"hi"}
    made = Made()
    async with made.running():
        made.disk.push(MODEL, {**whole(), **extra})
        await made.until_live()
        await made.until(lambda: made.status()["state"] == "live", "told")

        assert {each["path"] for each in made.status()["left_out"]} == set(extra)
        assert {each.path for each in made.find().live.files} == set(whole())
        assert {each.path for each in made.find().left_out} == set(extra) - {"README.md"}


async def test_a_restart_does_not_decide_again():
    made = Made()
    async with made.running():
        made.disk.push(MODEL, whole())
        made.disk.push("acme/bad", {"config.json": b"{}"})
        await made.until_live()
        await made.until(lambda: made.error("acme/bad") is not None, "refused")
        await made.until(lambda: made.system(f"judged/{MODEL}.json") is not None, "written down")
    again = made.again()
    async with again.running():
        await again.until(lambda: again.error("acme/bad") is not None, "told again")
        await asyncio.sleep(PATIENCE.quiet_s * 3)

        assert again.live()
        assert not [op for op in again.own.log if op[0] in {"stream", "copy"}]
        assert len(made.node.inspects) == 1


async def test_model_toml_is_part_of_the_revision_and_of_the_pointer():
    made = Made()
    async with made.running():
        made.disk.push(
            MODEL,
            {**whole(), "model.toml": b'idle_timeout_s = 7\nregions = ["iad", "fra"]\nengine = "nearfield"'},
        )
        await made.until_live()

        assert made.pointer()["regions"] == ["iad", "fra"]
        assert made.find().idle_timeout_s == 7.0
        assert made.find().live.spec.engine == "nearfield"


async def test_many_models_are_followed_at_once():
    made = Made()
    models = [f"acme/m{n}" for n in range(12)]
    async with made.running():
        for model in models:
            made.disk.push(model, whole())
        for model in models:
            await made.until_live(model=model)

    assert len(made.blobs()) == 3


async def test_a_folder_pushed_a_level_too_high_is_told_where_it_belongs():
    made = Made()
    async with made.running():
        made.disk.push("justname", whole())
        await made.until(lambda: made.status("justname"), "told")

        assert made.status("justname")["code"] == "bad_prefix"
        assert "ORG/NAME" in made.status("justname")["next"]
        assert made.find("justname") is None

"""A far region is cut from its home for a minute while models come, change and go there: then it has what home has."""

import asyncio
import random
import time

import pytest
from blake3 import blake3

from regions.push.manifest import Manifest, ManifestFile
from storage.client.sdk import S3, Endpoint
from tests.evidence import IS_WHOLE, count
from tests.regions.folders import whole
from tests.regions.test_controller_real_store import RealRegion, keys, put_key
from tests.storage.link import Link
from tests.storage.stores import ADMIN, ROOT_KEY, StoreThread

NUM_MODELS = count(6, 200)  # five objects each in the far store: three blobs, a revision, a record
CUT_S = count(1, 60)
HEALED_S = 30.0  # the goal, which the whole evidence asserts


def folder(number, turn):
    """A model whose three files are its own."""
    small = {
        path: data + b" " * (1 + 7 * number + turn)
        for path, data in whole().items()
        if path.endswith(".json")
    }
    weights = whole()["model.safetensors"][:-16] + bytes([number % 256, number // 256, turn, 1]) * 4
    return {**small, "model.safetensors": weights}


async def push(s3, number, turn):
    model, files = f"acme/m{number}", folder(number, turn)
    etags = {path: await s3.put("models", f"{model}/{path}", data) for path, data in files.items()}
    entries = tuple(ManifestFile(path, len(data), etags[path]) for path, data in files.items())
    await s3.put("models", f"{model}/manifest.json", Manifest(entries).to_json())


async def state(s3):
    """What a region's store holds of models: its blobs, revisions, and what each model should be."""
    blobs = await keys(s3, "nearfield-blobs")
    revisions = await keys(s3, "nearfield-system", "revisions/")
    records = await keys(s3, "nearfield-system", "local/pointers/")
    return blobs, revisions, records


def expected(live):
    """The blobs that models at these turns have, and those of the turn before, which a roll back may name."""
    return {
        blake3(data).hexdigest()
        for number, turn in live.items()
        for each in range(turn + 1)
        for data in folder(number, each).values()
    }


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_a_minutes_cut_heals_to_equality(tmp_path):
    draw = random.Random(5)
    stores = {name: StoreThread(tmp_path / name) for name in ("iad", "fra")}
    link = Link(stores["iad"])
    far_view = Endpoint(link.url, ADMIN.id, ADMIN.secret(ROOT_KEY))
    try:
        async with (
            S3(stores["iad"].endpoint()) as iad,
            S3(stores["fra"].endpoint()) as fra,
            S3(far_view) as line,
        ):
            await put_key(iad)
            home, far = RealRegion("iad", iad, iad), RealRegion("fra", fra, line)
            async with home.running(), far.running():
                live = dict.fromkeys(range(NUM_MODELS), 0)
                for number in live:
                    await push(iad, number, 0)
                await far.until(lambda: len(serving(far)) == NUM_MODELS, "all live", 240.0)

                link.cut()
                until_s = time.monotonic() + CUT_S
                for number in draw.sample(sorted(live), NUM_MODELS // 2):
                    if draw.random() < 0.4:
                        await iad.delete("nearfield-system", f"models/acme/m{number}.json")
                        del live[number]
                    else:
                        live[number] = 1
                        await push(iad, number, 1)
                await far.until(
                    lambda: far.deployments.lag.behind(time.monotonic()).seconds > 0, "lag shows", 60.0
                )
                await asyncio.sleep(max(until_s - time.monotonic(), 0.0))
                await home.until(lambda: serving(home) == live_ids(home, live), "home is settled", 240.0)
                assert len(serving(far)) == NUM_MODELS, "what was live serves on"

                link.mend()
                began = time.monotonic()
                await far.until(lambda: serving(far) == serving(home), "the same revisions", 240.0)
                await eventually_equal(fra, live)
                healed_s = time.monotonic() - began
                await far.until(
                    lambda: far.deployments.lag.behind(time.monotonic()).seconds == 0, "no lag", 60.0
                )
        print(f"{5 * NUM_MODELS} objects, cut for {CUT_S} s: healed in {healed_s:.1f} s")
        if IS_WHOLE:
            assert healed_s < HEALED_S
    finally:
        link.stop()
        for store in stores.values():
            store.stop()


def serving(region):
    """Model -> live revision."""
    return {name: each.live.id for name, each in region.deployments.models.items() if region.live(name)}


def live_ids(region, live):
    """What is served, if it is exactly the models that should be, each at its turn."""
    found = serving(region)
    names = {f"acme/m{number}" for number in live}
    wanted = {
        f"acme/m{number}": {path: blake3(data).hexdigest() for path, data in folder(number, turn).items()}
        for number, turn in live.items()
    }
    for name in names & found.keys():
        if {each.path: each.blake3 for each in region.deployments.models[name].live.files} != wanted[name]:
            return None
    return {name: found[name] for name in names} if names == found.keys() else None


async def eventually_equal(fra, live):
    """The far store holds the blobs, revisions and records of those models and of the turn before, and no others."""
    for _ in range(3000):
        blobs, revisions, records = await state(fra)
        if (
            blobs == expected(live)
            and len(revisions) == sum(turn + 1 for turn in live.values())
            and records == {f"local/pointers/acme/m{number}.json" for number in live}
        ):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(
        f"{len(blobs ^ expected(live))} blobs differ, {len(revisions)} revisions, {len(records)}"
    )

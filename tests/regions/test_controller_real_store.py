"""Two regions on two real stores, through real S3 clients: pushed, replicated, live, cooled, killed, removed."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
from blake3 import blake3

from regions.assembly import Region
from regions.map.region import Tier
from storage.auth.key import AccessKey, Grant
from storage.client.sdk import S3, Endpoint, NotFound, upload_folder
from storage.run import StoreSettings, run
from tests.regions.folders import whole
from tests.regions.made_region import MODEL, Made, plan_of
from tests.regions.pretend_node import FakeNode

ROOT_KEY = b"r" * 32
ADMIN = AccessKey("platform", 1, (Grant.parse("*::admin"),))
LARGE = {
    **whole(tensors={"model.layers.0.weight": 6 << 20}),
    "model.toml": b"idle_timeout_s = 3\n",
}  # 24 MiB: in parts


@asynccontextmanager
async def real_store(root, port=0):
    stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
    task = asyncio.create_task(
        run(StoreSettings("127.0.0.1", port, root, ROOT_KEY, (ADMIN,)), ready.set_result, stop)
    )
    try:
        await asyncio.wait((task, ready), return_when=asyncio.FIRST_COMPLETED)
        yield Endpoint(f"http://127.0.0.1:{ready.result()}", "platform", ADMIN.secret(ROOT_KEY))
    finally:
        stop.set()
        await task


class RealRegion(Made):
    """As Made, on S3 endpoints."""

    def __init__(self, name, own, home, node=None):
        self.name = name
        self.node = node or FakeNode()
        self.own, self.home = own, home
        self.region = Region(plan_of(name), own, home, {self.node.address: self.node})
        self.deployments = self.region.deployments

    async def until(self, true, what="", timeout_s=60.0):
        async with asyncio.timeout(timeout_s):
            while not true():  # noqa: ASYNC110 - stores and regions have no one event
                await asyncio.sleep(0.01)


async def keys(s3, bucket, prefix=""):
    return {entry.key async for entry in s3.list(bucket, prefix)}


async def put_key(s3):
    value = {
        "schema": "nearfield.key/1",
        "digest": "a" * 64,
        "tenant": "default",
        "scopes": ["infer"],
        "name": "k",
    }
    await s3.ensure_bucket("nearfield-system")
    await s3.put("nearfield-system", f"keys/{'a' * 64}.json", json.dumps(value).encode())


async def push(endpoint, folder, files):
    folder.mkdir(exist_ok=True)
    for path, data in files.items():
        (folder / path).write_bytes(data)
    await asyncio.to_thread(
        upload_folder, endpoint, "models", MODEL + "/", [(p, folder / p) for p in files], None
    )


async def test_the_whole_life_of_a_model_on_real_stores(tmp_path):
    files = LARGE
    async with (
        real_store(tmp_path / "iad") as iad,
        real_store(tmp_path / "fra") as fra,
        S3(iad) as iad_s3,
        S3(fra) as fra_s3,
        S3(iad) as link,
    ):
        await put_key(iad_s3)
        home, far = RealRegion("iad", iad_s3, iad_s3), RealRegion("fra", fra_s3, link)
        blobs = {blake3(data).hexdigest() for path, data in files.items() if path != "model.toml"}
        async with home.running(), far.running():
            await push(iad, tmp_path / "m", files)
            revision = await home.until_live()
            await far.until_live(revision)
            assert await keys(fra_s3, "nearfield-blobs") == blobs
            for key in blobs:
                got = [chunk async for chunk in fra_s3.stream("nearfield-blobs", key)]
                assert blake3(b"".join(got)).hexdigest() == key
            await far.until(lambda: far.deployments.policy_line, "policy")

            assert await far.find().cool_to_origin() == sum(each.size for each in far.find().live.files)
            assert await keys(fra_s3, "nearfield-blobs") == set()
            assert await far.find().ensure_in_region() > 0
            assert far.deployments.tier(far.find()) is Tier.REGION

            status = json.loads((await iad_s3.get("models", f"{MODEL}/nearfield-status.json")).data)
            assert (status["state"], status["revision"]) == ("live", revision)

        again = RealRegion("fra", fra_s3, link)
        async with again.running():
            assert again.live() == revision
            async with RealRegion("iad", iad_s3, iad_s3).running():
                await iad_s3.delete("nearfield-system", f"models/{MODEL}.json")
                await again.until(lambda: again.find() is None, "gone")
        with pytest.raises(NotFound):
            await fra_s3.get("nearfield-system", f"local/pointers/{MODEL}.json")


async def test_a_store_that_goes_away_and_comes_back_is_followed_again(tmp_path):
    async with real_store(tmp_path / "iad") as iad:
        port = int(iad.url.rpartition(":")[2])
    async with S3(iad) as s3:
        home = RealRegion("iad", s3, s3)
        async with real_store(tmp_path / "iad", port):
            await put_key(s3)
            await home.region.recover()
        following = asyncio.create_task(home.region.run())
        await asyncio.sleep(0.3)
        async with real_store(tmp_path / "iad", port):
            await push(iad, tmp_path / "m", whole())
            await home.until_live()
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

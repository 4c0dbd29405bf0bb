"""The role itself: it listens once its own store answers, says what it serves, and leaves nothing behind."""

import asyncio
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from regions.rows import public_bytes
from regions.run import RegionSettings, run
from storage.client.sdk import S3, Endpoint
from tests.regions.test_controller_real_store import put_key, real_store
from wire.dial import Pool

KEY = Ed25519PrivateKey.generate()


def settings_of(store, name="iad", home=None, key=KEY):
    return RegionSettings(
        name=name,
        host="127.0.0.1",
        port=0,
        is_home=home is None,
        store=store,
        home_store=home or store,
        nodes=(),
        hop_token="hop",
        signing_key=key.private_bytes_raw(),
        home_public_key=public_bytes(KEY),
        all_regions=("iad", "fra"),
    )


async def get(port, path, token="hop"):
    pool = Pool("127.0.0.1", port)
    try:
        async with await pool.request(
            "GET", path, (("host", "x"), ("authorization", f"Bearer {token}"))
        ) as answer:
            return answer.head.status, await answer.read()
    finally:
        await pool.close()


async def started(settings):
    stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
    task = asyncio.create_task(run(settings, ready.set_result, stop))
    await asyncio.wait((task, ready), return_when=asyncio.FIRST_COMPLETED)
    return task, stop, ready.result()


async def test_a_home_and_another_region_start_share_the_policy_and_stop(tmp_path):
    async with real_store(tmp_path / "iad") as iad, real_store(tmp_path / "fra") as fra:
        async with S3(iad) as s3:
            await put_key(s3)
        home, stop_home, home_port = await started(settings_of(iad))
        far, stop_far, far_port = await started(settings_of(fra, "fra", iad, Ed25519PrivateKey.generate()))
        assert (await get(far_port, "/healthz", token="none"))[0] == 200
        assert (await get(far_port, "/status", token="none"))[0] == 401

        async with asyncio.timeout(60):
            while not await has_policy(fra):  # noqa: ASYNC110 - another process's object has no event
                await asyncio.sleep(0.05)
        status, body = await get(home_port, "/status")
        assert status == 200
        assert json.loads(body)["region"] == "iad"
        for task, stop in ((home, stop_home), (far, stop_far)):
            stop.set()
            async with asyncio.timeout(60):
                await task
        for port in (home_port, far_port):
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", port)


async def has_policy(endpoint):
    async with S3(endpoint) as s3:
        return [entry async for entry in s3.list("nearfield-system", "local/policy.json")]


async def test_a_region_whose_store_is_away_waits_and_can_be_stopped():
    stop, ports = asyncio.Event(), []
    task = asyncio.create_task(run(settings_of(Endpoint("http://127.0.0.1:9", "a", "b")), ports.append, stop))
    await asyncio.sleep(0.3)
    assert not task.done()
    stop.set()
    async with asyncio.timeout(60):
        await task
    assert ports == []

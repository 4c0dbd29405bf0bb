"""What a store gives to a plain reader in the same run: one connection, one object, nothing checked, nothing kept.

Only where the fleet's own configuration is at hand (the machine that runs `nearfield up`): region stores are private.
"""

import asyncio
import http.client
import time
from pathlib import Path

from deploy.config.document import Config
from deploy.config.read import load
from deploy.fleet import NODE_GRANTS, SYSTEM_GRANTS
from deploy.report.more.found import Ceiling
from deploy.roles.runner import endpoint
from regions.map.names import MODELS_BUCKET
from storage.client.endpoint import Endpoint, sign, url_path
from storage.client.sdk import S3
from wire.address import split_address

NUM_READS = 3
READ_S = 60.0
BLOBS = "nearfield-blobs"


class CannotRead(Exception):
    """The store did not give the object; the message says why."""


async def measure_ceilings(config_path: Path, model: str, regions: tuple[str, ...]) -> tuple[Ceiling, ...]:
    """Each region's own store, and the home region's from each region that reads from afar.

    Raises:
        CannotRead, ConfigError, StoreError, OSError: a store or the configuration cannot be read.
    """
    config = await asyncio.to_thread(load, config_path)
    found = []
    for region in regions:
        found += [await _ceiling(config, region, "region", config.regions[region].store)]
        far = config.regions[region].home_store
        found += (
            [await _ceiling(config, region, "remote", far, model)] if far and region != config.home else []
        )
    return tuple(found)


async def _ceiling(config: Config, region: str, source: str, url: str, model: str = "") -> Ceiling:
    own = endpoint(config, region if source == "region" else config.home, NODE_GRANTS)
    store = Endpoint(url, own.access_key, own.secret)
    bucket = BLOBS if source == "region" else MODELS_BUCKET
    listing = endpoint(config, region if source == "region" else config.home, SYSTEM_GRANTS)
    key, num_bytes = await _largest(listing, bucket, f"{model}/" if model else "")
    rates = [await asyncio.to_thread(read_rate, store, bucket, key, num_bytes) for _ in range(NUM_READS)]
    return Ceiling(source, region, num_bytes, max(rates))


async def _largest(store: Endpoint, bucket: str, prefix: str) -> tuple[str, int]:
    async with S3(store) as s3:
        entries = [(entry.size, entry.key) async for entry in s3.list(bucket, prefix)]
    if not entries:
        raise CannotRead(f"nothing lies under {bucket}/{prefix}")
    size, key = max(entries)
    return key, size


def read_rate(store: Endpoint, bucket: str, key: str, num_bytes: int) -> float:
    """Bytes a second of one GET into memory that is there already. Raises: CannotRead, OSError."""
    path, landing = url_path(bucket, key), memoryview(bytearray(num_bytes))
    connection = http.client.HTTPConnection(*split_address(store.netloc), timeout=READ_S)
    try:
        headers = dict(sign(store, "GET", path))
        began_s = time.perf_counter()
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        if answer.status != http.HTTPStatus.OK:
            raise CannotRead(f"the store answered {answer.status} to GET {bucket}/{key}")
        at = 0
        while at < num_bytes and (num := answer.readinto(landing[at:])):
            at += num
        return at / (time.perf_counter() - began_s)
    finally:
        connection.close()

"""What a fleet needs in its home store before anybody can ask: buckets, the first rules, the first API keys.

Signed PUTs without the SDK, whose modules alone cost half a second in each start of `up`.
"""

import time
from pathlib import Path

from deploy import fleet
from deploy.config.document import Config
from deploy.faults import ConfigError, RoleFailed
from deploy.roles.runner import endpoint
from deploy.trust import credentials as saved
from deploy.trust.credentials import Credentials
from regions.keys.record import KeyRecord, digest, new_key, write_record
from regions.map.names import SYSTEM_BUCKET
from regions.map.policy import Canary, KeyGrant, Rules
from regions.objects.ledger import KEYS, RULES
from regions.rules import Ordered, written
from storage.client.once import Once

PUSHED = "models"
BUCKETS = (PUSHED, SYSTEM_BUCKET, "nearfield-blobs")
UNFINISHED_DAYS = 7
"""A push that was cut may go on for so long; then its parts go. Where the bucket has rules, these stand."""


async def bootstrap(config: Config, state: Path) -> Credentials:
    """Make the buckets and the first API keys, unless they are there; key digests are objects at home.

    Raises:
        RoleFailed: the home's store is away or refuses.
    """
    credentials = _credentials(config, state)
    store = Once(endpoint(config, config.home, fleet.SYSTEM_GRANTS))
    try:
        for bucket in BUCKETS:
            await store.ensure_bucket(bucket)
        await store.end_uploads_after(PUSHED, UNFINISHED_DAYS)
        await _put_rules(store, config)
        await _put_key(store, credentials.api_key, "default", ("infer",))
        await _put_key(store, credentials.admin_key, "admin", ("admin",))
    except OSError as error:
        raise RoleFailed(f"the store of {config.home} takes no bucket and no key: {error}") from error
    finally:
        await store.close()
    return credentials


async def _put_rules(store: Once, config: Config) -> None:
    """The first rules: areas as the regions' names have them, and a short bake. What is there already stays."""
    areas: dict[str, tuple[str, ...]] = {}
    for region in config.regions:
        area = fleet.AREAS.get(region[:3])
        if area is not None and area not in config.regions:
            areas[area] = (*areas.get(area, ()), region)
    ordered = Ordered(Rules(areas=areas), canary=Canary(bake_s=fleet.BAKE_S))
    await store.put_once(SYSTEM_BUCKET, RULES, written(ordered))


async def _put_key(store: Once, api_key: str, name: str, scopes: tuple[str, ...]) -> None:
    """Let `api_key` in: only its digest is stored. A key that is already there stays as it is."""
    record = KeyRecord(digest(api_key), name, KeyGrant("default", frozenset(scopes)), int(time.time()))
    await store.put_once(SYSTEM_BUCKET, f"{KEYS}{record.digest}.json", write_record(record))


def _user_grants(config: Config) -> tuple[str, ...]:
    kept = {key.grants for key in config.access_keys}
    is_former = fleet.USER_GRANTS not in kept and fleet.FORMER_USER_GRANTS in kept
    return fleet.FORMER_USER_GRANTS if is_former else fleet.USER_GRANTS


def _credentials(config: Config, state: Path) -> Credentials:
    name, edge = next(iter(config.edges.items()))
    if edge.admin is None:
        text = f'edges.{name} has no `admin`, the operators\' listener: add a line, such as admin = "127.0.0.1:8445"'
        raise ConfigError(f"{text}, to {config.path}.")
    ca = str((state / "tls" / "ca.pem").resolve())
    store = endpoint(config, config.home, _user_grants(config))
    old = saved.load(state) if (state / saved.FILE_NAME).exists() else None
    credentials = Credentials(
        base_url=f"https://{_local(edge.listen)}/v1",
        admin_url=f"https://{_local(edge.admin)}",
        api_key=old.api_key if old else new_key(),
        admin_key=old.admin_key if old else new_key(),
        s3_url=f"https://{_local(edge.s3)}" if edge.s3 else store.url,
        s3_access_key=store.access_key,
        s3_secret_key=store.secret,
        s3_ca=ca if edge.s3 else "",
        ca=ca,
        state=str(state.resolve()),
        simulated_wan=config.wan_profile or "",
        home=config.home,
        regions={region: f"https://{_local(pin)}/v1" for region, pin in edge.pins.items()},
    )
    credentials.save(state)
    return credentials


def _local(address: str) -> str:
    """A listener on the loopback address as a URL's host: `localhost` resolves everywhere."""
    return address.replace("127.0.0.1", "localhost")

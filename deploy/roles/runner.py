"""Each role of the fleet, made from the one configuration: where `nearfield run ROLE NAME` lands."""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from deploy.config.document import Config, has_foreign_store, pick
from deploy.config.entries import AccessKeyEntry, NodeEntry, StoreEntry, WebhookEntry
from deploy.config.read import load
from deploy.config.tracing import tracing_of
from deploy.faults import ConfigError
from deploy.fleet import NODE_GRANTS, SYSTEM_GRANTS, USAGE_GRANTS
from deploy.roles import pop
from deploy.roles.role import Ready, Runner, hops_of, renewing, scrape_of
from deploy.trust import secrets
from deploy.trust.keys_now import KeysNow
from regions.map.names import MODELS_BUCKET
from storage.auth.key import AccessKey, Grant
from storage.client.endpoint import SOCKET_NAME
from storage.client.once import Once
from storage.client.sdk import S3, Endpoint
from storage.http.virtual import parse_domain
from storage.notify.webhook import Webhook
from wire.address import split_address

log = logging.getLogger("nearfield.deploy")


def runner(config: Config, role: str, name: str | None) -> Runner:
    """The coroutine function that runs `role` until its stop event is set.

    Each role imports only its own room, so an edge loads no torch and a store loads no SDK.

    Raises:
        ConfigError: no such role or name in the configuration.
        SecretsError: this host lacks a secret that the role needs.
    """
    if role not in _ROLES:
        raise ConfigError(f"no role called {role!r}. Roles: {', '.join(_ROLES)}.")
    return _ROLES[role](config, name)


def endpoint(config: Config, region: str, grants: tuple[str, ...]) -> Endpoint:
    """The store of `region` as the holder of the fleet's access key with `grants` reaches it.

    A store of somebody else knows nothing of our keys: there it is the one credential that its file holds.
    """
    return _endpoint(config, region, config.regions[region].store, grants)


def access_key(config: Config, grants: tuple[str, ...]) -> tuple[str, str]:
    """(id, secret) of the fleet's access key with exactly these grants; the secret is derived here and now.

    Raises:
        ConfigError: the configuration has no such key.
    """
    entry = next((key for key in config.access_keys if key.grants == grants), None)
    if entry is None:
        raise ConfigError(
            f"no [[access_keys]] with grants = {list(grants)}; add one, its id is yours to choose"
        )
    return entry.id, _key(entry).secret(secrets.root_key(config.secrets))


def secret_of(config: Config, key_id: str) -> str:
    """The secret of an S3 key of the configuration, by its id; derived here and now. Raises ConfigError."""
    entry = next((key for key in config.access_keys if key.id == key_id), None)
    if entry is None:
        raise ConfigError(f"{config.path} has no [[access_keys]] with id = {key_id!r}")
    return _key(entry).secret(secrets.root_key(config.secrets))


def _endpoint(config: Config, region: str, url: str, grants: tuple[str, ...]) -> Endpoint:
    credentials = config.regions[region].store_credentials
    key_id, secret = secrets.access_pair(credentials) if credentials else access_key(config, grants)
    return Endpoint(url, key_id, secret)


def _store(config: Config, name: str | None) -> Runner:
    from storage.run import COPIES_BYTES, StoreSettings, run  # noqa: PLC0415 - each role loads its own room only

    region, entry = pick(config.stores, name, "store")
    host, port = split_address(entry.listen)
    others = tuple(S3(each) for each in other_copies(config, region))
    settings = StoreSettings(
        host=host,
        port=port,
        root=entry.root,
        root_key=secrets.root_key(config.secrets),
        access_keys=tuple(_key(k) for k in config.access_keys),
        region=region,
        read_keys=KeysNow(config.path, _keys_of),
        sources=others,
        anonymous=entry.anonymous,
        domains=_domains(entry),
        sigv2=entry.sigv2,
        webhooks=tuple(_webhook(each) for each in config.webhooks),
        homes=homes_of(config, region),
        copies_bytes=entry.copies_bytes or COPIES_BYTES,
        scrape=scrape_of(config, entry.metrics),
    )

    async def serve(ready: Ready, stop: asyncio.Event) -> None:
        try:
            await run(settings, ready, stop)
        finally:
            for other in others:
                await other.close()

    return serve


def _domains(entry: StoreEntry) -> tuple[str, ...]:
    """Raises: ConfigError."""
    try:
        return tuple(parse_domain(each) for each in entry.domains)
    except ValueError as error:
        raise ConfigError(f"[stores]: {error}") from error


def _webhook(entry: WebhookEntry) -> Webhook:
    """Raises: ConfigError, SecretsError."""
    try:
        return Webhook(entry.id, entry.url, secrets.read_private(entry.secret).strip(), entry.ca)
    except ValueError as error:
        raise ConfigError(f"[[webhooks]]: {error}") from error


def homes_of(config: Config, region: str) -> dict[str, Endpoint]:
    """The buckets that a region's store finds at another one: what users push lives in the home region.

    Where the home's store is somebody else's, users speak to that one, and no store of ours stands before it.
    """
    if region == config.home or region not in config.regions or has_foreign_store(config, config.home):
        return {}
    url = config.regions[region].home_store or config.regions[config.home].store
    return {MODELS_BUCKET: _endpoint(config, config.home, url, SYSTEM_GRANTS)}


def other_copies(config: Config, region: str) -> tuple[Endpoint, ...]:
    """The stores that may have what the disk of `region` lost, the home's first. None if no key may read them all."""
    if all(key.grants != SYSTEM_GRANTS for key in config.access_keys):
        return ()
    names = sorted(config.regions.keys() - {region}, key=lambda name: (name != config.home, name))
    return tuple(endpoint(config, name, SYSTEM_GRANTS) for name in names)


def _key(entry: AccessKeyEntry) -> AccessKey:
    grants = tuple(Grant.parse(text) for text in entry.grants)
    return AccessKey(entry.id, entry.generation, grants, entry.old_until_s, entry.user)


def _keys_of(path: Path) -> tuple[AccessKey, ...]:
    """What the configuration says now. Raises: ValueError."""
    try:
        return tuple(_key(entry) for entry in load(path).access_keys)
    except ConfigError as error:
        raise ValueError(str(error)) from error


def _region(config: Config, name: str | None) -> Runner:
    from regions.gateway.pass_on import Peers  # noqa: PLC0415
    from regions.run import RegionSettings, run  # noqa: PLC0415

    region, entry = pick(config.regions, name, "region")
    host, port = split_address(entry.gateway)
    hops = hops_of(config, "region", region)
    home = config.regions[config.home]
    settings = RegionSettings(
        name=region,
        host=host,
        port=port,
        is_home=region == config.home,
        store=endpoint(config, region, SYSTEM_GRANTS),
        home_store=_endpoint(config, config.home, entry.home_store or home.store, SYSTEM_GRANTS),
        nodes=entry.nodes,
        hop_token=secrets.hop_token(secrets.root_key(config.secrets)),
        signing_key=secrets.signing_key(config.secrets, region),
        home_public_key=bytes.fromhex(home.public_key),
        all_regions=tuple(config.regions),
        engines=tuple(config.engines),
        idle_timeout_s=config.idle_timeout_s,
        quiet_s=config.quiet_s,
        replication_bytes_per_s=entry.replication_bytes_per_s,
        tls=hops.server if hops else None,
        peers=Peers(
            {r: each.gateway for r, each in config.regions.items() if r != region},
            hops.client if hops else None,
        ),
        scrape=scrape_of(config, entry.metrics),
        tracing=tracing_of(config),
    )
    return renewing(hops, lambda ready, stop: run(settings, ready, stop))


def _node(config: Config, name: str | None) -> Runner:
    from inference.node import NodeSettings, run  # noqa: PLC0415

    node, entry = pick(config.nodes, name, "node")
    usage_store = _usage_store(config, entry.region)
    host, port = split_address(entry.listen)
    settings = NodeSettings(
        region=entry.region,
        host=host,
        port=port,
        store=endpoint(config, entry.region, NODE_GRANTS),
        hop_token=secrets.hop_token(secrets.root_key(config.secrets)),
        state=entry.state,
        memory_budget_bytes=entry.memory_budget_bytes,
        host_cache_bytes=entry.host_cache_bytes,
        landing_pool_bytes=entry.landing_pool_bytes,
        cache=entry.cache,
        store_stall_s=entry.store_stall_s,
        store_retry_s=entry.store_retry_s,
        num_threads=entry.num_threads or len(os.sched_getaffinity(0)),
        device=entry.device,
        num_spares=entry.spares,
        zygote=entry.zygote,
        max_slots=entry.max_slots,
        idle_timeout_s=config.idle_timeout_s,
        store_socket=store_socket(config, entry),
        name=node,
        usage_store=usage_store,
        engines=config.engines,
        scrape=scrape_of(config, entry.metrics),
        tracing=tracing_of(config),
    )

    async def serve(ready: Ready, stop: asyncio.Event) -> None:
        try:
            await run(settings, ready, stop)
        finally:
            if usage_store is not None:
                await usage_store.close()

    return serve


def _usage_store(config: Config, region: str) -> Once | None:
    """Where a node brings what was used; None where a fleet is older than the key for it."""
    if all(key.grants != USAGE_GRANTS for key in config.access_keys):
        log.warning("usage stays on this host: add [[access_keys]] with grants = %s", list(USAGE_GRANTS))
        return None
    return Once(endpoint(config, region, USAGE_GRANTS))


def store_socket(config: Config, node: NodeEntry) -> Path | None:
    """Where the embedded store of the node's region listens on its own host; None if there is none, or not for us.

    The fleet's hosts share one configuration, so on another host nothing lies there: the node then reads over HTTP.
    """
    store = config.stores.get(node.region)
    if store is None or not node.handoff or config.regions[node.region].store_credentials is not None:
        return None
    return store.root / SOCKET_NAME


def _wan(config: Config, _name: str | None) -> Runner:
    from wire.wan import WanRelay  # noqa: PLC0415

    async def run(ready: Ready, stop: asyncio.Event) -> None:
        relays = []
        for link in config.wan.values():
            relay = await WanRelay.start(
                *split_address(link.listen),
                target=split_address(link.connect),
                rtt_ms=link.rtt_ms,
                bytes_per_s=link.bytes_per_s or None,
            )
            relays.append(relay)
        ready(0)
        await stop.wait()
        for relay in relays:
            await relay.close()

    return run


_ROLES: Mapping[str, Callable[[Config, str | None], Runner]] = MappingProxyType(
    {
        "store": _store,
        "node": _node,
        "region": _region,
        "edge": pop.edge_worker,
        "anycast": pop.anycast,
        "dns": pop.dns,
        "acme": pop.acme,
        "wan": _wan,
    }
)

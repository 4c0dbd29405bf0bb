"""What is there already: in the bucket by ETag, in each region's store by its blobs. Reads, and moves nothing."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from deploy.config.document import Config
from deploy.config.read import load
from deploy.faults import Silent
from deploy.fleet import SYSTEM_GRANTS
from deploy.models import push
from deploy.plan.local import held, is_same
from deploy.plan.memory import Device
from deploy.roles.runner import endpoint
from deploy.terminal import patience
from deploy.trust.credentials import Credentials
from deploy.trust.secrets import SecretsError
from regions.map.names import BLOBS_BUCKET, base_of, is_preview
from storage.client.sdk import S3, Endpoint, Entry, NotFound, StoreError

Blobs = Mapping[str, int]
LOOK_S = 10.0


def without_unchanged(planned: push.PushPlan, credentials: Credentials) -> push.PushPlan:
    """The plan with those files marked that the bucket has already, here or as the model's. Raises StoreError."""
    unchanged = _same(planned, _stored(credentials, planned.model))
    if not is_preview(planned.model):
        return replace(planned, unchanged=unchanged)
    models = _same(planned, _stored(credentials, base_of(planned.model)))
    shared = {path: etag for path, etag in models.items() if path not in unchanged}
    return replace(planned, unchanged=unchanged, shared=shared)


def _stored(credentials: Credentials, model: str) -> dict[str, Entry]:
    return patience.ask(push.stored(credentials, model), credentials.home_store)


def _same(planned: push.PushPlan, found: Mapping[str, Entry]) -> dict[str, str]:
    return {
        path: found[path].etag
        for path, num in planned.files.items()
        if path in found and found[path].size == num and is_same(planned.folder / path, found[path].etag)
    }


def operators_config(state: Path) -> Config | None:
    """The fleet's configuration, where this is its operator's host: others have credentials and no more."""
    path = state / "nearfield.toml"
    return load(path) if path.exists() else None


def devices(config: Config | None) -> tuple[Device, ...]:
    """Every node's device and what models may take of it."""
    nodes = config.nodes.items() if config else ()
    return tuple(Device(name, node.region, node.device, node.memory_budget_bytes) for name, node in nodes)


def held_bytes(
    planned: push.PushPlan, config: Config | None, regions: tuple[str, ...]
) -> dict[str, int | None]:
    """Of the push's bytes, how many each region's store has; None: it cannot be seen from here."""
    if config is None:
        return dict.fromkeys(regions)
    blobs = {region: _blobs(config, region) for region in regions}
    files = {path: (planned.folder / path, num) for path, num in planned.files.items()}
    known: dict[str, str] = {}
    return {region: _sum(planned, files, blobs[region], known) for region in regions}


def _sum(
    planned: push.PushPlan, files: Mapping[str, tuple[Path, int]], blobs: Blobs | None, known: dict[str, str]
) -> int | None:
    return None if blobs is None else sum(planned.files[path] for path in held(files, blobs, known))


def _blobs(config: Config, region: str) -> Blobs | None:
    """A plan does without what a store does not say, so that of another region keeps no push."""
    try:
        store = endpoint(config, region, SYSTEM_GRANTS)
        return patience.ask(_listed(store), f"the store in region {region}", LOOK_S)
    except NotFound:
        return {}
    except (StoreError, SecretsError, Silent):
        return None


async def _listed(endpoint: Endpoint) -> Blobs:
    async with S3(endpoint) as store:
        return {entry.key: entry.size async for entry in store.list(BLOBS_BUCKET)}

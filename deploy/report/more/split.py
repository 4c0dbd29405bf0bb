"""The counterfactual, measured: two small platforms of one region each, alike but for where the store is.

One has its store beside it, the other across a SIMULATED link (`wire/wan.py`): the same code, model, machine and
questions, asked in one shuffled order so that drift falls on both. Where the report's own platform runs is left alone.
"""

import asyncio
import random
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.client import Client
from deploy.fleet import WAN_BYTES_PER_S, FleetPlan
from deploy.models import push, watch
from deploy.report.arms import Start
from deploy.report.more.bench import said
from deploy.report.more.found import Side, Split
from deploy.report.probe import Admin, Probe, Question
from deploy.report.sample import Sample
from deploy.trust.credentials import Credentials
from deploy.up import Platform
from regions.map.names import MODELS_BUCKET
from regions.push.folder import MANIFEST, STATUS
from storage.client.sdk import S3
from wire.secured.tls import client_context

LIVE_S = 180.0
OURS = frozenset({MANIFEST, STATUS})
"""Objects beside a model that its platform wrote."""


@dataclass(frozen=True, slots=True)
class SplitPlan:
    """What to compare: one region's name, how far the other's store is, how many requests of each kind and side."""

    region: str
    rtt_ms: float
    near_bytes_per_s: float
    num_cold: int = 5
    num_warm: int = 20


async def measure_split(
    credentials: Credentials, question: Question, plan: SplitPlan, seed: int, say: Callable[[str], None]
) -> Split:
    """Bring both platforms up in a temporary folder, push the model to each, ask, and take them down again.

    Raises: RoleFailed, NotLive, NotSetError, StoreError, OSError.
    """
    folder = Path(tempfile.mkdtemp(prefix="nf-split-"))  # short: there are Unix sockets in it
    try:
        model = folder / "model"
        await fetched(credentials, question.model, model)
        size = sum(file.stat().st_size for file in model.rglob("*.safetensors"))
        sides = await _both(folder, model, question, plan, seed, say)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Split(plan.rtt_ms, WAN_BYTES_PER_S, plan.near_bytes_per_s, size, *sides)


async def fetched(credentials: Credentials, model: str, into: Path) -> None:
    """A model's own files, from the bucket. Raises: StoreError, OSError."""
    async with S3(push.endpoint(credentials)) as s3:
        async for entry in s3.list(MODELS_BUCKET, model + "/"):
            name = entry.key.removeprefix(model + "/")
            if name in OURS:
                continue
            path = into / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                async for chunk in s3.stream(MODELS_BUCKET, entry.key):
                    file.write(chunk)


async def _both(
    folder: Path, model: Path, question: Question, plan: SplitPlan, seed: int, say: Callable[[str], None]
) -> tuple[Side, Side]:
    async with AsyncExitStack() as stack:
        asks = {}
        for name, rtt_ms in (("together", 0.0), ("apart", plan.rtt_ms)):
            say(
                f"a platform with its store {'beside it' if not rtt_ms else f'{rtt_ms:g} ms away (simulated)'}"
            )
            fleet = FleetPlan(folder / name, (plan.region,), usual_ports=(), store_rtt_ms=rtt_ms)
            asks[name] = await stack.enter_async_context(_platform(fleet, model, question))
        found = await _asked(asks, question.model, plan, seed, say)
    return Side("together", tuple(found["together"])), Side("apart", tuple(found["apart"]))


@asynccontextmanager
async def _platform(fleet: FleetPlan, model: Path, question: Question) -> AsyncIterator[tuple[Admin, Probe]]:
    """A platform that serves the model, for as long as it is used."""
    platform = Platform(fleet, lambda _: None)
    try:
        running = await platform.start()
        await asyncio.to_thread(_pushed, running.credentials, model, question.model)
        tls = await asyncio.to_thread(client_context, Path(running.credentials.ca))
        admin = Admin(running.credentials.admin_url, tls, running.credentials.admin_key)
        region = fleet.regions[0]
        url = running.credentials.regions[region]
        async with Probe(region, url, tls, running.credentials.api_key, question) as probe:
            yield admin, probe
        await admin.close()
    finally:
        await platform.stop()


def _pushed(credentials: Credentials, folder: Path, model: str) -> None:
    planned = push.plan(folder, model, tuple(credentials.regions))
    push.upload(planned, credentials, None, lambda _: None)
    move = asyncio.run(watch.committed(credentials, model, LIVE_S))
    watch.until_live(Client(credentials, admin=True), model, move, None, lambda _: None, LIVE_S)


async def _asked(
    asks: dict[str, tuple[Admin, Probe]], model: str, plan: SplitPlan, seed: int, say: Callable[[str], None]
) -> dict[str, list[Sample]]:
    """Cold and warm requests of both sides, in one random order; warm ones follow one that made it so."""
    order = [
        (name, start)
        for name in asks
        for start in [Start.REGION] * plan.num_cold + [Start.WARM] * plan.num_warm
    ]
    random.Random(seed).shuffle(order)  # noqa: S311 - an order, not a secret
    found: dict[str, list[Sample]] = {name: [] for name in asks}
    for admin, probe in asks.values():
        await probe.ask(Start.WARM)  # not counted: from here on every request but a cold one finds it warm
        await admin.prepare(probe.region, model, Start.WARM)
    for name, start in order:
        admin, probe = asks[name]
        await admin.prepare(probe.region, model, start)
        sample = await probe.ask(start)
        say(f"store {name}, {start.value}: {said(sample)}")
        found[name].append(sample)
    return found

"""A platform of our own for one benchmark: one region and an edge, as `nearfield up` starts them."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from deploy import push, watch
from deploy.client import Client
from deploy.credentials import Credentials
from deploy.fleet import FleetPlan
from deploy.up import Platform, Running

REGION = "iad"
IDLE_S = 3600.0  # nothing idles out by itself while it is measured
LIVE_S = 300.0  # a gigabyte is pushed, read twice and probed; on two busy cores that is a minute
MIB = 1 << 20

Say = Callable[[str], None]


@asynccontextmanager
async def platform(scratch: Path, say: Say, *, pool_bytes: int = 128 * MIB) -> AsyncIterator[Running]:
    """One region that serves, in a fresh folder inside `scratch`; stopped and removed at the end."""
    state = scratch / "platform"
    plan = FleetPlan(state, regions=(REGION,), idle_timeout_s=IDLE_S, landing_pool_bytes=pool_bytes)
    found = Platform(plan, say)
    try:
        yield await found.start()
    finally:
        await found.stop()
        shutil.rmtree(state, ignore_errors=True)


def push_until_live(credentials: Credentials, folder: Path, model: str, say: Say) -> str:
    """Push `folder` as a user would and wait until it answers; the revision's id."""
    planned = push.plan(folder, model, (REGION,))
    push.upload(planned, credentials, None, lambda _: None)
    say(f"pushed {planned.num_bytes / 1e9:.2f} GB as {model}")
    revision = asyncio.run(watch.committed(credentials, model, LIVE_S))
    client = Client(credentials, admin=True)
    watch.until_live(client, model, revision, None, lambda _: None, LIVE_S)
    say(f"live: revision {revision[:16]}")
    return revision


def cool(credentials: Credentials, model: str, tier: str) -> None:
    """Take the model down to `tier` (`host` or `region`) in the region; returns once it is there."""
    body = {"model": model, "to": tier}
    Client(credentials, admin=True).post(f"/nearfield/regions/{REGION}/cool", body)

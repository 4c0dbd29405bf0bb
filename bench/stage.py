"""A platform of our own for one benchmark: one region and an edge, as `nearfield up` starts them."""

import asyncio
import datetime as dt
import shutil
import time
import tomllib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from bench.caller import Answer, Caller
from bench.link import Link, link
from bench.stopwatch import goes_first
from deploy import fleet
from deploy.client import Client
from deploy.fleet import FleetPlan
from deploy.models import push, watch
from deploy.trust import pki
from deploy.trust.credentials import Credentials
from deploy.up import Platform, Running
from wire.address import split_address

REGION = "iad"
IDLE_S = 3600.0  # nothing idles out by itself while it is measured
PREWARM_POLL_S = 0.1
LIVE_S = 300.0  # a gigabyte is pushed, read twice and probed; on two busy cores that is a minute
MIB = 1 << 20

Say = Callable[[str], None]


class Broken(Exception):
    """What was measured is not what it should be: another token, another start state, or remote bytes."""


@asynccontextmanager
async def linked(
    scratch: Path, say: Say, *, pool_bytes: int = 64 * MIB
) -> AsyncIterator[tuple[Running, Link]]:
    """The same platform with its store at the far end of a SIMULATED link, so that nothing is handed over."""
    state = scratch / "platform"
    state.mkdir(mode=0o700)
    plan = _plan(state, pool_bytes)
    path = fleet.write(plan, pki.ensure(state / "tls", dt.datetime.now(dt.UTC)))
    listens = tomllib.loads(path.read_text())["stores"][REGION]["listen"]
    with link(split_address(listens)[1]) as found:
        path.write_text(at_far_end(path.read_text(), listens, found.port))
        async with _started(Platform(plan, say), state) as running:
            yield running, found


def at_far_end(toml: str, listens: str, port: int) -> str:
    """A fleet's file in which everybody reaches the store by the relay at `port`, and the node gets no files of it."""
    usual, node = f'store = "http://{listens}"', f"[nodes.{REGION}-0]"
    if toml.count(usual) != 1 or toml.count(node) != 1:
        raise Broken("the fleet's file has another form than this was written for")
    relayed = toml.replace(usual, f'store = "http://127.0.0.1:{port}"')
    return relayed.replace(node, f"{node}\nhandoff = false")


@asynccontextmanager
async def platform(scratch: Path, say: Say, *, pool_bytes: int = 64 * MIB) -> AsyncIterator[Running]:
    """One region that serves, in a fresh folder inside `scratch`; stopped and removed at the end."""
    state = scratch / "platform"
    async with _started(Platform(_plan(state, pool_bytes), say), state) as running:
        yield running


def _plan(state: Path, pool_bytes: int) -> FleetPlan:
    return FleetPlan(state, regions=(REGION,), idle_timeout_s=IDLE_S, landing_pool_bytes=pool_bytes)


@asynccontextmanager
async def _started(found: Platform, state: Path) -> AsyncIterator[Running]:
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
    move = asyncio.run(watch.committed(credentials, model, LIVE_S))
    client = Client(credentials, admin=True)
    watch.until_live(client, model, move, None, lambda _: None, LIVE_S)
    say(f"live: revision {move.revision[:16]}")
    return move.revision


def cool(credentials: Credentials, model: str, tier: str) -> None:
    """Take the model down to `tier` (`host` or `region`) in the region; returns once it is there."""
    body = {"model": model, "to": tier}
    Client(credentials, admin=True).post(f"/nearfield/regions/{REGION}/cool", body)


def warm_up(credentials: Credentials, model: str) -> None:
    """Have a new process of the model that nobody has asked yet: from the host's memory, pre-warmed."""
    cool(credentials, model, "host")
    client, path = Client(credentials, admin=True), f"/nearfield/regions/{REGION}/prewarm"
    client.post(path, {"model": model})
    until = time.monotonic() + LIVE_S
    while client.post(path, {"model": model}).body["tier"] not in {"resident", "warm"}:
        if time.monotonic() > until:
            raise Broken(f"{model} is not resident {LIVE_S:g} s after it was pre-warmed")
        time.sleep(PREWARM_POLL_S)


def caller(running: Running) -> Caller:
    """A connection to the edge that is yet to be made, with the platform's key."""
    address = urlsplit(running.credentials.base_url)
    key = {"authorization": f"Bearer {running.credentials.api_key}"}
    return Caller((address.hostname or "", address.port or 443), key, running.credentials.ca)


def first_token(running: Running, model: str, start: str, prompt: str) -> Answer:
    """One greedy token through edge and TLS, on a new connection, from the start state that is named.

    Raises: Broken when it started elsewhere, or bytes came from another region.
    """
    if start in {"host", "region"}:
        cool(running.credentials, model, start)
    elif start == "resident":
        warm_up(running.credentials, model)
    speaker = caller(running)
    try:
        with goes_first():
            answer = speaker.stream("/v1/completions", completion(model, prompt))
    finally:
        speaker.close()
    check_start(answer, start)
    return answer


def completion(model: str, prompt: str) -> dict[str, object]:
    """The request of every first token that is timed."""
    return {"model": model, "prompt": prompt, "max_tokens": 1, "temperature": 0}


def check_start(answer: Answer, start: str) -> None:
    """Raises: Broken unless the answer's receipt names this start state and no bytes of another region."""
    found = next((receipt for receipt in answer.receipts if "start" in receipt), {})
    if found.get("start") != start or found.get("remote_bytes"):
        raise Broken(f"not a start from {start}: {found}")

"""What the edge itself measured of the last requests: its receipts, read from the console's stream when a run is over.

A client's clock has the server's time and the client's own part in it. The receipt has the first alone, also for
a client that reads none of ours: so what lies between two is split into what the server took and what they added.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.stage import Broken
from deploy.report.phases import AFTER_FIRST_TOKEN
from deploy.report.probe import pool_of
from deploy.trust.credentials import Credentials
from wire.dial import Pool
from wire.secured.tls import client_context

KEPT = 256  # requests that an edge keeps
WAIT_S = 20.0
MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Told:
    """Milliseconds of each request, oldest first: at the edge to first byte and end; in the node to the first."""

    first_ms: tuple[float, ...] = ()
    whole_ms: tuple[float, ...] = ()
    node_ms: tuple[float, ...] = ()


async def last(credentials: Credentials, model: str, num: int) -> Told:
    """Of the model's last `num` requests. Raises: Broken if the edge tells of fewer, or a hop is missing."""
    pool = pool_of(credentials.admin_url, client_context(Path(credentials.ca)))
    try:
        kept = await _kept(pool, await _log_in(pool, credentials.admin_key))
    finally:
        await pool.close()
    found = [each for each in kept if each["model"] == model][-num:]
    if len(found) < num:
        raise Broken(f"the edge tells of {len(found)} of {num} requests")
    return read(found)


def read(receipts: Sequence[Mapping[str, Any]]) -> Told:
    """Of receipts as the console has them. Raises: Broken if a hop is missing."""
    hops = [{hop["hop"]: hop["phases"] for hop in each["hops"]} for each in receipts]
    if any(not {"edge", "node"} <= set(each) for each in hops):
        raise Broken("a receipt of the edge lacks a hop")
    return Told(
        tuple(_before_first(each["edge"]) for each in hops),
        tuple(float(each["total_ms"]) for each in receipts),
        tuple(_before_first(each["node"]) for each in hops),
    )


def _before_first(phases: Mapping[str, float]) -> float:
    return sum(ms for name, ms in phases.items() if name not in AFTER_FIRST_TOKEN)


async def _log_in(pool: Pool, key: str) -> tuple[tuple[str, str], ...]:
    """The headers of a session, as the console's page sends them."""
    page = (("origin", f"https://{pool.host_header}"), ("sec-fetch-site", "same-origin"))
    body = json.dumps({"key": key}).encode()
    answer = await pool.request("POST", "/console/login", (*page, ("content-type", "application/json")), body)
    told = json.loads(await answer.read(MAX_BYTES))
    if answer.head.status != 200:
        raise Broken(f"the console lets nobody in: {told}")
    cookie = dict(answer.head.headers)["set-cookie"].partition(";")[0]
    return (*page, ("cookie", cookie), ("x-nearfield-console", told["token"]))


async def _kept(pool: Pool, headers: tuple[tuple[str, str], ...]) -> list[dict[str, Any]]:
    """All requests that the edge keeps: a console's first event of them."""
    rest = b""
    async with await pool.request("GET", "/console/events", headers) as answer:
        while data := await answer.next(WAIT_S):
            *blocks, rest = (rest + data).split(b"\n\n")
            for block in blocks:
                if block.startswith(b"event: requests"):
                    kept: list[dict[str, Any]] = json.loads(block.partition(b"data: ")[2])
                    return kept
    raise Broken("the console's stream ended")

"""The role `region`: follows the home region's objects, serves requests, says rows. One process, one event loop."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from regions.assembly import Plan, Region
from regions.deployments import DEFAULT_IDLE_TIMEOUT_S
from regions.gateway.figures import GatewayFigures
from regions.gateway.front import Gateway
from regions.gateway.pass_on import Peers
from regions.gateway.publish import Publisher
from regions.gateway.wake import Wakes
from regions.gateway.warmth import Warmth
from regions.nodes.client import Node
from regions.nodes.watch import NodeWatch
from regions.push.commit import Patience
from regions.rows import Signers, public_bytes, signing_key
from storage.client.sdk import S3
from wire.figures.metrics import Metrics
from wire.figures.process import add_process_figures
from wire.scrape import Scrape, scraped
from wire.serve import Server
from wire.trace.export import Tracing, traced

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Coroutine

    from regions.deployments import Deployments
    from storage.client.sdk import Endpoint

log = logging.getLogger("nearfield.regions")

DRAIN_S = 10.0  # for requests under way when the role is told to stop
HOME = "home"  # a name for whoever signs the policy: only its key is known here


@dataclass(frozen=True, slots=True)
class RegionSettings:
    """One region.

    `nodes` are addresses (host:port); `signing_key` is the region's raw Ed25519 key (32 bytes), `home_public_key`
    the home region's public one. `quiet_s`: how long a prefix without a manifest must be quiet to be committed.
    `replication_bytes_per_s` bounds what is pulled from home; 0: nothing does. `engines`: the external engines that a
    model may name. `tls` is what the gateway listens with; None: plain. `peers` are the other regions' gateways.
    `scrape` is where its figures can be read, beside the gateway's own listener, `tracing` where traces go.
    """

    name: str
    host: str
    port: int
    is_home: bool
    store: Endpoint
    home_store: Endpoint
    nodes: tuple[str, ...]
    hop_token: str = field(repr=False)
    signing_key: bytes = field(repr=False)
    home_public_key: bytes
    all_regions: tuple[str, ...]
    idle_timeout_s: float = DEFAULT_IDLE_TIMEOUT_S
    quiet_s: float = 2.0
    replication_bytes_per_s: float = 0.0
    engines: tuple[str, ...] = ()
    tls: ssl.SSLContext | None = None
    peers: Peers = field(default_factory=Peers)
    scrape: Scrape | None = None
    tracing: Tracing | None = None


async def run(settings: RegionSettings, ready: Callable[[int], None], stop: asyncio.Event) -> None:
    """Runs the role until `stop` is set; calls `ready(port)` once it listens."""
    async with AsyncExitStack() as stack:
        own = await stack.enter_async_context(S3(settings.store))
        home = own if settings.is_home else await stack.enter_async_context(S3(settings.home_store))
        nodes = {address: Node(address, settings.hop_token) for address in settings.nodes}
        for node in nodes.values():
            stack.push_async_callback(node.close)
        region = Region(_plan(settings), own, home, nodes)
        if not await _unless_stopped(region.recover(), stop):
            return
        watch = NodeWatch(region.deployments, nodes)
        metrics = Metrics()
        add_process_figures(metrics, "region", settings.name)
        wakes = Wakes(region.deployments, nodes, watch, GatewayFigures(metrics))
        stack.push_async_callback(wakes.close)
        publisher = Publisher(region.deployments, settings.signing_key, await region.epoch_ms(), wakes)
        gateway = Gateway(
            region.deployments,
            nodes,
            watch,
            wakes,
            publisher,
            settings.hop_token,
            keys=region.keys,
            peers=settings.peers,
            tracer=await stack.enter_async_context(
                traced(settings.tracing, "region", settings.name, metrics)
            ),
        )
        stack.push_async_callback(gateway.close)
        server = await Server.start(gateway.serve, settings.host, settings.port, tls=settings.tls)
        stack.push_async_callback(server.close)
        await stack.enter_async_context(scraped(settings.scrape, metrics))
        warmth = Warmth(region.deployments, nodes, wakes)
        loops = [region.run(), publisher.run(), warmth.run(), gateway.pulse.run()]
        loops += [watch.run()] if nodes else []
        loops += [gateway.pass_on.run()] if gateway.pass_on.ways else []
        tasks = [asyncio.create_task(each) for each in loops]
        try:
            ready(server.port)
            await _first_end(tasks, stop)
            await _drain(region.deployments, gateway, server)
        finally:
            await _cancel(tasks)


def _plan(settings: RegionSettings) -> Plan:
    key = signing_key(settings.signing_key)
    keys = {settings.name: public_bytes(key)}
    if not settings.is_home:
        keys = {HOME: settings.home_public_key, **keys}
    return Plan(
        name=settings.name,
        is_home=settings.is_home,
        all_regions=settings.all_regions,
        engines=settings.engines,
        idle_timeout_s=settings.idle_timeout_s,
        patience=Patience(quiet_s=settings.quiet_s),
        signers=Signers.of(keys, settings.name if settings.is_home else HOME),
        signing_key=key,
        replication_bytes_per_s=settings.replication_bytes_per_s,
    )


async def _unless_stopped(work: Coroutine[None, None, None], stop: asyncio.Event) -> bool:
    """Awaits `work` unless the role is told to stop first. Whether it ended."""
    doing = asyncio.create_task(work)
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((doing, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not doing.done():
        await _cancel([doing])
        return False
    doing.result()
    return True


async def _first_end(tasks: list[asyncio.Task[None]], stop: asyncio.Event) -> None:
    """Waits for `stop`; a loop that ends by itself is a fault of ours and ends the role loudly."""
    stopping = asyncio.create_task(stop.wait())
    try:
        done, _ = await asyncio.wait((*tasks, stopping), return_when=asyncio.FIRST_COMPLETED)
        for each in done - {stopping}:
            each.result()
            raise RuntimeError(f"{each.get_coro()} ended by itself")
    finally:
        stopping.cancel()


async def _drain(deployments: Deployments, gateway: Gateway, server: Server) -> None:
    deployments.draining = True
    deployments.touch()
    gateway.end_rows()
    await server.drain(DRAIN_S)


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for each in tasks:
        each.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

"""The name server process: the zone on UDP and TCP, and a private port on which POPs say how they are."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from edge.dns.feed import Ear
from edge.dns.figures import add_dns_figures
from edge.dns.presence import Presence
from edge.dns.rate import ResponseRate
from edge.dns.respond import Responder
from edge.dns.rtt import RttTable
from edge.dns.steer import Steering
from edge.dns.tcp import Streams
from edge.dns.udp import Datagrams, bind
from edge.dns.zone import Zone
from wire.figures.metrics import Metrics
from wire.figures.process import add_process_figures
from wire.scrape import Scrape, scraped

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge.dns.settings import ZoneSettings

TICK_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class DnsSettings:
    """One name server. `feed` is its private address, None: every POP counts as up; `key` seals what comes there.

    `name` is its own in the zone, `scrape` where its figures can be read.
    """

    zone: ZoneSettings
    listen: tuple[tuple[str, int], ...]
    feed: tuple[str, int] | None
    answers_per_s: float
    key: bytes = field(repr=False)
    name: str = "dns"
    scrape: Scrape | None = None


async def run(settings: DnsSettings, ready: Callable[[int], None], stop: asyncio.Event) -> None:
    """Serve until `stop` is set; `ready(port)` is called once everything listens.

    Raises ZoneError, ValueError (what the zone or its table of networks says), or OSError (an address cannot be bound).
    """
    now = time.monotonic()
    pops = settings.zone.pops
    steering = Steering(pops, RttTable(), settings.zone.ttl_s)
    steering.tick(now)
    responder = Responder(Zone(settings.zone), steering, ResponseRate(settings.answers_per_s))
    presence = Presence(len(pops), now, told=settings.feed is not None)
    ear = Ear(settings.zone, settings.key, presence, steering, responder)
    metrics = Metrics()
    add_process_figures(metrics, "dns", settings.name)
    add_dns_figures(metrics, responder, steering, [pop.name for pop in pops])
    async with scraped(settings.scrape, metrics):
        await _serve(settings, responder, ear, ready, stop)


async def _serve(
    settings: DnsSettings,
    responder: Responder,
    ear: Ear,
    ready: Callable[[int], None],
    stop: asyncio.Event,
) -> None:
    with ExitStack() as stack:
        if settings.feed is not None:
            stack.callback(Datagrams(bind(*settings.feed, socket.SOCK_DGRAM), ear.hear).close)
        streams = Streams(responder.segment)
        port = await _listen(settings, responder, streams, stack)
        ready(port)
        try:
            await _tick(ear, stop)
        finally:
            await streams.close()


async def _listen(settings: DnsSettings, responder: Responder, streams: Streams, stack: ExitStack) -> int:
    """Each address, on both; port 0 takes one that is free on both. Returns the first port."""
    first = 0
    for host, wanted in settings.listen:
        sock = bind(host, wanted, socket.SOCK_STREAM)
        port = sock.getsockname()[1]
        await streams.start(sock)
        stack.callback(Datagrams(bind(host, port, socket.SOCK_DGRAM), responder.datagram).close)
        first = first or port
    return first


async def _tick(ear: Ear, stop: asyncio.Event) -> None:
    while not stop.is_set():
        ear.tick(time.monotonic())
        try:
            async with asyncio.timeout(TICK_S):
                await stop.wait()
        except TimeoutError:
            continue

"""The edge process: listeners for users, for each region's own address and for S3; the only door to the internet."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from edge.admission.admit import OPERATORS, USERS, Routes
from edge.admission.quota import Quotas
from edge.admission.rate import Buckets
from edge.admission.room import Room
from edge.bounds import Bounds
from edge.certificates import Certificates, Pair
from edge.choice.route import Chooser
from edge.console.desk import Desk
from edge.console.shelf import Shelf
from edge.console.stage import Stage
from edge.crew.siblings import Siblings
from edge.dns.voice import Voice
from edge.door import Door
from edge.figures import EdgeFigures
from edge.hosts import served
from edge.infer import Inference
from edge.listeners import ADMIN, ANYCAST, LIMITS, MAIN, S3, addresses, alt_svc, part
from edge.orders import Orders
from edge.pops.hear import Pops
from edge.reach.region import Reach
from edge.receipts.kept import Flow, Receipts
from edge.relay.budget import LEAST_PER_S, Budgets
from edge.relay.holdoff import Holdoffs
from edge.relay.patience import Patiences
from edge.relay.relay import Relay
from edge.rows.feed import Feed
from edge.rows.trial import TrialReporter
from edge.s3 import LIMITS as S3_LIMITS
from edge.s3 import S3Door
from regions.map.headers import POP
from regions.rows import Signers
from wire.address import split_address
from wire.dial import MAX_IDLE
from wire.dialect import spoken, spoken_in_s3
from wire.figures.metrics import Metrics
from wire.figures.process import add_process_figures
from wire.listener.endings import Endings
from wire.scrape import scraped
from wire.serve import Server
from wire.trace.export import traced
from wire.ways.watch import watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge.settings import EdgeSettings
    from wire.http.http1 import Headers
    from wire.http.limits import Limits
    from wire.serve import Handler
    from wire.trace.tracer import Tracer


class _Edge:
    """The parts of one edge, and the order in which they start and stop."""

    def __init__(self, settings: EdgeSettings) -> None:
        self._settings = settings
        self.certificates = Certificates(Pair(settings.cert, settings.key), settings.certificates)
        self.reaches = {
            name: Reach(name, *split_address(address), settings.hop_tls, max_idle=settings.part(MAX_IDLE))
            for name, address in settings.regions.items()
        }
        signers = Signers.of(settings.public_keys, settings.home)
        metrics = self.metrics = Metrics()
        self.tracer: Tracer | None = None
        add_process_figures(metrics, "edge", settings.name)
        self.feed = Feed(signers, settings.state, settings.name, metrics)
        token = settings.hop_token
        wan = settings.simulated_wan
        self._headers = (("authorization", f"Bearer {token}"),)
        holdoffs = Holdoffs()
        room = Room(settings.part(settings.max_held_requests), settings.part(settings.max_held_bytes))
        figures = EdgeFigures(metrics, room)
        figures.follow(self.reaches)
        self._endings: dict[str, Endings] = {}
        figures.follow_listeners(self._endings)
        patiences = Patiences(settings.patience, settings.special_patience)
        budgets = Budgets(least_per_s=LEAST_PER_S / settings.size)
        quotas = Quotas(ledger=settings.place.ledger if settings.place else None)
        self.receipts = Receipts()
        self.siblings = Siblings(settings.place, self.feed, metrics, self.flow)
        self._bounds = Bounds(patiences, budgets, room, quotas, self.siblings, figures, self.receipts)
        self._chooser = Chooser(self.feed, self.reaches, wan, holdoffs)
        self._relay = Relay(self.reaches, token, figures, holdoffs)
        self.pops = Pops(
            settings.name, settings.others, self.reaches, self.siblings, settings.hop_tls, self._headers
        )
        self._orders = Orders(
            settings.name, self.feed, self.reaches, settings.home, token, wan, self.certificates, self.pops
        )
        self.stage = Stage(self.feed, self.reaches, self.siblings, self.pops.seen, self._orders.facts)
        self._buckets = Buckets(settings.rate_per_s, settings.burst)
        self.voice = Voice(settings.voice) if settings.voice is not None else None

    def door(self, pinned: str | None, says: Headers = (), routes: Routes = USERS) -> Door:
        """The handler of a listener, whose answers carry `says` too."""
        if self._settings.anycast is not None:  # one of several: which one answered is a question then
            says = ((POP, self._settings.name), *says)
        inference = Inference(
            self.feed,
            self._buckets,
            self._chooser,
            self._relay,
            self._orders,
            self._bounds,
            pinned,
            says,
            self.tracer,
        )
        return Door(inference, self._orders, self._bounds, pinned, routes)

    def endings(self, listener: str) -> Endings:
        """What hears of its connections that end before their time."""
        made = self._endings[listener] = Endings(f"listener {listener}", logging.INFO)
        return made

    def desk(self) -> Desk:
        """The handler of the operators' listener."""
        reports = Shelf(self._settings.state / "reports")
        return Desk(self._settings.name, self.door(None, routes=OPERATORS), self.stage, reports)

    def flow(self, since: int | None) -> Flow:
        """What this process has carried."""
        num_busy = {name: reach.pool.num_busy for name, reach in self.reaches.items()}
        busy = {name: max(0, num - 1) for name, num in num_busy.items()}  # one brings the region's rows
        return Flow.of(self.receipts, busy, since)

    def begin(self, group: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """Start what runs for as long as the edge does."""
        always = (self.certificates.keep(), watch(self.reaches.values()))
        tasks = [group.create_task(each) for each in always]
        if self._settings.is_first:
            home = self.reaches.get(self._settings.home)
            trial = TrialReporter(self._settings.name, self.feed, home, self._headers)
            once = (self.feed.keep(), self.feed.watch(), trial.run(), self.pops.keep())
            tasks += [group.create_task(each) for each in once]
        if self.voice is not None:
            tasks.append(group.create_task(self.voice.keep()))
        for reach in self.reaches.values():
            tasks.append(group.create_task(reach.watch()))
            tasks.append(group.create_task(self.feed.follow(reach, self._headers)))
        return tasks

    async def close(self) -> None:
        """Close every connection to the regions, and keep the rows."""
        await self.stage.close()
        await self._orders.close()
        await self.pops.close()
        await self.siblings.close()
        for reach in self.reaches.values():
            await reach.close()
        if self._settings.is_first:
            await self.feed.save()


async def run(settings: EdgeSettings, ready: Callable[[int], None], stop: asyncio.Event) -> None:
    """Serve until `stop` is set, then drain; `ready(port)` is called once every listener listens.

    Raises OSError (an address cannot be bound) or BadPairError (the default certificate cannot be used).
    """
    await asyncio.to_thread(settings.state.mkdir, parents=True, exist_ok=True)
    edge = _Edge(settings)
    edge.feed.load()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(edge.close)
        edge.tracer = await stack.enter_async_context(
            traced(settings.tracing, "edge", settings.name, edge.metrics)
        )
        servers = await _listen(settings, edge, stack)
        if settings.is_first:
            await stack.enter_async_context(scraped(settings.scrape, edge.siblings.page))
        async with asyncio.TaskGroup() as group:
            tasks = edge.begin(group)
            try:
                ready(servers[0].port)
                await stop.wait()
            finally:
                if edge.voice is not None:
                    edge.voice.drain()
                await asyncio.gather(*(server.drain(settings.drain_s) for server in servers))
                for task in tasks:
                    task.cancel()


def _handlers(
    settings: EdgeSettings, edge: _Edge, stack: AsyncExitStack
) -> dict[str, tuple[Handler, Limits]]:
    """Who answers at each listener, within which bounds."""
    found: dict[str, tuple[Handler, Limits]] = {
        MAIN: (edge.door(None).serve, LIMITS),
        ANYCAST: (edge.door(None, alt_svc(settings.unicast)).serve, LIMITS),
    }
    if settings.admin is not None and settings.is_first:
        found[ADMIN] = edge.desk().serve, LIMITS
    found |= {f"pin {region}": (edge.door(region).serve, LIMITS) for region in settings.pins}
    if settings.s3 is not None:
        s3 = S3Door(*split_address(settings.s3_upstream))
        stack.push_async_callback(s3.close)
        found[S3] = s3.serve, S3_LIMITS
    return found


async def _listen(settings: EdgeSettings, edge: _Edge, stack: AsyncExitStack) -> list[Server]:
    """Every listener, the main one first; what was opened is closed if a later one cannot be bound."""
    tls = None if settings.plain else edge.certificates.context
    met = edge.voice.met if edge.voice is not None and not settings.plain else None
    handlers, servers = _handlers(settings, edge, stack), []
    shown = None if settings.plain else edge.certificates
    for name, (host, port) in addresses(settings).items():
        if name == ADMIN and not settings.is_first:
            continue
        handler, limits = handlers[name]
        if name not in {ADMIN, S3}:
            limits = replace(limits, served_hosts=served(settings.served_hosts, shown, host))
        sock = None if settings.place is None else settings.place.sockets[name]
        limits, speak = part(limits, settings), spoken_in_s3 if name == S3 else spoken
        server = await Server.start(
            handler,
            host,
            port,
            tls=tls,
            limits=limits,
            met=met,
            speak=speak,
            sock=sock,
            endings=edge.endings(name),
        )
        stack.push_async_callback(server.close)
        servers.append(server)
    private = await edge.siblings.listen()
    if private is not None:
        stack.push_async_callback(private.close)
    return servers

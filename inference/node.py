"""A GPU or CPU host's API process: owns the shell, the template child, the weights and the workers.

`run` is the role's entry: it calls `ready` with the port once requests can come, and returns when everything
it started has ended.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from inference.api.app import make_app
from inference.api.grammar.trial import GrammarChild
from inference.api.modeltext import TextShelf
from inference.api.stay.reply import Children
from inference.api.text.template import RENDER_CPU_MS, TemplateChild
from inference.devices import CPU
from inference.outside.definition import OWN
from inference.outside.makers import NodeMakers
from inference.outside.metrics import merged
from inference.server import serve
from inference.usage.node_usage import SEAL_S, NodeUsage, Place
from inference.workers.counts.gauges import add_engine_gauges
from inference.workers.counts.starts import StartFigures
from inference.workers.engines.own import OwnMaker
from inference.workers.host import Host
from inference.workers.residency.room import Means
from inference.workers.shell.inspection import look_at
from inference.workers.shell.link import ShellLink
from inference.workers.shell.standing import StandingShell
from inference.workers.start import Parts
from inference.workers.store_threads import StoreThreads
from weights_cache.cache import HostTier
from weights_cache.kept.folder import CacheFolder
from weights_cache.reading.fetch import HttpReader
from weights_cache.reading.handoff import Handoff, NoHandoff, StoreHandoff
from weights_cache.reading.patience import RETRY_FOR_S, STALL_S
from wire.figures.metrics import Metrics, one
from wire.figures.process import add_process_figures
from wire.scrape import Scrape, scraped
from wire.trace.export import Tracing, traced

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from inference.outside.definition import Definition
    from inference.usage.ship import Bucket
    from inference.workers.seams import Shell, Tier
    from storage.client.sdk import Endpoint
    from wire.figures.metrics import Reading
    from wire.trace.tracer import Tracer

USAGE = "usage"
"""The folder, in the node's own, of what requests used until the store has it."""
OUTSIDE = "outside"
"""The folder, in the node's own, where external engines work."""


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """One node. `port` 0 takes a free one; `state` is a folder of its own, for its socket."""

    region: str
    host: str
    port: int
    store: Endpoint
    hop_token: str
    state: Path
    memory_budget_bytes: int
    host_cache_bytes: int
    landing_pool_bytes: int = 0
    cache: Path | None = None
    """A folder of this node's own, in which weights that were read outlive it; `host_cache_bytes` at most."""
    store_stall_s: float = STALL_S
    store_retry_s: float = RETRY_FOR_S
    num_threads: int = 1
    device: str = CPU
    num_spares: int = 0
    max_slots: int = 64
    idle_timeout_s: float = 300.0
    template_cpu_ms: float = RENDER_CPU_MS
    zygote: Path | None = None
    """The folder that this host's nodes share, to have one zygote; without it the node has one to itself."""
    store_socket: Path | None = None
    """Where the region's store listens if it runs on this host; it may come and go."""
    name: str = "node"
    """Under which the store has this node's usage."""
    usage_store: Bucket | None = None
    """Where usage is brought; without it, it stays in `state`."""
    usage_s: float = SEAL_S
    engines: Mapping[str, Definition] = field(default_factory=dict)
    """The external engines that models may name, as the operator defined them; ours is always there."""
    scrape: Scrape | None = None
    """Where its figures can be read, beside the node's own listener."""
    tracing: Tracing | None = None
    """Where traces go."""


class Node:
    """What the routes work on (`inference.api.app.Rooms`)."""

    def __init__(self, settings: NodeSettings, tier: Tier, shell: Shell, child: TemplateChild) -> None:
        self._settings = settings
        self._tier, self._shell = tier, shell
        means = Means(
            settings.memory_budget_bytes, settings.host_cache_bytes, settings.max_slots, settings.num_threads
        )
        self.metrics = Metrics()
        add_process_figures(self.metrics, "node", settings.name)
        place = Place(settings.region, settings.name, settings.state / USAGE, settings.usage_s)
        self.usage = NodeUsage(place, settings.usage_store, self.metrics)
        makers = NodeMakers(
            OwnMaker(shell, self.usage, settings.device), settings.engines, settings.state / OUTSIDE
        )
        self._threads = StoreThreads()
        parts = Parts(tier, makers, TextShelf(child), self._threads)
        self.host = Host(means, parts, self.usage, figures=StartFigures(self.metrics))
        self._add_gauges()
        add_engine_gauges(self.metrics, self.host)
        self.children = Children(child, GrammarChild())
        self.is_stopping = False
        self.tracer: Tracer | None = None

    @property
    def idle_timeout_s(self) -> float:
        """See `Rooms`."""
        return self._settings.idle_timeout_s

    @property
    def is_healthy(self) -> bool:
        """See `Rooms`."""
        return self._shell.is_up and not self.is_stopping

    async def metrics_page(self) -> bytes:
        """See `Rooms`."""
        return self.metrics.page() + merged(await self.host.engine_pages())

    def usage_told(self) -> dict[str, Any]:
        """See `Rooms`."""
        return self.usage.told() | {"metrics": self.metrics.page().decode()}

    async def inspect(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """See `Rooms`."""
        make_reader = partial(HttpReader, self._settings.store)
        return await look_at(question, self._shell, make_reader, self._threads)

    def status(self) -> dict[str, Any]:
        """See `Rooms`."""
        return {
            "region": self._settings.region,
            "memory": {
                "budget_bytes": self._settings.memory_budget_bytes,
                "used_bytes": self.host.used_bytes,
            },
            "shell": {"pid": self._shell.pid},
            "workers": self.host.status_workers(),
            "cache": [
                {
                    "revision": entry.revision_id,
                    "model": entry.model,
                    "bytes": entry.num_bytes,
                    "mapped_bytes": entry.mapped_bytes,
                }
                for entry in self._tier.entries()
                if entry.landed
            ],
            "store_bytes_per_s": self._tier.store_bytes_per_s,
            "host_bytes_per_s": self.host.host_bytes_per_s,
            "attach_s": self.host.attach_s,
            "template_kills": self.children.templates.num_killed,
            "grammar_kills": self.children.grammars.num_killed,
        }

    def _add_gauges(self) -> None:
        gauge, host, tier = self.metrics.gauge, self.host, self._tier
        gauge(
            "nearfield_node_memory_budget_bytes",
            "For workers.",
            lambda: one(self._settings.memory_budget_bytes),
        )
        gauge("nearfield_node_memory_used_bytes", "What workers may take.", lambda: one(host.used_bytes))
        gauge("nearfield_node_engine_up", "1 while it responds.", self._engines_up, "engine", "model")
        gauge("nearfield_node_workers", "Processes, by state.", self._worker_counts, "state")
        gauge(
            "nearfield_node_cache_cap_bytes",
            "Weights kept at most.",
            lambda: one(self._settings.host_cache_bytes),
        )
        gauge("nearfield_node_cache_bytes", "Weights on this host, by model.", self._cache_bytes, "model")
        gauge("nearfield_node_store_bytes_per_second", "Measured.", lambda: one(tier.store_bytes_per_s))
        gauge("nearfield_node_host_bytes_per_second", "Measured.", lambda: one(host.host_bytes_per_s))
        gauge(
            "nearfield_node_attach_seconds", "The last start without its bytes.", lambda: one(host.attach_s)
        )

    def _engines_up(self) -> Reading:
        return (
            ((each.revision.spec.engine or OWN, each.revision.model), float(not each.stalled_s))
            for each in self.host.workers
        )

    def _worker_counts(self) -> Reading:
        return (
            (((state,)), num)
            for state, num in Counter(each.state.value for each in self.host.workers).items()
        )

    def _cache_bytes(self) -> Reading:
        sums: Counter[str] = Counter()
        for entry in self._tier.entries():
            sums[entry.model] += entry.num_bytes
        return (((model,), num_bytes) for model, num_bytes in sums.items())

    async def close(self) -> None:
        """End every worker; requests that run may finish for a while."""
        self.is_stopping = True
        await self.host.close()
        await self.children.grammars.close()
        await self.usage.close()
        self._threads.close()


async def run(settings: NodeSettings, ready: Callable[[int], None], stop: asyncio.Event) -> None:
    """Be a node until `stop` is set; returns when all it started has ended.

    `ready` gets the port as soon as requests are taken; the shell still imports then, and the first load waits
    for it.

    Raises:
        OSError: the address cannot be bound, or the folder `cache` cannot be used.
    """
    settings.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    async with AsyncExitStack() as stack:
        shell = StandingShell(
            partial(
                ShellLink.start,
                settings.zygote or settings.state,
                device=settings.device,
                num_spares=settings.num_spares,
            )
        )
        stack.push_async_callback(shell.close)
        tier = await asyncio.to_thread(tier_of, settings)
        stack.push_async_callback(asyncio.to_thread, tier.close)
        child = TemplateChild(settings.template_cpu_ms)
        stack.push_async_callback(child.close)
        await child.start()
        await serve_node(settings, Node(settings, tier, shell, child), ready, stop)


def tier_of(settings: NodeSettings) -> HostTier:
    """The host's weights, with those that an earlier node left in its folder. Raises OSError: it cannot be used."""
    path, cap_bytes = settings.cache, settings.host_cache_bytes
    return HostTier(
        settings.store,
        cap_bytes,
        pool_bytes=settings.landing_pool_bytes,
        stall_s=settings.store_stall_s,
        retry_for_s=settings.store_retry_s,
        handoff=handoff_of(settings),
        folder=None if path is None else CacheFolder(path, cap_bytes),
    )


def handoff_of(settings: NodeSettings) -> Handoff:
    """Who hands over files of weights on this host, if anybody."""
    path, answer_s = settings.store_socket, settings.store_stall_s
    return NoHandoff() if path is None else StoreHandoff(path, settings.store, answer_s=answer_s)


async def serve_node(
    settings: NodeSettings, node: Node, ready: Callable[[int], None], stop: asyncio.Event
) -> None:
    """Serve a node whose parts are there, until `stop`; open answers and workers end side by side."""
    tending = asyncio.create_task(node.host.tend())
    booking = asyncio.create_task(node.usage.tend())
    app = make_app(node, settings.hop_token)
    ending = asyncio.create_task(_close_at(stop, node))
    try:
        tracing = traced(settings.tracing, "node", settings.name, node.metrics)
        async with scraped(settings.scrape, node.metrics_page), tracing as node.tracer:
            await serve(app, settings.host, settings.port, ready, stop)
    finally:
        stop.set()
        tending.cancel()
        await asyncio.wait({tending, ending, booking})
    ending.result()


async def _close_at(stop: asyncio.Event, node: Node) -> None:
    await stop.wait()
    await node.close()

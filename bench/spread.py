"""How soon edges far away follow a change that the home region has signed: a revoked key, a rule.

One region's gateway says rows, as it does; edges behind SIMULATED links follow them, as they do. From the moment
that the policy is signed until an edge admits by it; what is above half a round trip is ours.
"""

import argparse
import asyncio
import logging
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from time import perf_counter

from bench.rows import Row, compare, quantile
from edge.reach.region import Reach
from edge.rows.feed import Feed
from regions.deployments import Deployments
from regions.gateway.front import Gateway
from regions.gateway.publish import Publisher
from regions.gateway.wake import Wakes
from regions.map.policy import KeyGrant, PolicyRow
from regions.nodes.watch import NodeWatch
from regions.rows import Signers, encode, public_bytes, signing_key
from wire.serve import Server
from wire.wan import WanRelay

RTTS_MS = (1.0, 20.0, 90.0, 150.0)
BUDGET_MS = 50.0  # the issue's, beyond the round trip
TOKEN = "h" * 64
KEY = b"k" * 32
KEYS = {"a" * 64: KeyGrant("acme", frozenset({"infer"}))}
SETTLE_S = 0.3  # between two changes, so that each stands alone
FIRST_S = 30.0


class TimedFeed(Feed):
    """A feed that notes when each policy came into force."""

    def __init__(self, state: Path) -> None:
        super().__init__(Signers.of({"home": public_bytes(signing_key(KEY))}, "home"), state)
        self.seen_at: dict[int, float] = {}
        self.seen = asyncio.Event()

    def take(self, line: bytes, source: str | None, now: float) -> bool:
        """As any feed does."""
        taken = super().take(line, source, now)
        if self.snapshot.policy is not None and self.snapshot.policy.seq not in self.seen_at:
            self.seen_at[self.snapshot.policy.seq] = perf_counter()
            self.seen.set()
        return taken


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--changes", type=int, default=40, help="changes of the policy (40)")


def measure(options: argparse.Namespace, say: Callable[[str], None]) -> tuple[list[Row], list[str]]:
    """Rows and notes."""
    logging.getLogger("nearfield").setLevel(logging.WARNING)
    say(f"{options.changes} changes to {len(RTTS_MS)} edges")
    with tempfile.TemporaryDirectory(prefix="nearfield-bench-") as scratch:
        took = asyncio.run(spread(RTTS_MS, options.changes, Path(scratch)))
    rows = []
    for rtt_ms, ms in zip(RTTS_MS, took, strict=True):
        for name, share in (("p50", 0.5), ("worst", 1.0)):
            what = f"signed until followed, edge {rtt_ms:g} ms away (simulated), {name}, against RTT + 50 ms"
            rows.append(
                compare(what, quantile(ms, share), rtt_ms + BUDGET_MS, "ms", better="lower", target=1.0)
            )
    return rows, ["one process has the gateway, the links and the edges; links are SIMULATED (wire/wan.py)"]


async def spread(rtts_ms: Sequence[float], num_changes: int, scratch: Path) -> list[list[float]]:
    """For each distance the ms from a signed change until the edge at it follows it."""
    deployments = Deployments("home")
    watch = NodeWatch(deployments, {})
    wakes = Wakes(deployments, {}, watch)
    publisher = Publisher(deployments, KEY, 1, wakes)
    gateway = Gateway(deployments, {}, watch, wakes, publisher, TOKEN)
    async with AsyncExitStack() as stack:
        server = await Server.start(gateway.serve, "127.0.0.1", 0)
        stack.push_async_callback(server.close)
        running = [asyncio.create_task(publisher.run())]
        feeds = [await _edge(rtt_ms, server.port, scratch, running, stack) for rtt_ms in rtts_ms]
        try:
            return await _changed(deployments, feeds, num_changes)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)


async def _edge(
    rtt_ms: float, port: int, scratch: Path, running: list[asyncio.Task[None]], stack: AsyncExitStack
) -> TimedFeed:
    link = await WanRelay.start("127.0.0.1", 0, target=("127.0.0.1", port), rtt_ms=rtt_ms)
    stack.push_async_callback(link.close)
    reach = Reach("home", "127.0.0.1", link.port)
    stack.push_async_callback(reach.close)
    feed = TimedFeed(scratch)
    running.append(asyncio.create_task(feed.follow(reach, (("authorization", f"Bearer {TOKEN}"),))))
    return feed


async def _changed(
    deployments: Deployments, feeds: Sequence[TimedFeed], num_changes: int
) -> list[list[float]]:
    took: list[list[float]] = [[] for _ in feeds]
    for seq in range(1, num_changes + 2):  # the first is what every edge begins with
        line, began = encode(PolicyRow(1, seq, KEYS), signing_key(KEY)), perf_counter()
        deployments.policy_line = line
        deployments.touch()
        for feed, ms in zip(feeds, took, strict=True):
            async with asyncio.timeout(FIRST_S):
                while seq not in feed.seen_at:
                    feed.seen.clear()
                    await feed.seen.wait()
            if seq > 1:
                ms.append((feed.seen_at[seq] - began) * 1000)
        await asyncio.sleep(SETTLE_S)
    return took

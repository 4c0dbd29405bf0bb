"""A store that hangs holds up who needs it, and nobody else."""

import asyncio
import os
import threading
from dataclasses import dataclass, field
from typing import Any

from tests.inference.fake_engine import FakeLanding, FakeTier, running_node
from tests.inference.test_node_life import until
from tests.inference.test_node_serving import HI, load, post
from weights_cache.memory.view import LandingError
from weights_cache.model.revision import Revision

NUM_STUCK = (os.cpu_count() or 1) + 8
"""More than the event loop's own threads, at two calls each."""
MEMORY = 64 << 30


@dataclass
class HungTier(FakeTier):
    """A tier whose store says nothing, but of what was asked for before."""

    ends: threading.Event = field(default_factory=threading.Event)
    num_held: int = 0

    def land(self, wanted: Revision, *, pin: bool = False) -> FakeLanding:
        if wanted.id in self.landed or not self.landed:
            return super().land(wanted, pin=pin)
        self.num_held += 1
        self.ends.wait(60)
        raise LandingError("store_timeout", "no byte for 10 s")

    def small_files(self, wanted: Revision) -> dict[str, bytes]:
        if wanted.id not in self.landed and self.landed:
            self.ends.wait(60)
        return super().small_files(wanted)


async def test_a_model_that_is_on_the_host_starts_while_others_wait_for_the_store(tmp_path: Any) -> None:
    """Its weights and files are here, it is unloaded and asked for again: at once, however many wait."""
    tier = HungTier()
    async with running_node(tmp_path, tier=tier, memory_budget_bytes=MEMORY) as node:
        await load(node, "acme/here")
        await node.node.host.unload(node.node.host.workers[0].revision.id, to_region=False)
        stuck = [asyncio.create_task(load(node, f"acme/s{number}")) for number in range(NUM_STUCK)]
        try:
            await until(lambda: tier.num_held == NUM_STUCK)
            line = (await asyncio.wait_for(load(node, "acme/here"), 20))[-1]
            answer = await post(node, "/v1/chat/completions", {"model": "acme/here", "messages": HI})
        finally:
            tier.ends.set()
        failed = await asyncio.gather(*stuck)

    assert (line["phase"], line["start"]) == ("ready", "host")
    assert answer.status_code == 200
    assert {one[-1]["code"] for one in failed} == {"weights_unreadable"}

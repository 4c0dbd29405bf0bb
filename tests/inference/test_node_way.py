"""A load whose weights find no place on the host, though the budgets said so: what is idle or ending makes way."""

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from inference.workers.host import Tenure
from tests.inference.fake_engine import (
    TEXT,
    FakeLanding,
    FakeTier,
    RunningNode,
    Script,
    revision,
    running_node,
)
from tests.inference.test_node_life import body, rest_of, until
from tests.inference.test_node_serving import HI, client, load, post
from weights_cache.memory.view import LandingError
from weights_cache.model.revision import Revision

SLOW = Script(gap_s=0.05)


@dataclass
class SmallTier(FakeTier):
    """A tier on a disk that somebody else fills, or whose cap is full of what is still mapped: one landing fits."""

    code: str = "host_full"

    def land(self, wanted: Revision, *, pin: bool = False) -> FakeLanding:
        if not all(landing.released for landing in self.landings):
            raise LandingError(self.code, f"no room for {wanted.model}")
        return super().land(wanted, pin=pin)


async def begun(node: RunningNode, model: str) -> Any:
    """A stream of which the first token is here, and the rest of it."""
    stream = await client(node).chat.completions.create(stream=True, **body(model=model))
    await anext(stream)
    return asyncio.create_task(rest_of(stream))


@pytest.mark.parametrize("code", ["host_full", "host_memory_full"])
async def test_an_idle_model_makes_way_for_one_that_finds_no_place(tmp_path: Any, code: str) -> None:
    async with running_node(tmp_path, tier=SmallTier(code=code)) as node:
        await load(node, "acme/a")
        line = (await load(node, "acme/b"))[-1]
        left = [worker.revision.model for worker in node.node.host.workers]

    assert (line["phase"], left) == ("ready", ["acme/b"])


async def test_a_load_waits_for_weights_whose_last_requests_run(tmp_path: Any) -> None:
    """The model was unloaded while it answered: its answer ends as it should, then the other one is there."""
    async with running_node(tmp_path, SLOW, tier=SmallTier()) as node:
        await load(node, "acme/a")
        rest = await begun(node, "acme/a")
        revision_id = node.node.host.workers[0].revision.id
        going = asyncio.create_task(node.node.host.unload(revision_id, to_region=False))
        await until(lambda: node.node.host.workers[0].state.value == "draining")
        line = (await load(node, "acme/b"))[-1]
        chunks = await rest
        await going

    assert line["phase"] == "ready"
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_a_model_in_use_stays_and_the_load_says_so(tmp_path: Any) -> None:
    async with running_node(tmp_path, SLOW, tier=SmallTier()) as node:
        await load(node, "acme/a")
        rest = await begun(node, "acme/a")
        line = (await load(node, "acme/b"))[-1]
        chunks = await rest
        answer = await post(node, "/v1/chat/completions", {"model": "acme/a", "messages": HI})

    assert (line["phase"], line["code"]) == ("failed", "memory_short")
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert answer.json()["choices"][0]["message"]["content"] == TEXT


async def test_what_is_short_is_named(tmp_path: Any) -> None:
    """The cap of all weights is not the models' memory."""
    async with running_node(tmp_path, SLOW, host_cache_bytes=150 << 20) as node:
        await load(node, "acme/a", weight_bytes=100 << 20)
        rest = await begun(node, "acme/a")
        line = (await load(node, "acme/b", weight_bytes=100 << 20))[-1]
        await rest

    assert line["code"] == "memory_short"
    assert "104,857,600 of the 157,286,400 bytes that this host has for weights" in line["message"]


async def awake(node: RunningNode, model: str) -> Any:
    """The last line of a load that nobody waits for, of a model that is to stay awake."""
    board = node.node.host.load(revision(model, weight_bytes=100 << 20), Tenure(60.0, 1, "prewarm"))
    return await board.outcome()


async def test_models_that_are_to_stay_awake_do_not_stop_each_other(tmp_path: Any) -> None:
    """There is room for one: a schedule that asks again and again for both would have them loaded by turns for ever."""
    async with running_node(tmp_path, host_cache_bytes=150 << 20) as node:
        first, second = await awake(node, "acme/a"), await awake(node, "acme/b")
        left = [worker.revision.model for worker in node.node.host.workers]
        asked = (await load(node, "acme/c", weight_bytes=100 << 20))[-1]

    assert (first["phase"], second["phase"], second["code"]) == ("ready", "failed", "memory_short")
    assert left == ["acme/a"]
    assert asked["phase"] == "ready", "somebody waits for this one"


async def test_models_that_are_to_stay_awake_do_not_stop_each_other_for_a_disk_either(tmp_path: Any) -> None:
    async with running_node(tmp_path, tier=SmallTier()) as node:
        first, second = await awake(node, "acme/a"), await awake(node, "acme/b")
        asked = (await load(node, "acme/c"))[-1]

    assert (first["phase"], second["phase"], asked["phase"]) == ("ready", "failed", "ready")


async def test_an_engine_that_is_lost_comes_back_on_the_terms_of_the_last_load(tmp_path: Any) -> None:
    """Its hours began while it was awake already: the next one is not idled out in them."""
    async with running_node(tmp_path) as node:
        await load(node)
        await post(node, "/v1/chat/completions", {"model": "acme/m", "messages": HI})
        host = node.node.host
        host.load(host.workers[0].revision, Tenure(60.0, 1, "prewarm"))
        node.shell.engines[0].process.kill()
        await until(lambda: len(node.shell.engines) == 2)
        kept = [tenure.min_replicas for tenure in host._tenures.values()]

    assert kept == [1]

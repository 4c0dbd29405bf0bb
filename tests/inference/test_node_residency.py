"""Several models share one device: in pauses each has its turn, nothing that runs is dropped, none is there twice."""

import asyncio
import random
from collections import Counter
from typing import Any

import pytest

from tests.evidence import count
from tests.inference.fake_engine import ANSWER, TEXT, RunningNode, Script, running_node
from tests.inference.test_node_serving import HI, load, post

BYTES = 100 << 20
BUDGET = 450 << 20  # two of them with their processes and slots, not three
MODELS = [f"acme/r{number}" for number in range(5)]
NUM_CLIENTS, NUM_ASKS = 4, count(5, 40)


def watched(node: RunningNode, seen: Counter[str]) -> None:
    """Have every fork looked at: within the budget, and no other process of the same revision is alive."""
    fork = node.shell.fork

    async def looked_at(spec: Any, fds: Any, key: str = "") -> tuple[int, float]:
        model = spec["revision"]["model"]
        alive = [
            each
            for each in node.shell.engines
            if each.spec["revision"]["model"] == model and each.process.returncode is None
        ]
        assert alive == [], f"{model} is loaded twice"
        assert node.node.host.used_bytes <= BUDGET
        seen[model] += 1
        return await fork(spec, fds, key)

    node.shell.fork = looked_at  # type: ignore[method-assign]


async def answered(node: RunningNode, model: str) -> str:
    """One answer, got as a gateway gets it: load what is not resident, come back while others are in the way."""
    for _ in range(5000):
        answer = await post(node, "/v1/chat/completions", {"model": model, "messages": HI})
        if answer.status_code == 200:
            return str(answer.json()["choices"][0]["message"]["content"])
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "not_resident")
        line = (await load(node, model, weight_bytes=BYTES))[-1]
        assert line["phase"] == "ready" or line["code"] in {"memory_short", "model_not_ready"}, line
        await asyncio.sleep(0.01)
    raise AssertionError(f"{model} never had its turn")


@pytest.mark.parametrize("seed", [1, 2])
async def test_every_model_has_its_turn_and_nothing_that_runs_is_dropped(tmp_path: Any, seed: int) -> None:
    rng, forks = random.Random(seed), Counter[str]()
    wishes = [[rng.choice(MODELS) for _ in range(NUM_ASKS)] for _ in range(NUM_CLIENTS)]
    script = Script(answer=lambda _order: [ANSWER[:40], ANSWER[40:]], gap_s=0.01)
    async with running_node(tmp_path, script, memory_budget_bytes=BUDGET) as node:
        watched(node, forks)

        async def client(models: list[str]) -> list[str]:
            return [await answered(node, model) for model in models]

        texts = await asyncio.gather(*map(client, wishes))
        used_bytes = node.node.host.used_bytes

    asked = {model for models in wishes for model in models}
    assert {text for each in texts for text in each} == {TEXT}
    assert forks.keys() == asked
    assert sum(forks.values()) > len(asked)  # some had to go for others and came back
    assert 0 < used_bytes <= BUDGET


async def test_the_one_used_last_stays(tmp_path: Any) -> None:
    """Least-recently-used counts requests, not loads."""
    async with running_node(tmp_path, memory_budget_bytes=BUDGET) as node:
        await load(node, "acme/a", weight_bytes=BYTES)
        await load(node, "acme/b", weight_bytes=BYTES)
        await post(node, "/v1/chat/completions", {"model": "acme/a", "messages": HI})
        await load(node, "acme/c", weight_bytes=BYTES)
        left = {worker.revision.model for worker in node.node.host.workers}

    assert left == {"acme/a", "acme/c"}

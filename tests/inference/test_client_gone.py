"""A client that goes away ends its work on the engine at once, streamed or not, and is counted."""

import asyncio
import logging
from typing import Any

import httpx2 as httpx
import pytest

from tests.inference.fake_engine import RunningNode, Script, running_node
from tests.inference.poisoned import Client
from tests.inference.test_node_serving import AUTH, HI, load

HEAD_PART = 0.9
"""Of the bytes of this request, so many at most are its head."""
CHAT = {"model": "acme/m", "messages": HI, "n": 2, "max_tokens": 60}


async def until(condition: Any) -> None:
    """Wait for what must come; the test's own limit ends the wait."""
    while not condition():  # noqa: ASYNC110 - no event tells it
        await asyncio.sleep(0.002)


async def count(node: RunningNode, stream: str) -> int:
    async with httpx.AsyncClient(verify=False, headers=AUTH) as http:
        page = (await http.get(f"{node.url}/metrics")).text
    lines = [line for line in page.splitlines() if line.startswith("nearfield_node_clients_gone_total{")]
    return next((int(float(line.split()[-1])) for line in lines if f'stream="{stream}"' in line), 0)


@pytest.mark.parametrize(("stream", "num_events"), [(True, 0), (True, 3), (False, 0)])
async def test_every_choice_is_cancelled_and_the_client_counted(
    tmp_path: Any, stream: bool, num_events: int
) -> None:
    async with running_node(tmp_path, Script(gap_s=0.05)) as node:
        await load(node)
        engine, worker = node.shell.engines[0], node.node.host.find(None, "acme/m")
        client = Client("/v1/chat/completions", CHAT | {"stream": stream})
        await client.send(node.url)
        await client.hear(num_events)
        await until(lambda: len(engine.orders) == 2)
        client.leave()
        await until(lambda: len(engine.cancelled) == 2)
        await until(lambda: not worker.num_requests)

        assert sorted(engine.cancelled) == sorted(order["id"] for order in engine.orders)
        assert max(engine.sent.values(), default=0) < 20, "it stopped long before its end"
        assert await count(node, "yes" if stream else "no") == 1
        assert await count(node, "no" if stream else "yes") == 0


async def test_an_answer_that_was_taken_is_no_client_gone(tmp_path: Any) -> None:
    async with running_node(tmp_path) as node:
        await load(node)
        async with httpx.AsyncClient(verify=False, headers=AUTH) as http:
            for stream in (True, False):
                answer = await http.post(f"{node.url}/v1/chat/completions", json=CHAT | {"stream": stream})
                assert answer.status_code == 200

        assert (await count(node, "yes"), await count(node, "no")) == (0, 0)
        assert node.shell.engines[0].cancelled == []


@pytest.mark.parametrize("part", [0.1, 0.3, 0.98])
async def test_half_a_request_never_reaches_the_engine(
    tmp_path: Any, part: float, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_node(tmp_path) as node:
        await load(node)
        client = Client("/v1/chat/completions", CHAT)
        await client.send(node.url, part)
        client.leave()
        async with httpx.AsyncClient(verify=False, headers=AUTH) as http:
            answer = await http.post(f"{node.url}/v1/chat/completions", json=CHAT)

        assert answer.status_code == 200
        assert len(node.shell.engines[0].orders) == 2
        assert await count(node, "no") == (part > HEAD_PART), "a head that is not whole is no request yet"
        assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []

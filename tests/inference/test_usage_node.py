"""One record of each request that reached an engine: whose it was, what it used, how it ended; also on a full disk."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2 as httpx
import pytest

from inference.usage import journal, node_usage
from inference.usage.node_usage import NodeUsage, Place
from regions.usage.record import Record
from regions.usage.sums import sums
from tests.inference.fake_engine import ANSWER, VOCABULARY, RunningNode, Script, running_node
from tests.inference.poisoned import Client
from tests.inference.test_client_gone import until
from tests.inference.test_node_receipt import figures
from tests.inference.test_node_serving import AUTH, HI, load, post
from wire.figures.metrics import Metrics

Records = list[dict[str, Any]]
CHAT: dict[str, Any] = {"model": "acme/m", "messages": HI}
WHO = {"x-request-id": "req_1", "x-nearfield-tenant": "acme", "x-nearfield-key": "0123456789ab"}


class Store:
    """Objects; away while `fault` is set."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.fault: OSError | None = None

    async def put_once(self, bucket: str, key: str, data: bytes) -> bool:
        if self.fault:
            raise self.fault
        return self.objects.setdefault(key, data) == data

    def records(self) -> Records:
        data = b"".join(value for key, value in self.objects.items() if "/engines/" not in key)
        return [json.loads(line) for line in data.splitlines()]


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[RunningNode]:
    async with running_node(tmp_path) as running:
        await load(running)
        yield running


def told(node: RunningNode) -> Records:
    return list(node.node.usage_told()["records"])


async def accounted(node: RunningNode, num: int) -> Records:
    """Wait for so many records; the scripted engine says nothing of orders that were cancelled before it is gone."""
    await until(lambda: len(told(node)) >= num)
    found = told(node)
    assert len(found) == num
    assert [Record.of(record).request for record in found] == [record["request"] for record in found]
    return found


async def test_who_asked_and_what_the_answer_said(node: RunningNode) -> None:
    whole = await post(node, "/v1/chat/completions", CHAT, **WHO, **{"x-nearfield-attempt": "2"})
    several = await post(
        node, "/v1/completions", {"model": "acme/m", "prompt": ["a b", "c"], "n": 2, "stream": True}
    )
    refused = await post(node, "/v1/completions", {"model": "acme/m", "prompt": ""})
    first, second = await accounted(node, 2)
    usage = whole.json()["usage"]

    assert refused.status_code == 400, "it never reached the engine: no record"
    assert several.status_code == 200
    assert first["request"] == "req_1"
    assert (first["tenant"], first["key"], first["try"]) == ("acme", "0123456789ab", 2)
    assert (first["region"], first["model"], first["kind"], first["engine"]) == (
        "iad", "acme/m", "chat", "nearfield",
    )  # fmt: skip
    assert (first["prompt_tokens"], first["completion_tokens"]) == (
        usage["prompt_tokens"],
        usage["completion_tokens"],
    )
    assert first["outcome"] == "finished"
    assert first["start"] <= first["end"]
    assert (second["kind"], second["orders"][1], second["key"], second["try"]) == (
        "text_completion",
        4,
        "",
        0,
    )
    assert second["completion_tokens"] == 4 * 16, "what a completion has that asks for no number"
    assert second["prompt_tokens"] == sum(
        len(VOCABULARY.encode(text, add_special=True)) for text in ("a b", "c")
    )


@pytest.mark.parametrize(
    ("header", "value"),
    [("x-nearfield-key", "x" * 12), ("x-nearfield-key", "0" * 64), ("x-nearfield-attempt", "-1")],
)
async def test_headers_that_no_edge_sends_are_nobodys(node: RunningNode, header: str, value: str) -> None:
    await post(node, "/v1/chat/completions", CHAT, **{header: value})
    (record,) = await accounted(node, 1)

    assert (record["key"], record["try"]) == ("", 0)


@pytest.mark.parametrize("stream", [True, False])
async def test_stop_strings_clients_that_leave_and_engines_that_die(tmp_path: Path, stream: bool) -> None:
    async with running_node(tmp_path, Script(gap_s=0.01)) as node:
        await load(node)
        stopped = await post(node, "/v1/chat/completions", CHAT | {"stop": "fox", "stream": stream})
        client = Client("/v1/chat/completions", CHAT | {"stream": stream, "n": 2})
        await client.send(node.url)
        engine = node.shell.engines[0]
        await until(lambda: any(engine.sent.get(order["id"], 0) > 2 for order in engine.orders[1:]))
        client.leave()
        await until(lambda: len(engine.cancelled) == 3)
        asking = asyncio.create_task(post(node, "/v1/chat/completions", CHAT | {"stream": stream}))
        await until(lambda: len(engine.orders) == 4 and engine.sent.get(engine.orders[3]["id"], 0) > 2)
        engine.process.kill()
        await asking
        records = await accounted(node, 3)
        page = await figures(node)

    by_order = {record["orders"][0]: record for record in records}
    assert stopped.status_code == 200
    assert [by_order[order]["outcome"] for order in (0, 1, 3)] == ["stopped", "cancelled", "worker_lost"]
    assert all(0 < record["completion_tokens"] < 2 * len(ANSWER) for record in records)
    assert page['nearfield_usage_requests_total{model_name="acme/m",outcome="cancelled"}'] == 1
    assert page['nearfield_usage_tokens_total{model_name="acme/m",type="completion"}'] == sum(
        record["completion_tokens"] for record in records
    ) == page['nearfield_generation_tokens_total{model_name="acme/m"}']  # fmt: skip


async def test_vectors_and_scores(tmp_path: Path) -> None:
    async with running_node(tmp_path, Script(dim=4)) as node:
        await load(node, kind="embed", pooling="mean", eos_token_ids=())
        vectors = await post(node, "/v1/embeddings", {"model": "acme/m", "input": ["a b", "c"]})
        scores = await post(node, "/v1/rerank", {"model": "acme/m", "query": "a", "documents": ["b", "c"]})
        found = await accounted(node, 2)

    assert [record["kind"] for record in found] == ["embeddings", "rerank"]
    for answer, record in zip((vectors, scores), found, strict=True):
        assert record["prompt_tokens"] == answer.json()["usage"]["prompt_tokens"]
        assert (record["completion_tokens"], record["outcome"]) == (0, "finished")


async def test_records_come_to_the_store_once_whenever_it_is_there(tmp_path: Path) -> None:
    """Away at first; then a node that stops, and the next one of the same folder goes on counting."""
    store = Store()
    store.fault = OSError("away")
    async with running_node(tmp_path, usage_store=store, usage_s=0.02) as node:
        await load(node)
        await post(node, "/v1/chat/completions", CHAT, **WHO)
        await until(lambda: list((tmp_path / "usage" / "sealed").glob("*.jsonl")))
        waiting = told(node)
        assert not store.objects
        store.fault = None
        await until(store.records)
    async with running_node(tmp_path, usage_store=store) as node:
        await load(node)
        await post(node, "/v1/chat/completions", CHAT, **(WHO | {"x-request-id": "req_2"}))

    assert [record["request"] for record in waiting] == ["req_1"]
    assert [record["request"] for record in store.records()] == ["req_1", "req_2"]
    keys = [key for key in store.objects if "/engines/" not in key]
    (place,) = {key.rsplit("/", 2)[0] for key in keys}
    assert place.startswith("usage/iad/node-"), "under its region and its folder's own name"
    assert not list((tmp_path / "usage" / "sealed").glob("*.jsonl"))
    (total,) = sums(map(Record.of, store.records()), ("tenant",)).values()
    assert total.requests == 2


async def test_a_full_disk_stops_what_could_not_be_counted_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "MAX_UNWRITTEN", 20)
    async with running_node(tmp_path) as node:
        await load(node)
        book = node.node.usage._journal
        there, full = book._file, os.open("/dev/full", os.O_WRONLY)
        book._file = full
        answers = [await post(node, "/v1/completions", {"model": "acme/m", "prompt": "x", "max_tokens": 1})]
        async with httpx.AsyncClient(verify=False, headers=AUTH) as http:
            body = {"model": "acme/m", "prompt": "x", "max_tokens": 1}
            for _ in range(20):
                answers.append(await http.post(f"{node.url}/v1/completions", json=body))
                if answers[-1].status_code != 200:
                    break
        book._file = there
        os.close(full)
        again = await post(node, "/v1/completions", {"model": "acme/m", "prompt": "x", "max_tokens": 1})
        records = await accounted(node, len(answers))

    assert {answer.status_code for answer in answers[:-1]} == {200}, "it serves on while lines fit in memory"
    assert answers[-1].status_code == 503
    assert answers[-1].json()["error"]["code"] == "usage_unwritten"
    assert answers[-1].headers["retry-after"] == "1"
    assert again.status_code == 200
    assert len({record["attempt"] for record in records}) == len(answers)


async def test_a_node_that_was_killed_is_counted_by_the_next(tmp_path: Path) -> None:
    """What the first one had written down is all there is: the folder as kill -9 leaves it."""
    folder = tmp_path / "usage"
    async with running_node(tmp_path, Script(gap_s=30.0)) as node:
        await load(node)
        asking = asyncio.create_task(post(node, "/v1/chat/completions", CHAT, **WHO))
        await until(lambda: node.node.usage_told()["open"])
        (first,) = folder.glob("journal-*.jsonl")
        left = first.read_bytes()
        asking.cancel()
        node.shell.engines[0].process.kill()
    for path in folder.glob("journal-*.jsonl"):
        path.unlink()
    for path in (folder / "sealed").glob("*"):
        path.unlink()
    first.write_bytes(left)
    async with running_node(tmp_path) as node:
        (record,) = await accounted(node, 1)

    assert (record["request"], record["tenant"], record["outcome"]) == ("req_1", "acme", "node_lost")


async def test_nothing_is_looked_at_while_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that only the test moves: no sync and no wait for one, until a line is there; and the end is heard."""
    waited: list[float] = []

    async def passes(seconds: float) -> None:
        waited.append(seconds)

    usage = NodeUsage(Place("iad", "node", tmp_path, seal_s=3_600.0), None, Metrics())
    monkeypatch.setattr(node_usage, "asyncio", SimpleNamespace(**vars(asyncio) | {"sleep": passes}))
    tending = asyncio.create_task(usage.tend())
    await until(lambda: usage._has_news._waiters)
    assert waited == []
    usage._write({"line": "open", "attempt": "a", "log": "b"})
    assert usage._journal.is_behind
    await until(lambda: not usage._journal.is_behind and usage._has_news._waiters)
    assert waited == [journal.SYNC_S]
    await usage.close()
    await tending

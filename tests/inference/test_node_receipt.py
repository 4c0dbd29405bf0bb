"""Every start accounts for its wall time: on the response, in /metrics and in the log, by phase and by source."""

import asyncio
import json
import logging
import re
from typing import Any

import httpx2 as httpx
import pytest

from tests.inference.fake_engine import (
    ANSWER,
    FakeEngine,
    FakeLanding,
    FakeProgress,
    FakeTier,
    RunningNode,
    Script,
    revision,
    running_node,
)
from tests.inference.test_node_life import status, until
from tests.inference.test_node_serving import AUTH, HI, load, post
from weights_cache.memory.view import LandingError
from wire.timing import parse_receipt

PHASES = ["queue", "prepare", "fork", "boot", "fetch", "verify", "attach", "warm", "text"]
ENGINE = {"attach": 30.0, "wait": 20.0, "warm": 10.0}


async def slowly(engine: FakeEngine) -> None:
    """An engine that takes longer than it accounts for: the rest is its process coming up."""
    await asyncio.sleep(0.15)
    await engine.link.send({"op": "ready", "phases": ENGINE, "slots": 4})


async def figures(node: RunningNode) -> dict[str, float]:
    """/metrics as {series: value}."""
    async with httpx.AsyncClient(verify=False) as http:
        answer = await http.get(node.url + "/metrics", headers=AUTH)
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = (line.rsplit(" ", 1) for line in answer.text.splitlines() if not line.startswith("#"))
    return {series: float(value) for series, value in lines}


async def streamed(node: RunningNode) -> dict[str, Any]:
    """The node's receipt of a streamed chat."""
    answer = await post(node, "/v1/chat/completions", {"model": "acme/m", "messages": HI, "stream": True})
    return dict(parse_receipt(answer.text.removesuffix("\n\n").split("\n\n")[-1]) or {})


@pytest.mark.parametrize("start", ["region", "host"])
async def test_the_phases_of_a_start_sum_to_its_wall_time(tmp_path: Any, start: str) -> None:
    tier = FakeTier(landed={revision().id} if start == "host" else set())
    async with running_node(tmp_path, Script(start=slowly), tier) as node:
        line = (await load(node))[-1]
        receipt = await streamed(node)
        again = await streamed(node)

    assert line["start"] == receipt["start"] == start
    assert list(line["phases"]) == list(receipt["start_phases"]) == PHASES
    assert sum(line["phases"].values()) == pytest.approx(line["total_ms"], rel=0.02)
    assert sum(receipt["start_phases"].values()) == pytest.approx(receipt["start_total_ms"], rel=0.02)
    assert line["phases"]["boot"] > 50.0
    assert line["phases"]["attach"] == ENGINE["attach"]
    assert line["bytes"][start] == sum(line["bytes"].values()) == 100
    assert (again["start"], again["start_phases"], again["start_total_ms"]) == ("warm", {}, 0.0)
    assert receipt["time_to_first_token_ms"] > 0


async def test_the_wait_for_room_is_the_starts_queue(tmp_path: Any) -> None:
    """One model drains before another may come: that time is on the second one's receipt and not in its attach."""
    async with running_node(tmp_path, Script(gap_s=60.0), memory_budget_bytes=300 << 20) as node:
        await load(node, "acme/a", weight_bytes=100 << 20)
        asking = asyncio.create_task(post(node, "/v1/chat/completions", {"model": "acme/a", "messages": HI}))
        await until(lambda: node.shell.engines[0].orders)
        order = {"revision": revision("acme/a", weight_bytes=100 << 20).id, "to": "host"}
        unloading = asyncio.create_task(post(node, "/unload", order))
        await until(lambda: node.node.host.workers[0].state.value == "draining")
        loading = asyncio.create_task(load(node, "acme/b", weight_bytes=100 << 20))
        await until(node.node.host._room.locked)
        await asyncio.sleep(0.2)
        asking.cancel()  # it was what the first one still had to do
        line = (await loading)[-1]
        await unloading
        attach_s = node.node.host.attach_s

    assert line["phases"]["queue"] >= 190.0
    assert attach_s is not None
    assert attach_s * 1000 <= line["total_ms"] - line["phases"]["queue"]


async def test_metrics_and_log_say_what_the_receipt_says(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "nearfield.node"):
        async with running_node(tmp_path, Script(start=slowly)) as node:
            line = (await load(node))[-1]
            await streamed(node)
            await streamed(node)
            await load(node, "acme/huge", weight_bytes=1 << 50)
            told = await figures(node)

    for name, ms in line["phases"].items():
        series = f'nearfield_node_start_phase_seconds_sum{{start="region",phase="{name}"}}'
        assert told[series] == pytest.approx(ms / 1000, abs=1e-5)
    assert told['nearfield_node_start_seconds_sum{start="region"}'] == pytest.approx(
        line["total_ms"] / 1000, abs=1e-5
    )
    assert told['nearfield_node_start_bytes_total{source="region"}'] == 100
    assert told['nearfield_node_start_failures_total{code="model_too_large"}'] == 1
    assert told['nearfield_node_first_token_seconds_count{start="region"}'] == 1
    assert told['nearfield_node_first_token_seconds_count{start="warm"}'] == 1
    assert told['nearfield_node_workers{state="resident"}'] == 1
    assert told["nearfield_node_memory_used_bytes"] > 1_000_000
    words = next(each.getMessage() for each in caplog.records if "start of" in each.getMessage())
    assert re.match(r"start of acme/m: region in [0-9.]+ ms \(queue=[0-9.]+ prepare=", words)
    assert words.endswith("bytes region=100")


async def test_metrics_want_the_hop_token(tmp_path: Any) -> None:
    async with running_node(tmp_path) as node, httpx.AsyncClient(verify=False) as http:
        answer = await http.get(node.url + "/metrics")

    assert answer.status_code == 401
    assert json.loads(answer.text)["error"]["code"] == "invalid_api_key"


async def test_what_a_load_shares_is_on_its_receipt(tmp_path: Any) -> None:
    """Bytes that another revision had count as the host's, are named, and are not counted as read."""

    class Sharing(FakeTier):
        def land(self, wanted: Any, *, pin: bool = False) -> Any:
            landing = super().land(wanted, pin=pin)
            landing.bytes_read, landing.host_bytes, landing.shared_bytes = 30, 70, 70
            return landing

    async with running_node(tmp_path, tier=Sharing()) as node:
        line = (await load(node))[-1]
        receipt = await streamed(node)
        told = await figures(node)

    assert (line["bytes"]["host"], line["bytes"]["region"], line["shared_bytes"]) == (70, 30, 70)
    assert (receipt["bytes"]["host"], receipt["shared_bytes"]) == (70, 70)
    assert told["nearfield_node_start_shared_bytes_total"] == 70


async def test_the_bytes_of_a_start_that_did_not_wait_for_them_are_those_that_came(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """At `ready` a part is here; the rest turns out while the first request waits: receipt, metric and log say it."""
    landing = FakeLanding("region", bytes_read=10)
    part, whole = FakeProgress(done_bytes=10), FakeProgress()
    landing.progress = lambda: whole if landing.bytes_read == 30 else part  # type: ignore[method-assign]

    class Gated(FakeTier):
        def land(self, wanted: Any, *, pin: bool = False) -> Any:
            return landing

    def answer(_: Any) -> list[list[int]]:
        landing.bytes_read, landing.host_bytes, landing.shared_bytes = 30, 70, 70
        return [[token] for token in ANSWER]

    with caplog.at_level(logging.INFO, "nearfield.node"):
        async with running_node(tmp_path, Script(answer=answer), tier=Gated()) as node:
            await load(node)
            receipt = await streamed(node)
            await until(lambda: "start of" in caplog.text)
            told = await figures(node)

    assert (receipt["bytes"]["host"], receipt["bytes"]["region"], receipt["shared_bytes"]) == (70, 30, 70)
    assert told["nearfield_node_start_shared_bytes_total"] == 70
    assert told['nearfield_node_start_bytes_total{source="region"}'] == 30
    assert "bytes region=30 host=70 shared=70" in caplog.text


async def test_a_status_says_how_far_the_weights_of_a_worker_are(tmp_path: Any) -> None:
    """It takes requests, and they wait: the gateway tells those who stream."""
    landing = FakeLanding("region")
    landing.progress = lambda: FakeProgress(done_bytes=landing.bytes_read, eta_s=1.5)  # type: ignore[method-assign]

    class Gated(FakeTier):
        def land(self, wanted: Any, *, pin: bool = False) -> Any:
            return landing

    async with running_node(tmp_path, tier=Gated()) as node:
        landing.bytes_read = 40
        await load(node)
        on_its_way = (await status(node))["workers"][0]
        landing.bytes_read = 100
        here = (await status(node))["workers"][0]

    assert (on_its_way["state"], on_its_way["landing"]) == ("resident", {"percent": 40.0, "eta_s": 1.5})
    assert here["landing"] is None


async def test_weights_that_do_not_come_to_an_engine_that_waits_are_in_log_and_metric(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It had begun before them, so its start had gone well; its requests hear the cause, and so does the operator."""
    landing = FakeLanding("region")
    landing.progress = lambda: FakeProgress(done_bytes=40)  # type: ignore[method-assign]

    class Gated(FakeTier):
        def land(self, wanted: Any, *, pin: bool = False) -> Any:
            return landing

    async with running_node(tmp_path, tier=Gated()) as node:
        await load(node)
        landing.error = LandingError("store_timeout", "reading weights: no byte for 10 s")
        node.shell.engines[0].process.kill()
        await until(lambda: not node.node.host.workers)
        told = await figures(node)

    assert told['nearfield_node_start_failures_total{code="weights_unreadable"}'] == 1
    assert "load of acme/m failed: weights_unreadable: reading weights: no byte for 10 s" in caplog.text

"""`/healthz` tells the truth by the progress of each engine's step loop, and what does not come back is replaced."""

import asyncio
import os
import signal
from typing import Any

import httpx2 as httpx
import pytest

from inference.workers.engines import pulse
from inference.workers.engines.pulse import LARGEST_STEP_TOKENS, Pulse, patience_s
from inference.workers.residency import life
from tests.inference.fake_engine import TEXT, RunningNode, Script, running_node
from tests.inference.test_node_life import status, until
from tests.inference.test_node_serving import HI, load, post

READY = {"slots": 4, "pongs": True}


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds of silence as hundredths; an engine is given up long after it is told as stalled."""
    for name, value in {
        "BUSY_GAP_S": 0.01,
        "IDLE_GAP_S": 0.01,
        "LEAST_SILENCE_S": 0.3,
        "UNMEASURED_S": 0.3,
    }.items():
        monkeypatch.setattr(pulse, name, value)
    monkeypatch.setattr(life, "TEND_S", 0.01)


async def health(node: RunningNode) -> tuple[int, dict[str, Any]]:
    async with httpx.AsyncClient(verify=False) as http:
        answer = await http.get(node.url + "/healthz")
    return answer.status_code, answer.json()


async def until_health(node: RunningNode, wanted: int) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while (found := await health(node))[0] != wanted:  # noqa: ASYNC110 - asked as anybody asks
            await asyncio.sleep(0.01)
    return found[1]


def test_silence_counts_from_the_oldest_unanswered_ping() -> None:
    one = Pulse(10.0)
    assert not one.is_due(10.5, is_busy=True)
    assert one.is_due(11.0, is_busy=True)
    assert not one.is_due(14.0, is_busy=False)
    assert one.is_due(15.0, is_busy=False)
    one.asked(15.0)
    assert not one.is_due(99.0, is_busy=True), "one ping at a time"
    assert one.silent_s(18.0) == 3.0
    one.heard(18.0)
    assert one.silent_s(99.0) == 0.0


def test_a_long_step_that_its_pace_lets_expect_is_no_stall() -> None:
    slow = {"step_ms": 500.0, "prefill_ms_per_token": 20.0}
    assert patience_s(slow, is_busy=True) > 2 * (0.5 + 0.020 * LARGEST_STEP_TOKENS)
    assert patience_s(slow, is_busy=False) == pulse.LEAST_SILENCE_S
    assert patience_s({}, is_busy=True) == pulse.UNMEASURED_S
    assert patience_s({"step_ms": 1.0, "prefill_ms_per_token": 0.01}, is_busy=True) == pulse.LEAST_SILENCE_S


@pytest.mark.parametrize("busy", [False, True])
async def test_a_frozen_engine_is_told_and_so_is_its_return(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, fast: None, busy: bool
) -> None:
    monkeypatch.setattr("inference.workers.worker.GIVEN_UP", 10_000)
    async with running_node(tmp_path, Script(ready=READY, gap_s=0.002)) as node:
        await load(node)
        assert await until_health(node, 200) == {"status": "ok"}
        asking = asyncio.create_task(post(node, "/v1/chat/completions", {"model": "acme/m", "messages": HI}))
        if not busy:
            await asking
        node.shell.script.frozen = True
        assert await until_health(node, 503) == {"status": "stalled", "models": ["acme/m"]}
        assert (await status(node))["workers"][0]["stalled_s"] > 0
        node.shell.script.frozen = False
        assert await until_health(node, 200) == {"status": "ok"}
        assert (await asking).json()["choices"][0]["message"]["content"] == TEXT
    assert len(node.shell.engines) == 1


async def test_one_that_does_not_come_back_fails_its_requests_and_is_replaced_unasked(
    tmp_path: Any, fast: None
) -> None:
    async with running_node(tmp_path, Script(ready=READY)) as node:
        await load(node)
        node.shell.script.frozen = True
        asking = asyncio.create_task(post(node, "/v1/chat/completions", {"model": "acme/m", "messages": HI}))
        await until(lambda: node.shell.engines[0].process.returncode is not None, 60)
        node.shell.script.frozen = False
        lost = await asking
        await until(lambda: len(node.shell.engines) == 2 and node.node.host.workers[0].ready, 60)
        assert await until_health(node, 200) == {"status": "ok"}
        again = await post(node, "/v1/chat/completions", {"model": "acme/m", "messages": HI})
        assert node.node.host.workers[0].report.start == "host"

    assert (lost.status_code, lost.json()["error"]["code"]) == (503, "worker_lost")
    assert again.json()["choices"][0]["message"]["content"] == TEXT


async def test_one_that_freezes_before_a_step_was_measured_is_not_waited_for_as_if_it_were_slow(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process does nothing: of 20 who wait each hears so once, long before a slow step's time."""
    monkeypatch.setattr("inference.workers.worker.LIFELESS_S", 1.0)
    assert pulse.UNMEASURED_S > 60
    async with running_node(tmp_path, Script(ready=READY)) as node:
        await load(node)
        node.shell.script.frozen = True
        ask = {"model": "acme/m", "messages": HI}
        asking = [asyncio.create_task(post(node, "/v1/chat/completions", ask)) for _ in range(20)]
        lost = await asyncio.wait_for(asyncio.gather(*asking), 60)
        node.shell.script.frozen = False

    codes = {each.json()["error"]["code"] for each in lost if each.status_code == 503}
    assert (codes, {each.status_code for each in lost} <= {503, 429}) == ({"worker_lost"}, True)


async def test_a_killed_engine_is_back_unasked_but_not_again_and_again(tmp_path: Any) -> None:
    """Nothing is fetched: its weights are on the host. One that nobody used since stays away: it may die of itself."""
    async with running_node(tmp_path, Script(ready=READY)) as node:
        await load(node)
        await post(node, "/v1/chat/completions", {"model": "acme/m", "messages": HI})
        engines, workers = node.shell.engines, lambda: node.node.host.workers
        os.kill(engines[0].process.pid, signal.SIGKILL)
        await until(lambda: len(engines) == 2 and workers() and workers()[0].ready, 60)
        os.kill(engines[1].process.pid, signal.SIGKILL)
        await until(lambda: not workers(), 60)
        status_now, _ = await health(node)

    assert status_now == 200, "a node without a worker can do its work"
    assert len(engines) == 2
    assert [landing.source for landing in node.tier.landings] == ["region", "host"]

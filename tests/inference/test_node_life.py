"""Loads, ends, losses and leavings: what happens to the requests when something else happens."""

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest

from inference.workers.shell.link import ShellError, ShellLost
from inference.workers.shell.standing import StandingShell
from tests.inference.fake_engine import (
    ANSWER,
    TEXT,
    FakeEngine,
    FakeLanding,
    FakeProgress,
    FakeShell,
    FakeTier,
    RunningNode,
    Script,
    revision,
    running_node,
    small_files,
)
from tests.inference.test_node_serving import AUTH, HI, client, load, post
from weights_cache.memory.view import LandingError

SLOW = Script(gap_s=0.02)


async def status(node: RunningNode) -> dict[str, Any]:
    async with httpx.AsyncClient(verify=False) as http:
        return dict((await http.get(node.url + "/status", headers=AUTH)).json())


async def until(condition: Any, deadline_s: float = 60.0) -> None:
    async with asyncio.timeout(deadline_s):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


async def rest_of(stream: Any) -> list[Any]:
    return [chunk async for chunk in stream]


def body(**more: Any) -> dict[str, Any]:
    return {"model": "acme/m", "messages": HI, **more}


async def test_one_load_for_any_number_of_askers(tmp_path: Any) -> None:
    async with running_node(tmp_path) as node:
        lines = await asyncio.gather(*(load(node) for _ in range(5)))
        again = await load(node)
        told = await status(node)

    assert len(node.shell.engines) == 1
    assert {one[-1]["start"] for one in lines} == {"region"}
    assert {one[-1]["total_ms"] for one in lines} == {lines[0][-1]["total_ms"]}
    assert (again[-1]["phase"], again[-1]["start"]) == ("ready", "resident")
    assert len(again) == 1
    worker = told["workers"][0]
    assert (worker["model"], worker["revision"], worker["state"]) == ("acme/m", revision().id, "resident")
    assert (worker["slots"], worker["running"], worker["requests"]) == (4, 0, 0)
    assert told["memory"]["used_bytes"] > 1_000_000
    assert told["region"] == "iad"


async def test_progress_is_told_while_it_loads(tmp_path: Any) -> None:
    """A reader gets the newest line, so the engine waits with the next until this one was read."""
    lines: list[dict[str, Any]] = []

    async def start(engine: FakeEngine) -> None:
        for done in range(3):
            await engine.link.send({"op": "progress", "phase": "attach", "done": done, "total": 2})
            await until(
                lambda at=50.0 * done: lines and (lines[-1]["phase"], lines[-1]["percent"]) == ("attach", at)
            )
        await engine.link.send({"op": "ready", "slots": 1})

    wish = {"revision": revision().as_value(), "reason": "request"}
    async with (
        running_node(tmp_path, Script(start=start)) as node,
        httpx.AsyncClient(verify=False) as http,
        http.stream("POST", f"{node.url}/load", json=wish, headers=AUTH, timeout=60) as answer,
    ):
        async for line in answer.aiter_lines():
            lines.append(json.loads(line))  # noqa: PERF401 - the engine looks at them meanwhile

    told = [(line["phase"], line.get("percent")) for line in lines if line["phase"] != "fork"]
    assert told == [("attach", 0.0), ("attach", 50.0), ("attach", 100.0), ("ready", None)]


async def test_a_caller_of_load_who_leaves_stops_nothing(tmp_path: Any) -> None:
    async def start(engine: FakeEngine) -> None:
        await asyncio.sleep(0.15)
        await engine.link.send({"op": "ready", "slots": 1})

    async with running_node(tmp_path, Script(start=start)) as node:
        leaving = asyncio.create_task(load(node))
        await until(lambda: node.shell.engines)
        leaving.cancel()
        lines = await load(node)

    assert lines[-1]["phase"] == "ready"
    assert len(node.shell.engines) == 1


@pytest.mark.parametrize(
    ("make", "code"),
    [
        ({"tier": FakeTier(fault=LandingError("store_closed", "the store is down"))}, "weights_unreadable"),
        ({"tier": FakeTier(fault=LandingError("host_full", "no room"))}, "memory_short"),
        ({"tier": FakeTier({"config.json": b"{}"})}, "tokenizer_missing"),
        ({"tier": FakeTier(small_files() | {"tokenizer.json": b"{}"})}, "tokenizer_bad"),
        ({"memory_budget_bytes": 1_000_000}, "model_too_large"),
        ({"host_cache_bytes": 999_999}, "model_too_large"),
    ],
)
async def test_a_load_that_cannot_be_says_why(tmp_path: Any, make: dict[str, Any], code: str) -> None:
    async with running_node(tmp_path, **make) as node:
        failed = (await load(node))[-1]
        told = await status(node)

    assert (failed["phase"], failed["code"]) == ("failed", code)
    assert failed["message"]
    assert failed["next"]
    assert told["workers"] == []
    assert told["memory"]["used_bytes"] == 0
    assert all(landing.released for landing in node.tier.landings)


async def test_a_refused_fork_fails_the_load(tmp_path: Any) -> None:
    async with running_node(tmp_path) as node:
        node.shell.fork_fault = ShellError("two threads")
        failed = (await load(node))[-1]
        node.shell.fork_fault = None
        served = (await load(node))[-1]

    assert failed["code"] == "fork_failed"
    assert (served["phase"], served["start"]) == ("ready", "host")


@pytest.mark.parametrize(("num_lost", "phase"), [(1, "ready"), (2, "failed")])
async def test_a_fork_whose_shell_is_lost_is_tried_once_on_the_next(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, num_lost: int, phase: str
) -> None:
    """Whoever waits for it had no part in it; each try has a log of its own."""
    asked: list[Any] = []

    async def fork(shell: FakeShell, spec: Any, fds: Any, key: str = "") -> tuple[int, float]:
        asked.append(spec["usage_log"])
        if len(asked) <= num_lost:
            raise ShellLost("the shell hangs and is replaced")
        return await whole(shell, spec, fds, key)

    whole = FakeShell.fork
    monkeypatch.setattr(FakeShell, "fork", fork)
    async with running_node(tmp_path) as node:
        lines = await asyncio.gather(*(load(node) for _ in range(20)))

    assert {each[-1]["phase"] for each in lines} == {phase}
    assert {each[-1].get("code") for each in lines} == {None if phase == "ready" else "fork_failed"}
    assert len(set(asked)) == 2


async def test_an_engine_may_do_nothing_while_its_weights_are_on_their_way(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that says nothing for longer than that is the landing's to give up, with its own cause."""
    monkeypatch.setattr("inference.workers.start.LIFELESS_S", 0.5)
    done = [10]
    monkeypatch.setattr(FakeLanding, "progress", lambda _: FakeProgress(done[0], 100))

    async def start(engine: FakeEngine) -> None:
        os.kill(engine.process.pid, signal.SIGSTOP)
        await asyncio.sleep(2.0)
        done[0] = 100
        os.kill(engine.process.pid, signal.SIGCONT)
        await engine.link.send({"op": "ready", **Script().ready})

    async with running_node(tmp_path, Script(start=start)) as node:
        assert (await load(node))[-1]["phase"] == "ready"


async def test_an_engine_that_dies_while_it_loads(tmp_path: Any) -> None:
    async def start(engine: FakeEngine) -> None:
        await engine.link.send({"op": "fatal", "code": "bad_config", "message": "ValueError: no such layer"})
        engine.process.kill()

    async with running_node(tmp_path, Script(start=start)) as node:
        failed = (await load(node))[-1]
        told = await status(node)

    assert failed["code"] == "engine_failed"
    assert "no such layer" in failed["message"]
    assert told["workers"] == []


async def test_an_engine_that_freezes_while_it_loads_fails_all_who_wait_once(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what it does not do, and not after the minutes that a large model may take."""
    monkeypatch.setattr("inference.workers.start.LIFELESS_S", 1.0)
    pids: list[int] = []

    async def start(engine: FakeEngine) -> None:
        pids.append(engine.process.pid)
        os.kill(engine.process.pid, signal.SIGSTOP)

    async with running_node(tmp_path, Script(start=start)) as node:
        lines = await asyncio.wait_for(asyncio.gather(*(load(node) for _ in range(20))), 60)
        told = await status(node)

    assert {each[-1]["code"] for each in lines} == {"load_timeout"}
    assert len(pids) == 1
    assert told["workers"] == []


async def test_a_load_that_goes_on_is_not_ended_however_long_it_takes(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference.workers.start.LIFELESS_S", 1.0)
    monkeypatch.setattr("inference.workers.engines.own.OwnMaker.load_deadline_s", 2.0)

    async def start(engine: FakeEngine) -> None:
        for done in range(8):
            await engine.link.send({"op": "progress", "phase": "wait", "done": done, "total": 8})
            await asyncio.sleep(0.5)
        await engine.link.send({"op": "ready", **Script().ready})

    async with running_node(tmp_path, Script(start=start)) as node:
        assert (await load(node))[-1]["phase"] == "ready"


@pytest.mark.parametrize("how", ["killed", "link"])
async def test_a_lost_worker_fails_each_request_once_and_is_replaced(tmp_path: Any, how: str) -> None:
    """Before the first token 503 worker_lost; after it one error event; the next load starts from the host."""
    async with running_node(tmp_path, Script(gap_s=0.05)) as node, client(node) as asked:
        await load(node)
        engine = node.shell.engines[0]
        stream = await asked.chat.completions.create(model="acme/m", messages=HI, stream=True)
        first = await anext(aiter(stream))
        engine.script = Script(gap_s=5)
        waiting = asyncio.create_task(post(node, "/v1/chat/completions", body()))
        waiting_stream = asyncio.create_task(post(node, "/v1/chat/completions", body(stream=True)))
        await until(lambda: len(engine.orders) == 3)
        if how == "killed":
            os.kill(engine.process.pid, signal.SIGKILL)
        else:
            await engine.link.close()
        with pytest.raises(openai.APIError) as lost:
            await rest_of(stream)
        answers = [await waiting, await waiting_stream]
        node.shell.script = Script()
        await until(lambda: engine.process.returncode is not None)
        lines = await load(node)
        served = await post(node, "/v1/chat/completions", body())

    assert lost.value.code == "worker_lost"
    for answer in answers:
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "worker_lost")
        assert answer.headers["retry-after"] == "1"
    assert first.choices[0].delta.role == "assistant"
    assert lines[-1]["start"] in {"host", "resident"}, "the node may have brought it back by itself"
    assert len(node.shell.engines) == 2
    assert served.json()["choices"][0]["message"]["content"] == TEXT
    assert node.tier.landings[0].released


async def test_an_error_event_is_not_followed_by_done(tmp_path: Any) -> None:
    async with running_node(tmp_path, Script(gap_s=0.02)) as node:
        await load(node)
        answering = asyncio.create_task(post(node, "/v1/chat/completions", body(stream=True)))
        engine = node.shell.engines[0]
        await until(lambda: list(engine.sent.values()) and max(engine.sent.values()) >= 2)
        engine.process.kill()
        events = (await answering).text.removesuffix("\n\n").split("\n\n")

    assert "[DONE]" not in "".join(events)
    assert json.loads(events[-2].removeprefix("data: "))["error"]["code"] == "worker_lost"
    assert events[-1].startswith(": nearfield ")


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_who_leaves_is_cancelled_at_once(tmp_path: Any, stream: bool) -> None:
    async with running_node(tmp_path, Script(gap_s=0.05)) as node:
        await load(node)
        engine = node.shell.engines[0]
        asking = asyncio.create_task(post(node, "/v1/chat/completions", body(stream=stream, n=2)))
        await until(lambda: len(engine.sent) == 2)
        asking.cancel()
        await until(lambda: len(engine.cancelled) == 2)
        await until(lambda: not node.node.host.workers[0].num_requests)

    assert sorted(engine.cancelled) == sorted(order["id"] for order in engine.orders)


async def test_a_client_who_leaves_before_the_first_token_is_cancelled_too(tmp_path: Any) -> None:
    async with running_node(tmp_path, Script(gap_s=30)) as node:
        await load(node)
        engine = node.shell.engines[0]
        asking = asyncio.create_task(post(node, "/v1/chat/completions", body(stream=True)))
        await until(lambda: engine.orders)
        asking.cancel()
        await until(lambda: engine.cancelled == [engine.orders[0]["id"]])


async def test_an_idle_model_stops_and_its_next_load_is_from_the_host(tmp_path: Any) -> None:
    async with running_node(tmp_path, idle_timeout_s=0.3) as node:
        await load(node)
        await until(lambda: not node.node.host.workers)
        lines = await load(node)
        answer = await post(node, "/v1/chat/completions", body())

    assert lines[-1]["start"] == "host"
    assert answer.headers["x-nearfield-start"] == "host"


async def test_a_model_with_replicas_or_requests_does_not_stop(tmp_path: Any) -> None:
    async with running_node(tmp_path, Script(gap_s=0.03)) as node:
        async with httpx.AsyncClient(verify=False) as http:
            for name, replicas in (("acme/kept", 1), ("acme/m", 0)):
                wish = {
                    "revision": revision(name).as_value(),
                    "idle_timeout_s": 0.2,
                    "min_replicas": replicas,
                }
                await http.post(f"{node.url}/load", json=wish | {"reason": "prewarm"}, headers=AUTH)
        answering = asyncio.create_task(post(node, "/v1/chat/completions", body()))
        await asyncio.sleep(0.8)
        resident = {worker.revision.model for worker in node.node.host.workers}
        answer = await answering

    assert resident == {"acme/kept", "acme/m"}
    assert answer.status_code == 200
    assert answer.headers["x-nearfield-start"] == "resident"


async def test_the_longest_idle_worker_makes_room_and_a_busy_one_does_not(tmp_path: Any) -> None:
    async with running_node(tmp_path, Script(gap_s=0.05), memory_budget_bytes=450 << 20) as node:
        await load(node, "acme/a", weight_bytes=100 << 20)
        await load(node, "acme/b", weight_bytes=100 << 20)
        await load(node, "acme/c", weight_bytes=100 << 20)
        after = {worker.revision.model for worker in node.node.host.workers}
        busy = [asyncio.create_task(post(node, "/v1/chat/completions", body(model=name))) for name in after]
        await until(lambda: all(worker.num_requests for worker in node.node.host.workers))
        refused = (await load(node, "acme/d", weight_bytes=100 << 20))[-1]
        answers = [(await one).status_code for one in busy]

    assert after == {"acme/b", "acme/c"}
    assert (refused["phase"], refused["code"]) == ("failed", "memory_short")
    assert answers == [200, 200]


@pytest.mark.parametrize("to", ["host", "region"])
async def test_unload_lets_requests_finish_and_returns_when_the_slot_is_free(tmp_path: Any, to: str) -> None:
    async with running_node(tmp_path, SLOW) as node:
        await load(node)
        answering = asyncio.create_task(post(node, "/v1/chat/completions", body()))
        await until(lambda: node.shell.engines[0].orders)
        unloading = asyncio.create_task(post(node, "/unload", {"revision": revision().id, "to": to}))
        await until(lambda: node.node.host.workers[0].state.value == "draining")
        refused = await post(node, "/v1/chat/completions", body())
        unloaded = await unloading
        told = await status(node)
        answer = await answering
        again = (await load(node))[-1]

    assert refused.status_code == 409
    assert unloaded.json()["freed_bytes"] > 0
    assert told["workers"] == []
    assert answer.json()["choices"][0]["message"]["content"] == TEXT
    assert again["start"] == {"host": "host", "region": "region"}[to]


async def test_a_load_that_comes_while_the_old_worker_drains(tmp_path: Any) -> None:
    async with running_node(tmp_path, SLOW) as node:
        await load(node)
        answering = asyncio.create_task(post(node, "/v1/chat/completions", body()))
        await until(lambda: node.shell.engines[0].orders)
        unloading = asyncio.create_task(post(node, "/unload", {"revision": revision().id, "to": "host"}))
        await until(lambda: node.node.host.workers[0].state.value == "draining")
        again = (await load(node))[-1]
        await asyncio.gather(answering, unloading)

    assert again["phase"] == "ready"
    assert len(node.shell.engines) == 2


async def test_unload_of_what_is_loading_ends_the_load(tmp_path: Any) -> None:
    async def start(engine: FakeEngine) -> None:
        await asyncio.sleep(30)

    async with running_node(tmp_path, Script(start=start)) as node:
        loading = asyncio.create_task(load(node))
        await until(lambda: node.shell.engines and node.node.host.workers[0].pid)
        unloaded = await post(node, "/unload", {"revision": revision().id, "to": "host"})
        lines = await loading

    assert unloaded.status_code == 200
    assert (lines[-1]["phase"], lines[-1]["code"]) == ("failed", "model_not_ready")


@pytest.mark.parametrize("end", ["unload", "die"])
async def test_a_worker_that_is_gone_leaves_no_landing_to_the_collector(tmp_path: Any, end: str) -> None:
    """What the collector finds is freed in the event loop, where a gigabyte of it stops every request."""
    async with running_node(tmp_path) as node:
        await load(node)
        await post(node, "/v1/chat/completions", body())
        landing = weakref.ref(node.tier.landings.pop())
        gc.disable()
        try:
            if end == "unload":
                await node.node.host.unload(revision().id, to_region=True)
            else:
                await node.shell.engines[0].end()
            await until(lambda: landing() is None)
        finally:
            gc.enable()


async def test_unload_of_what_is_not_here_frees_nothing(tmp_path: Any) -> None:
    async with running_node(tmp_path) as node:
        answer = await post(node, "/unload", {"revision": "0" * 64, "to": "host"})

    assert answer.json() == {"freed_bytes": 0}


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/load", {}),
        ("/load", {"revision": {"schema": "x"}}),
        ("/load", {"revision": revision().as_value(), "reason": "because"}),
        ("/load", {"revision": revision().as_value(), "extra": 1}),
        ("/unload", {"to": "host"}),
        ("/unload", {"revision": "a", "to": "moon"}),
        ("/inspect", {"bucket": "models"}),
        ("/inspect", {"bucket": "models", "prefix": "a/m/", "files": [{"path": "x"}], "tensors": [{}]}),
    ],
)
async def test_a_strange_order_of_the_region_is_a_400(
    tmp_path: Any, path: str, content: dict[str, Any]
) -> None:
    async with running_node(tmp_path) as node:
        answer = await post(node, path, content)

    assert answer.status_code == 400
    assert answer.json()["error"]["param"]


async def test_stopping_lets_a_short_answer_finish(tmp_path: Any) -> None:
    async with running_node(tmp_path, SLOW) as node:
        await load(node)
        answering = asyncio.create_task(post(node, "/v1/chat/completions", body()))
        await until(lambda: node.shell.engines[0].orders)
    answer = await answering

    assert answer.json()["choices"][0]["message"]["content"] == TEXT


async def test_many_streams_at_once_do_not_mix(tmp_path: Any) -> None:
    """Each gets its own tokens back, whatever comes between."""

    def own(order: dict[str, Any]) -> list[list[int]]:
        return [[order["tokens"][-1]]] * order["max_tokens"]

    async with running_node(tmp_path, Script(answer=own, gap_s=0.001)) as node, client(node) as asked:
        await load(node)
        answers = await asyncio.gather(
            *(
                asked.completions.create(
                    model="acme/m", prompt=[ANSWER[n]], max_tokens=n + 1, stream=n % 2 == 0
                )  # type: ignore[call-overload]
                for n in range(20)
            )
        )
        texts = []
        for answer in answers:
            if hasattr(answer, "choices"):
                texts.append(answer.choices[0].text)
            else:
                texts.append("".join([chunk.choices[0].text async for chunk in answer if chunk.choices]))
    from tests.inference.fake_engine import VOCABULARY

    assert texts == [VOCABULARY.piece(ANSWER[n]).decode() * (n + 1) for n in range(20)]


def test_the_api_process_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, inference.node, inference.api.app, inference.api.text.template_child;"
        "bad = {'torch', 'transformers', 'boto3', 'botocore', 'aiobotocore'} & set(sys.modules); assert not bad, bad"
    )
    root = Path(__file__).parents[2]

    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, timeout=60)


class OneShell:
    """A shell that dies when the test says so."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.gone: asyncio.Future[None] = loop.create_future()
        self.exits: dict[int, asyncio.Future[int]] = {7: loop.create_future()}
        self.closed = False

    async def fork(self, spec: Any, fds: Any, key: str = "") -> tuple[int, float]:
        return 7, 1.0

    def exited(self, pid: int) -> asyncio.Future[int]:
        return self.exits[pid]

    async def close(self) -> None:
        self.closed = True


async def test_who_waits_for_a_shell_that_never_starts_hears_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it is more than a bad moment; and what comes later has the next start."""
    monkeypatch.setattr("inference.workers.shell.standing.RESTART_S", (0.0, 0.05, 0.05))
    faults = [OSError("no such folder")] * 4

    async def start() -> Any:
        if faults:
            raise faults.pop()
        return OneShell()

    standing = StandingShell(start)
    waiting = [asyncio.create_task(standing.fork({}, ())) for _ in range(20)]
    heard = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 30)
    assert {str(each) for each in heard} == {"no shell starts: no such folder"}
    with pytest.raises(ShellError, match="no such folder"):
        await asyncio.wait_for(standing.fork({}, ()), 30)
    assert (await asyncio.wait_for(standing.fork({}, ()), 30))[0] == 7
    await standing.close()


async def test_a_shell_that_dies_is_replaced_and_its_engines_are_told_dead() -> None:
    shells: list[OneShell] = []
    failures = [ShellError("no memory")]

    async def start() -> Any:
        if failures:
            raise failures.pop()
        shells.append(OneShell())
        return shells[-1]

    standing = StandingShell(start)
    assert not standing.is_up
    pid, _ = await standing.fork({}, ())
    exited = standing.exited(pid)
    shells[0].exits[7].set_result(-9)
    shells[0].gone.set_result(None)
    await until(lambda: len(shells) == 2)

    assert await exited == -9
    assert await standing.exited(pid) == 0, "gone already"
    assert (await standing.fork({}, ()))[0] == 7
    assert shells[0].closed
    await standing.close()
    assert shells[1].closed

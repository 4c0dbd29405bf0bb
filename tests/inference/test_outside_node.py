"""A node whose model runs on an external engine: a small server with a script of faults behind the real node."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import pytest_asyncio

from inference.outside.definition import EngineEntry, defined
from inference.workers.residency import backoff
from tests.inference.fake_engine import RunningNode, Script, revision, running_node
from tests.inference.test_node_serving import AUTH
from weights_cache.model.revision import Spec
from wire.timing import parse_receipt, parse_server_timing

pytestmark = pytest.mark.asyncio(loop_scope="module")

SERVER = str(Path(__file__).with_name("outside_server.py"))
TEXT = "The quick brown fox"
HI: list[Any] = [{"role": "user", "content": "hi"}]
REVISION = revision("acme/m", max_len=128)
WAIT_S = 60.0


class Outside:
    """One node, one definition `peer`, and what its servers wrote down."""

    def __init__(self, node: RunningNode, log: Path) -> None:
        self.node, self.log = node, log
        self.http = httpx.AsyncClient(verify=False, headers=AUTH, timeout=WAIT_S)
        self.revision = named("peer")

    async def load(self, engine: str = "peer") -> dict[str, Any]:
        body = {"revision": named(engine).as_value(), "reason": "request"}
        answer = await self.http.post(f"{self.node.url}/load", json=body)
        return dict(json.loads(answer.text.splitlines()[-1]))

    async def chat(self, user: str = "answer", **more: Any) -> httpx.Response:
        body = {"model": "acme/m", "messages": HI, "user": user, **more}
        return await self.http.post(f"{self.node.url}/v1/chat/completions", json=body)

    async def get(self, path: str) -> httpx.Response:
        return await self.http.get(f"{self.node.url}{path}")

    def noted(self, key: str) -> list[Any]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [value[key] for value in map(json.loads, lines) if key in value]

    async def until(self, holds: Callable[[], Any]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not holds():  # noqa: ASYNC110 - what is waited for happens in another process
                await asyncio.sleep(0.02)

    async def until_resident(self) -> None:
        def resident() -> bool:
            return any(each.state.value == "resident" for each in self.node.node.host.workers)

        await self.until(resident)


def named(engine: str) -> Any:
    made = revision("acme/m", max_len=128)
    return type(made)(
        model=made.model, files=(), tensors=(), extents=(), facts=made.facts, spec=Spec(engine=engine)
    )


def entry(log: Path, mode: str = "good", address: str = "{port}", **changes: Any) -> EngineEntry:
    command = (sys.executable, "-I", "-S", SERVER, mode, address, str(log))
    values = {"command": command, "metrics": "/metrics", "warm": "", "check_s": 0.5, "memory_bytes": 1 << 20}
    return EngineEntry(**(values | changes))


@asynccontextmanager
async def outside(tmp_path: Path, **entries: EngineEntry) -> AsyncIterator[Outside]:
    log = tmp_path / "log"
    engines = {name: defined(name, each) for name, each in (entries or {"peer": entry(log)}).items()}
    async with running_node(tmp_path / "n", Script(), engines=engines) as node:
        running = Outside(node, log)
        yield running
        await running.http.aclose()


@pytest_asyncio.fixture(loop_scope="module")
async def peer(tmp_path: Path) -> AsyncIterator[Outside]:
    async with outside(tmp_path) as running:
        yield running


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def test_an_answer_passes_through_under_our_name(peer: Outside) -> None:
    line = await peer.load()
    answer = await peer.chat()
    body, timing = answer.json(), parse_server_timing(answer.headers["server-timing"])
    asked = peer.noted("body")[0]
    head = answer.headers

    assert line["phase"] == "ready"
    assert {"queue", "prepare", "spawn", "fetch", "verify", "folder", "load"} <= set(line["phases"])
    assert line["bytes"]["region"] == 100
    assert body["choices"][0]["message"]["content"] == TEXT
    assert (body["model"], asked["model"]) == ("acme/m", "acme/m")
    assert body["usage"]["completion_tokens"] == 4
    assert (head["x-nearfield-start"], head["x-nearfield-revision"]) == ("region", peer.revision.id)
    assert {"node.tokenize", "node.prefill", "node.decode", "node.start.spawn", "node.start.load"} <= set(
        timing
    )
    assert sum(line["phases"].values()) == pytest.approx(line["total_ms"], rel=0.05)


async def test_its_requests_are_counted_as_those_of_our_engine(peer: Outside) -> None:
    await peer.load()
    await peer.chat()
    for path in ("/rerank", "/tokenize"):
        answer = await peer.http.post(f"{peer.node.url}{path}", json={"model": "acme/m"})
        assert answer.json()["error"]["code"] == "unsupported_route"
    page = (await peer.get("/metrics")).text
    (record,) = (await peer.get("/usage")).json()["records"]

    assert (record["engine"], record["kind"], record["outcome"]) == ("peer", "chat", "finished")
    assert (record["prompt_tokens"], record["completion_tokens"], record["computed_tokens"]) == (7, 4, 0)
    assert 0 < record["device_us"] <= (record["end"] - record["start"] + 1) * 1e6, (
        "the wall time of the request"
    )
    for operation, error in (("chat", ""), ("rerank", "unsupported_route")):
        assert f'_duration_seconds_count{{{gen_ai(operation)},error_type="{error}"}} 1\n' in page
    for kind, num_tokens in (("input", 7), ("output", 4)):
        assert f'_token_usage_sum{{{gen_ai("chat")},gen_ai_token_type="{kind}"}} {num_tokens}' in page
    assert page.count("_duration_seconds_count{") == 2, "what is no inference is not counted as such"


def gen_ai(operation: str) -> str:
    labels = {"operation_name": operation, "provider_name": "nearfield", "request_model": "acme/m"}
    return ",".join(f'gen_ai_{name}="{value}"' for name, value in labels.items())


async def test_a_stream_passes_through_event_by_event(peer: Outside) -> None:
    await peer.load()
    answer = await peer.chat(stream=True)
    with_usage = await peer.chat(stream=True, stream_options={"include_usage": True})
    each = await peer.chat(stream=True, stream_options={"continuous_usage_stats": True})
    events = answer.text.removesuffix("\n\n").split("\n\n")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    receipt: Any = parse_receipt(events[-1]) or {}

    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == TEXT
    assert {chunk["model"] for chunk in chunks} == {"acme/m"}
    assert events[-2] == "data: [DONE]"
    assert [body["stream_options"] for body in peer.noted("body")] == [
        {"include_usage": True},
        {"include_usage": True},
        {"continuous_usage_stats": True, "include_usage": True},
    ]
    assert all("usage" not in chunk for chunk in chunks)
    assert '"usage": {"prompt_tokens": 7' in with_usage.text
    assert '"usage": {"prompt_tokens": 7' in each.text
    assert (receipt["prompt_tokens"], receipt["completion_tokens"]) == (7, 4)
    assert (receipt["start"], receipt["bytes"]["region"]) == ("region", 100)
    assert sum(receipt["phases"].values()) == pytest.approx(receipt["total_ms"], rel=0.05)


@pytest.mark.parametrize(
    ("user", "stream", "status", "code", "param"),
    [
        ("error-400", False, 400, "bad_request", "temperature"),
        ("error-422", False, 400, "bad_request", "top_k"),
        ("error-context", False, 400, "context_length_exceeded", None),
        ("error-404", False, 404, "not_found", None),
        ("error-500", False, 502, "engine_failed", None),
        ("error-503", False, 503, "overloaded", None),
        ("html", False, 502, "engine_failed", None),
        ("no-json", False, 502, "engine_failed", None),
        ("nan", False, 502, "engine_failed", None),
        ("no-object", False, 502, "engine_failed", None),
        ("huge", False, 502, "engine_failed", None),
        ("html", True, 502, "engine_failed", None),
        ("answer", None, 200, None, None),
    ],
)
async def test_every_fault_is_one_error_in_our_shape(
    faults: Outside, user: str, stream: bool | None, status: int, code: str | None, param: str | None
) -> None:
    more = {} if stream is None else {"stream": stream}
    answer = await faults.chat(user, **more)

    assert answer.status_code == status
    if code is not None:
        error = answer.json()["error"]
        assert (error["code"], error["param"]) == (code, param)
        assert error["message"]
        assert str(faults.node.node.host) not in error["message"]


@pytest.mark.parametrize(
    ("user", "status", "late"),
    [
        ("no-events", 502, False),
        ("endless-event", 502, False),
        ("error-event", 502, False),
        ("late-garbage", 200, True),
    ],
)
async def test_a_broken_stream_ends_with_one_clean_error(
    faults: Outside, user: str, status: int, late: bool
) -> None:
    answer = await faults.chat(user, stream=True)
    text = answer.text if late else "data: " + answer.text

    assert answer.status_code == status
    assert text.count('"error"') == 1
    assert '"engine_failed"' in text
    assert "[DONE]" not in text


@pytest.mark.parametrize("stream", [False, True])
async def test_half_a_surrogate_pair_passes_as_it_came(faults: Outside, stream: bool) -> None:
    """Cut between two halves, a text has no UTF-8: written as such it would end the answer in a fault of ours."""
    answer = await faults.chat("half-pair", stream=stream)

    assert answer.status_code == 200
    assert '"a\\ud83d"' in answer.text
    assert '"error"' not in answer.text


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def faults(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Outside]:
    """One node and one server for all the faults that leave it alive."""
    folder = tmp_path_factory.mktemp("faults")
    log = folder / "log"
    async with outside(folder, peer=entry(log, max_answer_bytes=1 << 18)) as running:
        await running.load()
        yield running


async def test_an_engine_that_dies_under_a_stream(peer: Outside) -> None:
    """The stream ends with one error, the engine is started again with nobody asking, and answers."""
    await peer.load()
    answer = await peer.chat("die", stream=True)
    await peer.until(lambda: len(peer.noted("started")) == 2)
    await peer.until_resident()
    after = await peer.chat()
    page = (await peer.get("/metrics")).text

    assert '"half"' in answer.text
    assert answer.text.count('"worker_lost"') == 1
    assert after.json()["choices"][0]["message"]["content"] == TEXT
    assert 'nearfield_node_engine_falls_total{engine="peer"} 1' in page


async def test_an_engine_that_dies_before_its_answer_may_be_asked_again(peer: Outside) -> None:
    await peer.load()
    answer = await peer.chat("die-first")

    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "worker_lost"
    assert answer.headers["retry-after"] == "1"


async def test_an_engine_that_dies_again_and_again_waits_longer_each_time(
    peer: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "FIRST_PAUSE_S", 0.2)
    pauses = []
    await peer.load()
    for falls in range(1, 4):
        await peer.chat("die-first")
        await peer.until(lambda num=falls: len(peer.noted("started")) == num + 1)
        await peer.until_resident()
        fallen = peer.node.node.host._rests.of(peer.revision.id)
        pauses.append(fallen.pause_s() if fallen else None)

    assert pauses == [0.0, 0.2, 0.4]


async def test_an_engine_that_exits_at_its_start(tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with outside(tmp_path, peer=entry(log, "exit")) as running:
        line = await running.load()
        workers = running.node.node.host.workers

        assert (line["phase"], line["code"]) == ("failed", "engine_failed")
        assert "status 3" in line["message"]
        assert workers == ()
        assert not list((tmp_path / "n" / "outside").glob("*/*"))


async def test_an_engine_that_is_never_ready(tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with outside(tmp_path, peer=entry(log, "never-ready", start_deadline_s=1.0)) as running:
        line = await running.load()

        assert (line["code"], "start_deadline_s = 1" in line["message"]) == ("load_timeout", True)
        assert not any(map(alive, running.noted("started")))


async def test_a_flood_of_output_is_read_and_bounded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = tmp_path / "log"
    caplog.set_level("INFO", "nearfield.engines")
    async with outside(tmp_path, peer=entry(log, "flood")) as running:
        await running.load()
        answers = [await running.chat() for _ in range(3)]
        passed = [each for each in caplog.records if "noise" in each.getMessage()]
        process = running.node.node.host.workers[0]._start.engine._process  # type: ignore[union-attr]

        assert [each.status_code for each in answers] == [200] * 3
        assert process.output.num_dropped > len(passed)
        assert all(len(each.getMessage()) < 2_100 for each in passed)


async def test_an_engine_that_hangs_is_seen_and_replaced(tmp_path: Path) -> None:
    """Its health goes bad: /healthz says so before it is ended, a new one comes, and /healthz is good again."""
    log = tmp_path / "log"
    async with outside(tmp_path, peer=entry(log, check_s=0.3)) as running:
        await running.load()
        before = await running.get("/healthz")
        await running.chat("sick")
        stalled = running.node.node.host
        await running.until(lambda: stalled.stalled == ("acme/m",))
        during = await running.get("/healthz")
        await running.until(lambda: len(running.noted("started")) == 2)
        await running.until_resident()
        after = await running.get("/healthz")

        assert [each.status_code for each in (before, during, after)] == [200, 503, 200]
        assert during.json() == {"status": "stalled", "models": ["acme/m"]}


async def test_a_stream_that_stops_is_ended_and_its_engine_replaced(tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with outside(tmp_path, peer=entry(log, stall_s=0.6)) as running:
        await running.load()
        answer = await running.chat("mute", stream=True)
        await running.until(lambda: len(running.noted("started")) == 2)

        assert answer.text.count('"engine_timeout"') == 1


async def test_a_client_that_leaves_is_gone_for_the_engine_too(peer: Outside) -> None:
    await peer.load()
    body = {"model": "acme/m", "messages": HI, "user": "slow", "stream": True}
    async with peer.http.stream("POST", f"{peer.node.url}/v1/chat/completions", json=body) as answer:
        async for _ in answer.aiter_bytes():
            break
    await peer.until(lambda: peer.noted("left"))
    workers = (await peer.get("/status")).json()["workers"]
    page = (await peer.get("/metrics")).text

    assert (workers[0]["running"], workers[0]["requests"]) == (0, 0)
    assert 'nearfield_node_clients_gone_total{stream="yes"} 1' in page


async def test_more_requests_than_it_may_have_wait_for_their_tenants_turn(tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with outside(tmp_path, peer=entry(log, max_requests=1)) as running:
        await running.load()

        async def ask(tenant: str) -> httpx.Response:
            body = {"model": "acme/m", "messages": [{"role": "user", "content": tenant}]}
            headers = {"x-nearfield-tenant": tenant}
            return await running.http.post(
                f"{running.node.url}/v1/chat/completions", json=body, headers=headers
            )

        def waiting(num: int) -> Callable[[], bool]:
            return lambda: running.node.node.host.status_workers()[0]["waiting"] == num

        body = {"model": "acme/m", "messages": HI, "user": "slow", "stream": True}
        told = {"x-nearfield-tenant": "hog"}
        async with running.http.stream(
            "POST", f"{running.node.url}/v1/chat/completions", json=body, headers=told
        ) as slow:
            events = slow.aiter_bytes()
            await anext(events)
            asked = [asyncio.create_task(ask("hog")) for _ in range(2)]
            await running.until(waiting(2))
            asked.append(asyncio.create_task(ask("ada")))
            await running.until(waiting(3))
            assert len(running.noted("body")) == 1
        answers = await asyncio.gather(*asked)

        assert [answer.status_code for answer in answers] == [200] * 3
        assert all("node.queue" in parse_server_timing(answer.headers["server-timing"]) for answer in answers)
        said = [each["messages"][0]["content"] for each in running.noted("body")]
        assert said == ["hi", "ada", "hog", "hog"]


async def test_who_waits_before_an_engine_that_is_lost_has_one_error(tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with outside(tmp_path, peer=entry(log, max_requests=1)) as running:
        await running.load()
        asked = [asyncio.create_task(running.chat("mute", stream=True)) for _ in range(3)]
        await running.until(lambda: running.node.node.host.status_workers()[0]["waiting"] == 2)
        await running.until(lambda: running.noted("body"))
        (worker,) = running.node.node.host.workers
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        answers = await asyncio.gather(*asked)

        for answer in answers:
            assert '"worker_lost"' in answer.text or '"not_resident"' in answer.text


async def test_what_it_gets_of_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its environment is what the definition names; it works in a folder of its own."""
    monkeypatch.setenv("NEARFIELD_SECRET", "s")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    log = tmp_path / "log"
    wanted = {"environment": ("CUDA_VISIBLE_DEVICES",), "variables": {"OMP_NUM_THREADS": "2"}}
    async with outside(tmp_path, peer=entry(log, **wanted)) as running:
        await running.load()
        said = (await running.chat("environment")).json()

        assert set(said["names"]) - {"LANG", "LC_ALL", "LC_CTYPE"} == {
            "PATH", "HOME", "TMPDIR", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS",
        }  # fmt: skip
        assert Path(said["cwd"]).is_relative_to(tmp_path / "n" / "outside")


async def test_it_listens_at_a_socket_too(tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with outside(tmp_path, peer=entry(log, address="{socket}")) as running:
        await running.load()
        answer = await running.chat()

        assert answer.json()["choices"][0]["message"]["content"] == TEXT


async def test_nothing_of_it_is_left_when_it_is_unloaded(tmp_path: Path) -> None:
    """Neither its process, nor a process of a session of its own that it started, nor a file."""
    log = tmp_path / "log"
    async with outside(tmp_path, peer=entry(log, "child")) as running:
        await running.load()
        pids = running.noted("started") + running.noted("child")
        lived = [alive(pid) for pid in pids]
        await running.http.post(f"{running.node.url}/unload", json={"revision": running.revision.id})

        assert lived == [True, True]
        assert not any(map(alive, pids))
        assert not list((tmp_path / "n" / "outside").glob("*/*"))


async def test_nothing_is_left_when_its_keeper_is_killed(tmp_path: Path) -> None:
    """The program dies with it. What that had started, in a session of its own too, would hold memory."""
    async with outside(tmp_path, peer=entry(tmp_path / "log", "child")) as running:
        await running.load()
        first = running.noted("started") + running.noted("child")
        os.kill(running.node.node.host.workers[0].pid or 0, signal.SIGKILL)
        await running.until(lambda: len(running.noted("started")) == 2)
        await running.until_resident()

        assert not any(map(alive, first))
        assert (await running.chat()).json()["choices"][0]["message"]["content"] == TEXT


async def test_it_ends_with_the_node_even_when_that_is_killed(tmp_path: Path) -> None:
    """The keeper sees the end of its standard input: nobody has to say anything."""
    log = tmp_path / "log"
    keeper = str(Path(SERVER).parents[2] / "inference" / "outside" / "keeper.py")
    words = [sys.executable, "-I", "-S", keeper, "15", "5", sys.executable, "-I", "-S", SERVER, "child"]
    node = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", "-c"),
        "import subprocess, sys, time; subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE); time.sleep(600)",
        *(*words, str(tmp_path / "s"), str(log)),
    )
    running = Outside(None, log)  # type: ignore[arg-type]
    await running.until(lambda: running.noted("started"))
    pids = running.noted("started") + running.noted("child")
    node.kill()
    await node.wait()
    await running.until(lambda: not any(map(alive, pids)))
    await running.http.aclose()


async def test_metrics_are_merged_and_none_of_ours_is_forged(peer: Outside) -> None:
    await peer.load()
    page = (await peer.get("/metrics")).text

    assert 'vllm:num_requests_running{engine="peer",served="acme/m",model_name="m"} 3.0' in page
    assert 'nearfield_node_engine_up{engine="peer",model="acme/m"} 1' in page
    assert "forged" not in page
    assert "nonsense" not in page


async def test_a_prompt_beyond_the_context_never_reaches_it(peer: Outside) -> None:
    await peer.load()
    long = [{"role": "user", "content": "word " * 400}]
    body = {"model": "acme/m", "messages": long}
    answers = [
        await peer.http.post(f"{peer.node.url}/v1/chat/completions", json=body),
        await peer.http.post(
            f"{peer.node.url}/v1/completions", json={"model": "acme/m", "prompt": "word " * 400}
        ),
        await peer.chat(max_tokens=4_000),
    ]

    assert [(each.status_code, each.json()["error"]["code"]) for each in answers] == [
        (400, "context_length_exceeded")
    ] * 3
    assert peer.noted("body") == []


async def test_what_the_operator_says_that_it_does_not_do(tmp_path: Path) -> None:
    log = tmp_path / "log"
    routes = ("/v1/chat/completions",)
    wanted = entry(log, refuse=("logprobs",), extra=("guided_json",), routes=routes)
    async with outside(tmp_path, peer=wanted) as running:
        await running.load()
        slip = await running.chat(temprature=1)
        refused = await running.chat(logprobs=True)
        route = await running.http.post(
            f"{running.node.url}/v1/messages", json={"model": "acme/m", "messages": HI, "max_tokens": 1}
        )

        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "logprobs")
        assert (route.status_code, route.json()["error"]["code"]) == (400, "unsupported_route")
        assert route.json()["type"] == "error"
        assert (slip.status_code, slip.json()["error"]["param"]) == (400, "temprature")
        assert running.noted("body") == []
        assert (await running.chat(guided_json={})).status_code == 200
        assert running.noted("body")[0]["guided_json"] == {}


@pytest.mark.parametrize(
    ("path", "more", "param"),
    [
        ("responses", {"input": "x", "previous_response_id": "resp_1"}, "previous_response_id"),
        ("responses", {"input": "x", "store": True}, "store"),
        ("responses", {"input": "x", "stroe": True}, "stroe"),
        ("messages", {"messages": HI, "max_tokens": 1, "container": "c"}, "container"),
        ("messages", {"messages": HI, "max_tokens": 1, "thread": {"type": "create"}}, "thread"),
        ("messages", {"messages": HI, "max_tokens": 1, "mcp_servers": [{"url": "http://x"}]}, "mcp_servers"),
        ("chat/completions", {"messages": HI, "store": True}, "store"),
        ("responses", {"input": "x", "store": False, "service_tier": "flex"}, None),
        ("completions", {"prompt": "x"}, None),
    ],
)
async def test_what_a_server_would_keep_for_anybody_is_refused(
    tmp_path: Path, path: str, more: dict[str, Any], param: str | None
) -> None:
    """One tenant's answer is not another's to go on with; what is the request's own passes on."""
    routes = tuple(f"/v1/{each}" for each in ("responses", "messages", "chat/completions", "completions"))
    async with outside(tmp_path, peer=entry(tmp_path / "log", routes=routes)) as running:
        await running.load()
        body = {"model": "acme/m"} | more
        answer = await running.http.post(f"{running.node.url}/v1/{path}", json=body)
        asked = running.noted("body")

    if param is None:
        assert (answer.status_code, [{**each, "model": "acme/m"} for each in asked]) == (200, [body])
    else:
        assert (answer.status_code, answer.json()["error"]["param"], asked) == (400, param, [])
        assert ("details" in answer.json()["error"]) == (param == "thread")


@pytest.mark.parametrize(("engine", "code"), [("pear", "unknown_engine"), ("absent", "engine_missing")])
async def test_an_engine_that_this_host_has_not(tmp_path: Path, engine: str, code: str) -> None:
    log = tmp_path / "log"
    entries = {"peer": entry(log), "absent": entry(log, command=("/no/such/program", "{port}"))}
    async with outside(tmp_path, **entries) as running:
        line = await running.load(engine)

        assert (line["phase"], line["code"]) == ("failed", code)
        assert "nearfield.toml" in line["next"]


async def test_without_a_definition_there_is_our_engine_only(tmp_path: Path) -> None:
    async with running_node(tmp_path, Script()) as node:
        running = Outside(node, tmp_path / "log")
        lines = [await running.load(engine) for engine in ("vllm", "command", "nearfield")]
        await running.http.aclose()

    assert [line.get("code") for line in lines] == ["unknown_engine", "unknown_engine", None]
    assert lines[0]["message"].endswith("nearfield")

"""One contract, two engines: ours, and llama.cpp's own server, which really runs here.

Both serve the same weights on the same node; every test is asked of each. What llama.cpp's completions ignore it is
defined to refuse, so that nothing is ignored in silence. The weights were pushed as safetensors: GGUF is made at load.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio

from inference.outside.definition import EngineEntry, defined
from tests.inference.conftest import LivingShell
from tests.inference.fake_engine import HOP_TOKEN, VOCABULARY
from tests.inference.test_node_real import PROMPT, RealNode, greedy, make_folder, real_node
from weights_cache.revision import Revision, Spec
from wire.timing import parse_receipt

pytestmark = pytest.mark.asyncio(loop_scope="session")

OURS, THEIRS = "acme/ours", "acme/theirs"
PEERS = os.environ.get("NEARFIELD_ENGINE_PEERS", "")
HAS_PEER = (Path(PEERS or "/dev/null") / "xllamacpp").is_dir()
NEEDS_PEER = pytest.mark.skipif(
    not HAS_PEER,
    reason="no llama.cpp: pip install --no-deps --target DIR -r bench/engine_peers.txt, and NEARFIELD_ENGINE_PEERS=DIR",
)
MODELS = pytest.mark.parametrize("model", [OURS, pytest.param(THEIRS, marks=NEEDS_PEER)])
HI: list[Any] = [{"role": "user", "content": "hi"}]
HERE = Path(__file__).parent
LLAMA = EngineEntry(
    kind="llama.cpp",
    prepare=(sys.executable, str(HERE / "to_gguf.py"), "{model_dir}", "{work_dir}/model.gguf"),
    command=(
        *(sys.executable, str(HERE / "llama_server.py"), "{work_dir}/model.gguf"),
        *("{host}", "{port}", "{name}", "{max_len}"),
    ),
    variables={"PYTHONPATH": PEERS},
    refuse=("echo", "best_of"),
    memory_bytes=256 << 20,
)


@dataclass
class Contract:
    node: RealNode
    oracle: Any
    revisions: dict[str, Revision]
    loads: dict[str, dict[str, Any]]

    def client(self) -> openai.AsyncOpenAI:
        http = openai.DefaultAsyncHttpxClient(verify=False)
        return openai.AsyncOpenAI(
            base_url=f"{self.node.url}/v1", api_key=HOP_TOKEN, max_retries=0, timeout=60, http_client=http
        )

    def worker(self, model: str) -> Any:
        return self.node.node.host.find(None, model)


def whole_text(text: str) -> str:
    """Without the half character that twelve tokens may end in: some say it as U+FFFD, some leave it out."""
    return text.rstrip("\N{REPLACEMENT CHARACTER}")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def contract(
    tmp_path_factory: pytest.TempPathFactory, living_shell: LivingShell
) -> AsyncIterator[Contract]:
    folder = tmp_path_factory.mktemp("model")
    oracle = make_folder(folder)
    engines = {"peer": defined("peer", LLAMA)}
    async with real_node(tmp_path_factory.mktemp("n"), living_shell, engines=engines) as node:
        ours = await node.commit(folder, OURS)
        theirs = replace(ours, model=THEIRS, spec=Spec(engine="peer"))
        wanted = (ours, theirs) if HAS_PEER else (ours,)
        loads = {each.model: await node.load(each) for each in wanted}
        assert {each["phase"] for each in loads.values()} == {"ready"}, loads
        yield Contract(node, oracle, {OURS: ours, THEIRS: theirs}, loads)


@MODELS
async def test_a_completion_is_the_model_s_own(contract: Contract, model: str) -> None:
    async with contract.client() as client:
        answer = await client.completions.create(model=model, prompt=PROMPT, max_tokens=12, temperature=0)
    usage = answer.usage

    assert whole_text(answer.choices[0].text) == whole_text(greedy(contract.oracle, PROMPT, 12))
    assert (answer.model, answer.choices[0].finish_reason) == (model, "length")
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (
        len(VOCABULARY.encode(PROMPT, add_special=True)),
        12,
    )


@MODELS
async def test_a_chat(contract: Contract, model: str) -> None:
    async with contract.client() as client:
        answer = await client.chat.completions.create(model=model, messages=HI, max_tokens=8, temperature=0)
    prompt = "<|user|>user: hi\n<|assistant|>"

    assert answer.choices[0].message.role == "assistant"
    assert whole_text(answer.choices[0].message.content or "") == whole_text(
        greedy(contract.oracle, prompt, 8)
    )
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(VOCABULARY.encode(prompt, add_special=False))


@MODELS
async def test_a_stream_is_the_answer_in_parts(contract: Contract, model: str) -> None:
    body = {"model": model, "prompt": PROMPT, "max_tokens": 12, "temperature": 0}
    whole = (await contract.node.post("completions", **body)).json()
    told = {"stream": True, "stream_options": {"include_usage": True}}
    events = (await contract.node.post("completions", **body, **told)).text.removesuffix("\n\n").split("\n\n")
    chunks = [json.loads(each.removeprefix("data: ")) for each in events[:-2]]
    receipt: Any = parse_receipt(events[-1])
    counted = [chunk["usage"] for chunk in chunks if chunk.get("usage")]

    said = "".join(chunk["choices"][0]["text"] for chunk in chunks if chunk["choices"])

    assert whole_text(said) == whole_text(whole["choices"][0]["text"])
    assert {chunk["model"] for chunk in chunks} == {model}
    assert events[-2] == "data: [DONE]"
    assert [each["completion_tokens"] for each in counted] == [12]
    assert receipt["completion_tokens"] == whole["usage"]["completion_tokens"] == 12
    assert sum(receipt["phases"].values()) == pytest.approx(receipt["total_ms"], rel=0.05)


@MODELS
async def test_counts_are_not_told_to_who_did_not_ask(contract: Contract, model: str) -> None:
    answer = await contract.node.post("chat/completions", model=model, messages=HI, max_tokens=2, stream=True)

    assert '"usage": {' not in answer.text
    assert answer.text.count("[DONE]") == 1


@MODELS
async def test_a_stop_string_ends_the_answer(contract: Contract, model: str) -> None:
    whole = greedy(contract.oracle, PROMPT, 12)
    stop = " al"
    async with contract.client() as client:
        answer = await client.completions.create(
            model=model, prompt=PROMPT, max_tokens=12, temperature=0, stop=stop
        )
    text = answer.choices[0].text

    assert answer.choices[0].finish_reason == "stop"
    assert text == whole[: whole.index(stop)]


@MODELS
async def test_a_client_that_leaves(contract: Contract, model: str) -> None:
    async with contract.client() as client:
        stream = await client.completions.create(model=model, prompt=PROMPT, max_tokens=200, stream=True)
        async for _ in stream:
            break
        await stream.close()
    async with asyncio.timeout(30):
        while contract.worker(model).num_requests or contract.worker(model).stats.get("running"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    assert contract.worker(model).num_requests == 0


@MODELS
@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"no_such_parameter": 1}, "no_such_parameter"),
        ({"prompt": []}, None),
        ({"max_tokens": 100_000}, "prompt"),
    ],
)
async def test_a_request_that_cannot_be_served(
    contract: Contract, model: str, changes: dict[str, Any], param: str | None
) -> None:
    answer = await contract.node.post("completions", **({"model": model, "prompt": PROMPT} | changes))
    error = answer.json()["error"]

    assert answer.status_code == 400
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert param is None or error["param"] == param


@MODELS
async def test_a_prompt_beyond_the_context(contract: Contract, model: str) -> None:
    long = [{"role": "user", "content": "word " * 400}]
    answers = [
        await contract.node.post("completions", model=model, prompt="word " * 400),
        await contract.node.post("chat/completions", model=model, messages=long),
    ]

    assert [each.status_code for each in answers] == [400, 400]
    assert {each.json()["error"]["code"] for each in answers} == {"context_length_exceeded"}


async def test_a_model_that_is_not_there(contract: Contract) -> None:
    answer = await contract.node.post("completions", model="acme/none", prompt=PROMPT)

    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "not_resident")


@NEEDS_PEER
async def test_what_it_ignores_is_refused_by_name(contract: Contract) -> None:
    answer = await contract.node.post("completions", model=THEIRS, prompt=PROMPT, echo=True)

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "echo")


@NEEDS_PEER
async def test_the_cold_start_says_where_the_time_and_the_bytes_went(contract: Contract) -> None:
    line = contract.loads[THEIRS]
    weights = contract.revisions[THEIRS].facts.weight_bytes

    assert {"spawn", "folder", "convert", "load", "warm"} <= set(line["phases"])
    assert sum(line["phases"].values()) == pytest.approx(line["total_ms"], rel=0.05)
    assert sum(line["bytes"].values()) >= weights
    assert line["copied_bytes"] >= weights  # landed bytes are written once more, as a file


@MODELS
async def test_an_engine_that_is_killed_is_back(contract: Contract, model: str) -> None:
    """Whoever asks meanwhile is told to ask again; the health of the node is true before and after."""
    worker = contract.worker(model)
    before = await contract.node.http.get(f"{contract.node.url}/healthz")
    os.kill(worker.pid, signal.SIGKILL)
    await asyncio.wait_for(worker.gone.wait(), 60)
    loaded = await contract.node.load(contract.revisions[model])
    answer = await contract.node.post("completions", model=model, prompt=PROMPT, max_tokens=2, temperature=0)
    after = await contract.node.http.get(f"{contract.node.url}/healthz")

    assert loaded["phase"] == "ready"
    assert answer.json()["choices"][0]["text"] == greedy(contract.oracle, PROMPT, 2)
    assert (before.status_code, after.status_code) == (200, 200)

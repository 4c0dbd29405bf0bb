"""One contract, three engines: ours, llama.cpp's own server and vLLM's CPU build, which really run where they are.

All serve the same weights on the same node; every test is asked of each. What llama.cpp's completions ignore it is
defined to refuse, so that nothing is ignored in silence. The weights were pushed as safetensors: GGUF is made at load.
Where vLLM is to be had from is said by `python -m bench.vllm_setup`; it starts for a minute on idle cores.
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
import torch

from inference.outside.definition import EngineEntry, defined
from tests.inference.conftest import LivingShell
from tests.inference.fake_engine import HOP_TOKEN, VOCABULARY
from tests.inference.test_node_real import PROMPT, RealNode, greedy, make_folder, real_node
from weights_cache.model.revision import Revision, Spec
from wire.timing import parse_receipt

pytestmark = pytest.mark.asyncio(loop_scope="session")

OURS, THEIRS, VLLM = "acme/ours", "acme/theirs", "acme/vllm"
PEERS = os.environ.get("NEARFIELD_ENGINE_PEERS", "")
HAS_PEER = (Path(PEERS or "/dev/null") / "xllamacpp").is_dir()
NEEDS_PEER = pytest.mark.skipif(
    not HAS_PEER,
    reason="no llama.cpp: pip install --no-deps --target DIR -r bench/engines/peers.txt; NEARFIELD_ENGINE_PEERS=DIR",
)
VLLM_PYTHON = os.environ.get("NEARFIELD_VLLM", "")
HAS_VLLM = bool(VLLM_PYTHON) and Path(VLLM_PYTHON).with_name("vllm").exists()
NEEDS_VLLM = pytest.mark.skipif(
    not HAS_VLLM, reason="no vLLM: python -m bench.vllm_setup DIR, and NEARFIELD_VLLM=DIR/bin/python"
)
MODELS = pytest.mark.parametrize(
    "model", [OURS, pytest.param(THEIRS, marks=NEEDS_PEER), pytest.param(VLLM, marks=NEEDS_VLLM)]
)
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

VLLM_SERVER = EngineEntry(
    kind="vllm",  # with the command that the kind has by itself
    args=("--dtype", "float32", "--enforce-eager"),
    environment=("VLLM_CPU_OMP_THREADS_BIND",),
    variables={
        "PATH": f"{Path(VLLM_PYTHON).parent}:{os.environ['PATH']}",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "HF_HUB_OFFLINE": "1",
    },
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


def make_plain_folder(folder: Path) -> Any:
    """A model that only ever says printable ASCII: engines differ in what they make of bytes that are no text.

    Heads of 64 numbers are what every build has kernels for. With this seed the two best logits are at least 0.18
    apart in all that is asked here, far more than rounding moves them.
    """
    model = make_folder(folder, head_dim=64, seed=7)
    pieces = map(VOCABULARY.piece, range(VOCABULARY.num_ids))
    odd = [
        token
        for token, piece in enumerate(pieces)
        if VOCABULARY.is_special(token) or not piece.isascii() or not piece.decode().isprintable()
    ]
    with torch.no_grad():
        model.lm_head.weight[odd] = 0
    model.save_pretrained(folder)
    return model


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def contract(
    tmp_path_factory: pytest.TempPathFactory, living_shell: LivingShell
) -> AsyncIterator[Contract]:
    folder = tmp_path_factory.mktemp("model")
    oracle = make_plain_folder(folder)
    engines = {"peer": defined("peer", LLAMA), "vllm": defined("vllm", VLLM_SERVER)}
    async with real_node(tmp_path_factory.mktemp("n"), living_shell, engines=engines) as node:
        ours = await node.commit(folder, OURS)
        theirs = replace(ours, model=THEIRS, spec=Spec(engine="peer"))
        vllm = replace(ours, model=VLLM, spec=Spec(engine="vllm"))
        wanted = (ours, *([theirs] if HAS_PEER else ()), *([vllm] if HAS_VLLM else ()))
        loads = {each.model: await node.load(each) for each in wanted}
        assert {each["phase"] for each in loads.values()} == {"ready"}, loads
        yield Contract(node, oracle, {each.model: each for each in wanted}, loads)


@MODELS
async def test_a_completion_is_the_model_s_own(contract: Contract, model: str) -> None:
    async with contract.client() as client:
        answer = await client.completions.create(model=model, prompt=PROMPT, max_tokens=12, temperature=0)
    usage = answer.usage

    assert answer.choices[0].text == greedy(contract.oracle, PROMPT, 12)
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
    assert answer.choices[0].message.content == greedy(contract.oracle, prompt, 8)
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

    assert said == whole["choices"][0]["text"]
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
    stop = whole[4:6]
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


@NEEDS_VLLM
async def test_vllm_s_own_figures_agree_and_nothing_of_it_is_left(contract: Contract) -> None:
    """After all of the above: a client that left has left there too, and a drained engine ends in its own way."""
    page = (await contract.node.http.get(f"{contract.node.url}/metrics")).text
    labels = f'engine="vllm",served="{VLLM}"'
    running = [line for line in page.splitlines() if line.startswith(f"vllm:num_requests_running{{{labels}")]
    process = contract.worker(VLLM)._start.engine._process
    session = {pid for pid in map(int, listed()) if session_of(pid) == process.pid}
    await contract.node.http.post(
        f"{contract.node.url}/unload", json={"revision": contract.revisions[VLLM].id}
    )

    assert [float(line.rpartition(" ")[2]) for line in running] == [0.0]
    assert f"vllm:generation_tokens_total{{{labels}" in page
    assert len(session) > 2, "its keeper, its server and its engine at least"
    assert not {pid for pid in session if session_of(pid) == process.pid}


def listed() -> list[str]:
    return [each.name for each in Path("/proc").iterdir() if each.name.isdecimal()]


def session_of(pid: int) -> int | None:
    """None for what has ended, collected or not."""
    try:
        state, *numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state == "Z" else int(numbers[2])

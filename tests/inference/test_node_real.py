"""The whole of a node with nothing faked but the network: shell, landing, engine, and transformers as the oracle."""

import asyncio
import base64
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from inference.api.text.template import TemplateChild
from inference.node import Node, NodeSettings, serve_node
from inference.workers.engines import pulse
from inference.workers.shell.inspection import look_at
from inference.workers.shell.link import ShellLink
from inference.workers.shell.standing import StandingShell
from inference.workers.store_threads import StoreThreads
from regions.usage.read import Found
from regions.usage.reconcile import differences, totals
from tests.inference.conftest import LivingShell
from tests.inference.fake_engine import HOP_TOKEN, TEMPLATE, VOCABULARY
from tests.inference.test_node_serving import AUTH
from tests.inference.tokenizers_made import byte_level
from weights_cache.cache import HostTier
from weights_cache.model.describe import Draft, Source, build_revision, draft
from weights_cache.model.header import read_header
from weights_cache.model.revision import ModelFacts, Revision, Spec
from weights_cache.reading.fetch import ReadError
from weights_cache.reading.handoff import Handoff

pytestmark = pytest.mark.asyncio(loop_scope="session")

PROMPT = "The quick brown fox"


class FolderReader:
    """A store that is a folder: `/bucket/key` is a file of it, a blob is found by its digest."""

    def __init__(self, paths: dict[str, Path]) -> None:
        self.paths = paths

    def read_into(self, path: str, offset: int, view: memoryview) -> None:
        view[:] = self.paths[path].read_bytes()[offset : offset + len(view)]

    def read_run(self, path: str, offset: int, num_bytes: int, views: Iterator[memoryview]) -> None:
        for view in views:
            self.read_into(path, offset, view)
            offset += len(view)

    def close(self) -> None:
        pass


def spread(model: Any) -> Any:
    """Weights so far apart that no logits are close to each other."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
    return model.eval()


def make_folder(folder: Path, head_dim: int = 16, seed: int = 3) -> Any:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY.num_ids,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=head_dim,
        max_position_embeddings=256,
        eos_token_id=VOCABULARY.token_of("<|end|>"),
        bos_token_id=None,
        pad_token_id=None,
    )
    model = spread(LlamaForCausalLM(config))
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(byte_level())
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"}))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return model


BERT = {
    "vocab_size": VOCABULARY.num_ids,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}


def make_encoder(folder: Path) -> Any:
    torch.manual_seed(4)
    model = spread(BertModel(BertConfig(**BERT), add_pooling_layer=False))
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(byte_level())
    return model


def make_cross_encoder(folder: Path) -> tuple[Any, Any]:
    """The model and its tokenizer, as transformers has them."""
    torch.manual_seed(5)
    model = spread(BertForSequenceClassification(BertConfig(**BERT, num_labels=1)))
    model.save_pretrained(folder)
    tokenizer = Tokenizer.from_str(byte_level().decode())
    marks = [(text, tokenizer.token_to_id(text)) for text in ("<|user|>", "<|end|>")]
    tokenizer.post_processor = processors.TemplateProcessing(
        "<|user|> $A <|end|>", "<|user|> $A <|end|> $B:1 <|end|>:1", special_tokens=marks
    )
    (folder / "tokenizer.json").write_text(tokenizer.to_str())
    return model, PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def drafted(folder: Path, name: str) -> Draft:
    sources = []
    for file in sorted(folder.iterdir()):
        data = file.read_bytes()
        header = read_header(data, len(data)) if file.suffix == ".safetensors" else None
        sources.append(Source(file.name, len(data), "etag", header))
    return draft(name, sources)


async def inspected(shell: Any, folder: Path, plan: Draft) -> dict[str, Any]:
    """What `POST /inspect` answers for the folder."""
    files = [{"path": one.path, "size": one.size, "etag": one.etag} for one in plan.sources]
    tensors = [{"name": one.name, "dtype": one.dtype, "shape": list(one.shape)} for one in plan.tensors]
    question = {"bucket": "models", "prefix": "acme/m/", "files": files, "tensors": tensors}
    paths = {f"/models/acme/m/{one.path}": folder / one.path for one in plan.sources}
    return await look_at(question, shell, lambda _etags: FolderReader(paths), StoreThreads())


def committed(plan: Draft, folder: Path, facts: ModelFacts) -> Revision:
    digests = {}
    for source in plan.sources:
        scan = plan.scan(source.path)
        scan.update((folder / source.path).read_bytes())
        digests[source.path] = scan.finish()
    return build_revision(plan, digests, facts, Spec())


class Lent:
    """The shell of all tests, for one node: whoever started it ends it."""

    def __init__(self, shell: ShellLink) -> None:
        self.gone, self.pid = shell.gone, shell.pid
        self.fork, self.inspect, self.exited = shell.fork, shell.inspect, shell.exited
        self.mold, self.has_mold = shell.mold, shell.has_mold

    async def close(self) -> None:
        pass


class RealNode:
    def __init__(self, url: str, node: Node, shell: StandingShell, blobs: dict[str, Path]) -> None:
        self.url, self.node, self.shell, self.blobs = url, node, shell, blobs
        self.http = httpx.AsyncClient(verify=False, headers=AUTH, timeout=60)

    async def commit(self, folder: Path, name: str) -> Revision:
        plan = drafted(folder, name)
        answer = await inspected(self.shell, folder, plan)
        assert "refused" not in answer, answer
        made = committed(plan, folder, ModelFacts.from_value(answer["facts"]))
        self.blobs |= {f"/nearfield-blobs/{file.blake3}": folder / file.path for file in made.files}
        return made

    async def load(self, revision: Revision) -> dict[str, Any]:
        answer = await self.http.post(f"{self.url}/load", json={"revision": revision.as_value()})
        return dict(json.loads(answer.text.splitlines()[-1]))

    async def post(self, path: str, **body: Any) -> httpx.Response:
        return await self.http.post(f"{self.url}/v1/{path}", json=body)


@asynccontextmanager
async def real_node(
    tmp_path: Path,
    living_shell: LivingShell,
    handoff: Handoff | None = None,
    reader: type[FolderReader] = FolderReader,
    retry_for_s: float = 15.0,
    **more: Any,
) -> AsyncIterator[RealNode]:
    """A node whose store is a folder; `handoff`: who hands over files of weights beside it; `more` settings."""

    async def start() -> Any:
        return Lent(await living_shell())

    async with AsyncExitStack() as stack:
        blobs: dict[str, Path] = {}
        shell = StandingShell(start)
        stack.push_async_callback(shell.close)
        tier = HostTier(
            None,  # type: ignore[arg-type]
            1 << 30,
            make_reader=partial(reader, blobs),
            handoff=handoff,
            retry_for_s=retry_for_s,
        )
        stack.push_async_callback(asyncio.to_thread, tier.close)
        child = TemplateChild()
        stack.push_async_callback(child.close)
        settings = NodeSettings(
            region="iad",
            host="127.0.0.1",
            port=0,
            store=None,  # type: ignore[arg-type]
            hop_token=HOP_TOKEN,
            state=tmp_path,
            memory_budget_bytes=1 << 30,
            host_cache_bytes=1 << 30,
            max_slots=4,
            **more,
        )
        node = Node(settings, tier, shell, child)
        stop, port = asyncio.Event(), asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(serve_node(settings, node, port.set_result, stop))
        try:
            real = RealNode(f"http://127.0.0.1:{await port}", node, shell, blobs)
            stack.push_async_callback(real.http.aclose)
            yield real
        finally:
            stop.set()
            await serving


def greedy(model: Any, prompt: str, num: int) -> str:
    ids = torch.tensor([VOCABULARY.encode(prompt, add_special=True)])
    made = model.generate(ids, max_new_tokens=num, do_sample=False, pad_token_id=0)[
        0, ids.shape[1] :
    ].tolist()
    return VOCABULARY.decode(made)


async def streamed(node: RealNode, **body: Any) -> tuple[str, dict[str, Any]]:
    answer = await node.post("completions", stream=True, stream_options={"include_usage": True}, **body)
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    return "".join(event["choices"][0]["text"] for event in events if event["choices"]), events[-1]["usage"]


async def test_real_models_answer_as_transformers_does(tmp_path: Path, living_shell: LivingShell) -> None:
    folder = tmp_path / "model"
    model = make_folder(folder)
    async with real_node(tmp_path, living_shell) as node:
        await check_embeddings(node, tmp_path / "encoder")
        await check_reranking(node, tmp_path / "cross-encoder")
        revision = await node.commit(folder, "acme/m")
        line = await node.load(revision)
        assert (line["phase"], line["start"]) == ("ready", "region"), line
        await check_completions(node, model)
        await check_chat(node, model)
        await check_guesses(node, revision)
        await check_kept_prefixes(node, model)
        await check_structure(node)
        await check_refusals(node)
        await check_mold(node, revision, model)
        await check_loss_and_return(node, revision, model)
        await check_freeze(node, revision, model)
        await check_tools(node, folder)
        await check_usage(node)


async def check_mold(node: RealNode, revision: Revision, model: Any) -> None:
    """Once an engine has been up for a while the next one is forked with its model made, and answers as it did."""
    is_molded = False
    async with asyncio.timeout(60):
        while not is_molded:
            await asyncio.sleep(0.2)
            await node.node.host.unload(revision.id, to_region=False)
            line = await node.load(revision)
            is_molded = node.node.host.find(revision.id, "acme/m").ready["molded"]
    answer = await node.post("completions", model="acme/m", prompt=PROMPT, max_tokens=8, temperature=0)

    assert line["start"] == "host"
    assert answer.json()["choices"][0]["text"] == greedy(model, PROMPT, 8)


async def check_usage(node: RealNode) -> None:
    """All of the above, engines that were killed and frozen too: what was written down is what they computed."""
    found = Found()
    while node.node.usage_told()["open"]:  # noqa: ASYNC110 - what an ended answer cost is still on its way
        await asyncio.sleep(0.01)
    found.take_node(node.node.usage_told())
    told = totals(found.records, found.logs)

    assert differences(found.records, found.logs, found.running) == []
    assert told["recorded"] == told["engines"]
    assert told["recorded"]["device_us"] > 0
    assert found.running[0].open_orders == frozenset()
    assert {each.kind for each in found.records} == {"chat", "text_completion", "embeddings", "rerank"}
    assert {"finished", "stopped", "worker_lost"} <= {each.outcome for each in found.records}


async def check_guesses(node: RealNode, revision: Revision) -> None:
    """An answer that is foretold, wholly or half, is the one without; of what is foretold each token is counted."""
    body: dict[str, Any] = {"model": "acme/m", "max_tokens": 48, "temperature": 0, "ignore_eos": True}
    body["messages"] = [{"role": "user", "content": PROMPT}]
    plain = (await node.post("chat/completions", **body)).json()["choices"][0]["message"]["content"]
    for text in (plain, plain[: len(plain) // 2], "no such words"):
        foretold = {"type": "content", "content": text}
        answer = (await node.post("chat/completions", **body, prediction=foretold)).json()
        details = answer["usage"]["completion_tokens_details"]
        assert answer["choices"][0]["message"]["content"] == plain
        assert answer["usage"]["completion_tokens"] == 48
        assert details["rejected_prediction_tokens"] >= 0
        assert details["accepted_prediction_tokens"] <= 47
    worker = node.node.host.find(revision.id, "acme/m")
    async with asyncio.timeout(60):
        while not worker.stats.get("drafts"):  # noqa: ASYNC110 - an engine tells its figures once a second
            await asyncio.sleep(0.02)
    assert 0 <= worker.stats["drafts_right"] <= worker.stats["drafts"]


async def check_completions(node: RealNode, model: Any) -> None:
    """Greedy text equals `generate`, streamed and whole, alone and in a crowd; usage is exact."""
    wanted = greedy(model, PROMPT, 24)
    body: dict[str, Any] = {"model": "acme/m", "prompt": PROMPT, "max_tokens": 24, "temperature": 0}
    whole = (await node.post("completions", **body)).json()
    crowd = await asyncio.gather(*(streamed(node, **body) for _ in range(6)))
    noise = [
        node.post("completions", **(body | {"temperature": 1.5, "seed": n, "prompt": "x" * n}))
        for n in range(1, 4)
    ]
    sampled = [one.json() for one in await asyncio.gather(*noise)]
    again = (
        await node.post("completions", **(body | {"temperature": 1.5, "seed": 2, "prompt": "xx"}))
    ).json()

    assert whole["choices"][0]["text"] == wanted
    assert {text for text, _ in crowd} == {wanted}
    assert [usage for _, usage in crowd] == [whole["usage"]] * 6
    assert whole["usage"]["prompt_tokens"] == len(VOCABULARY.encode(PROMPT, add_special=True))
    assert again["choices"][0]["text"] == sampled[1]["choices"][0]["text"]


async def check_chat(node: RealNode, model: Any) -> None:
    body: dict[str, Any] = {
        "model": "acme/m",
        "messages": [{"role": "user", "content": PROMPT}],
        "temperature": 0,
    }
    answer = (await node.post("chat/completions", **body, max_tokens=8, logprobs=True, top_logprobs=2)).json()
    content = answer["choices"][0]["logprobs"]["content"]
    ended = answer["choices"][0]["finish_reason"] == "stop"  # then its end token is counted, and no text
    stop = answer["choices"][0]["message"]["content"][1:4]
    stopped = (await node.post("chat/completions", **body, max_tokens=8, stop=stop)).json()

    assert answer["choices"][0]["message"]["content"] == greedy(
        model, f"<|user|>user: {PROMPT}\n<|assistant|>", 8
    )
    assert len(content) + ended == answer["usage"]["completion_tokens"]
    assert all(one["logprob"] == one["top_logprobs"][0]["logprob"] <= 0 for one in content)
    assert stopped["choices"][0]["finish_reason"] == "stop"
    assert stop not in stopped["choices"][0]["message"]["content"]
    assert stopped["usage"]["completion_tokens"] <= 8


async def check_kept_prefixes(node: RealNode, model: Any) -> None:
    """What the same tenant sent before is not computed again, is told exactly, and changes no answer."""
    prompt = PROMPT * 9
    num_tokens = len(VOCABULARY.encode(prompt, add_special=True))
    kept = (num_tokens - 1) // 16 * 16
    body: dict[str, Any] = {"model": "acme/m", "prompt": prompt, "max_tokens": 8, "temperature": 0}

    async def ask(tenant: str, **more: Any) -> tuple[set[str], int]:
        headers = {"x-nearfield-tenant": tenant}
        answer = await node.http.post(f"{node.url}/v1/completions", json=body | more, headers=headers)
        found = answer.json()
        assert found["usage"]["prompt_tokens"] == num_tokens
        return {one["text"] for one in found["choices"]}, found["usage"]["prompt_tokens_details"][
            "cached_tokens"
        ]

    wanted = {greedy(model, prompt, 8)}
    assert kept > 0
    assert await ask("acme") == (wanted, 0)
    assert await ask("acme") == (wanted, kept)
    assert await ask("evil") == (wanted, 0)
    assert await ask("third", n=4) == (wanted, 0), (
        "the choices copy from each other: nothing was there before"
    )
    assert await ask("third", n=4) == (wanted, kept)


async def check_refusals(node: RealNode) -> None:
    long = await node.post("completions", model="acme/m", prompt="x " * 400)
    vectors = await node.post("embeddings", model="acme/m", input="x")

    assert long.json()["error"]["code"] == "context_length_exceeded"
    assert vectors.json()["error"]["code"] == "wrong_model_kind"


async def check_loss_and_return(node: RealNode, revision: Revision, model: Any) -> None:
    """kill -9 of the engine: one clean error, and the next load starts from the host within seconds."""
    asking = asyncio.create_task(
        node.post("completions", model="acme/m", prompt=PROMPT, max_tokens=200, ignore_eos=True)
    )
    worker = node.node.host.find(revision.id, "acme/m")
    while not worker.stats.get("running") and not worker.num_requests:  # noqa: ASYNC110 - no event tells it
        await asyncio.sleep(0.001)
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    answer = await asking
    await worker.gone.wait()
    await node.load(revision)
    line = node.node.host.find(revision.id, "acme/m").report.line()
    text, _ = await streamed(node, model="acme/m", prompt=PROMPT, max_tokens=24, temperature=0)

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "worker_lost")
    assert (line["phase"], line["start"], line["bytes"]["region"]) == ("ready", "host", 0)
    assert line["total_ms"] < 10_000
    assert text == greedy(model, PROMPT, 24)


async def check_freeze(node: RealNode, revision: Revision, model: Any) -> None:
    """SIGSTOP of the engine: /healthz says so while it stands, and no longer; its answer goes on where it stood."""
    worker = node.node.host.find(revision.id, "acme/m")
    assert worker.pid is not None
    with pytest.MonkeyPatch.context() as patch:
        for name in ("BUSY_GAP_S", "IDLE_GAP_S", "LEAST_SILENCE_S", "UNMEASURED_S"):
            patch.setattr(pulse, name, 0.3)
        patch.setattr("inference.workers.worker.GIVEN_UP", 10_000)
        os.kill(worker.pid, signal.SIGSTOP)
        asking = asyncio.create_task(
            streamed(node, model="acme/m", prompt=PROMPT, max_tokens=24, temperature=0)
        )
        told = await until_health(node, 503)
        os.kill(worker.pid, signal.SIGCONT)
        text, _ = await asking
        await until_health(node, 200)
    assert told == {"status": "stalled", "models": ["acme/m"]}
    assert text == greedy(model, PROMPT, 24)
    assert node.node.host.find(revision.id, "acme/m") is worker


async def until_health(node: RealNode, wanted: int) -> Any:
    async with asyncio.timeout(60):
        while (answer := await node.http.get(f"{node.url}/healthz")).status_code != wanted:  # noqa: ASYNC110 - as asked
            await asyncio.sleep(0.02)
    return answer.json()


async def check_embeddings(node: RealNode, folder: Path) -> None:
    model = make_encoder(folder)
    texts = ["the lazy dog", "fox", "a quick brown fox jumps " * 2]
    line = await node.load(await node.commit(folder, "acme/e"))
    answer = (await node.post("embeddings", model="acme/e", input=texts, encoding_format="base64")).json()
    chat = await node.post("chat/completions", model="acme/e", messages=[{"role": "user", "content": "x"}])
    found = [np.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in answer["data"]]

    assert line["phase"] == "ready", line
    assert chat.json()["error"]["code"] == "wrong_model_kind"
    for text, vector in zip(texts, found, strict=True):
        with torch.no_grad():
            states = model(torch.tensor([VOCABULARY.encode(text, add_special=True)])).last_hidden_state[0]
        mean = states.mean(0)
        np.testing.assert_allclose(vector, (mean / mean.norm()).numpy(), atol=2e-5)


async def check_reranking(node: RealNode, folder: Path) -> None:
    """A pushed cross-encoder scores as transformers does with its own tokenizer, in a batch that is padded."""
    model, tokenizer = make_cross_encoder(folder)
    query, texts = "quick fox", ["the lazy dog", "fox", "a quick brown fox jumps " * 2, "fox " * 60]
    line = await node.load(await node.commit(folder, "acme/r"))
    body = {"model": "acme/r", "query": query, "documents": texts}
    refused = (await node.post("rerank", **body)).json()
    answer = (await node.post("rerank", **body, max_tokens_per_doc=64)).json()
    scores = {one["index"]: one["relevance_score"] for one in answer["results"]}
    cut = {"truncation": "only_second", "max_length": 64, "return_token_type_ids": True}
    rows = [tokenizer(query, text, **cut, return_tensors="pt") for text in texts]
    with torch.no_grad():
        wanted = [float(torch.sigmoid(model(**row).logits.double())) for row in rows]

    assert line["phase"] == "ready", line
    assert refused["error"]["param"] == "documents[3]"
    assert [scores[index] for index in range(len(texts))] == pytest.approx(wanted, abs=1e-5)
    assert [one["index"] for one in answer["results"]] == [
        int(index) for index in np.argsort(-np.array(wanted))
    ]
    assert answer["usage"]["total_tokens"] == sum(row["input_ids"].numel() for row in rows)
    assert 0 < min(wanted) < max(wanted) < 1


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"config.json": b"{"}, "bad_config"),
        ({"config.json": b"[]"}, "missing_config"),
        ({"config.json": None}, "missing_config"),
        ({"tokenizer.json": None}, "tokenizer_missing"),
        ({"tokenizer.json": b"{}"}, "tokenizer_bad"),
    ],
)
async def test_a_folder_that_cannot_be_served_is_refused(
    tmp_path: Path, change: dict[str, Any], code: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name, data in ({"config.json": b"{}", "tokenizer.json": byte_level()} | change).items():
        if data is not None:
            (folder / name).write_bytes(data)

    answer = await inspected(None, folder, drafted(folder, "acme/m"))

    assert answer["refused"]["code"] == code
    assert answer["refused"]["next"]


async def check_structure(node: RealNode) -> None:
    """A random model writes JSON of the schema that it was given, alone, streamed and beside free answers."""
    shape = {"a": {"type": "integer", "minimum": 0, "maximum": 99}, "b": {"enum": ["x", "y"]}}
    schema = {"type": "object", "properties": shape, "required": ["a", "b"], "additionalProperties": False}
    asked = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
    body: dict[str, Any] = {"model": "acme/m", "prompt": PROMPT, "max_tokens": 120}
    held = [
        node.post("completions", **body, response_format=asked, seed=n, temperature=n % 2) for n in range(6)
    ]
    free = node.post("completions", **(body | {"max_tokens": 16}), seed=1)
    *answers, beside = await asyncio.gather(*held, free)
    alone = await node.post("completions", **(body | {"max_tokens": 16}), seed=1)

    for answer in answers:
        value = json.loads(answer.json()["choices"][0]["text"])
        assert 0 <= value["a"] <= 99
        assert value["b"] in {"x", "y"}
        assert list(value) == ["a", "b"]
    assert beside.json()["choices"][0]["text"] == alone.json()["choices"][0]["text"]


async def check_tools(node: RealNode, folder: Path) -> None:
    """The same random model with a template that offers tools calls one when it must, streamed as well."""
    (folder / "chat_template.jinja").write_text(TEMPLATE + "{% if tools %}<tool_call>{% endif %}")
    await node.load(await node.commit(folder, "acme/t"))
    city = {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"]}
    shape = city | {"additionalProperties": False}
    body: dict[str, Any] = {
        "model": "acme/t",
        "messages": [{"role": "user", "content": PROMPT}],
        "tools": [{"type": "function", "function": {"name": "weather", "parameters": shape}}],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "seed": 4,
    }
    whole = (await node.post("chat/completions", **body)).json()["choices"][0]
    answer = await node.post("chat/completions", **body, stream=True)
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    pieces = [one for event in events for one in event["choices"][0]["delta"].get("tool_calls", [])]
    call = whole["message"]["tool_calls"][0]["function"]

    assert (call["name"], json.loads(call["arguments"])["city"] in {"Rome", "Oslo"}) == ("weather", True)
    assert (whole["finish_reason"], whole["message"]["content"]) == ("tool_calls", None)
    assert "".join(one["function"]["arguments"] for one in pieces) == call["arguments"]
    assert {one["index"] for one in pieces} == {0}


class TurnsBad(FolderReader):
    """A store that answers 503 for weights, from their last part on until it is told to be good."""

    is_good = False

    def read_into(self, path: str, offset: int, view: memoryview) -> None:
        if not self.is_good and self.paths[path].suffix == ".safetensors" and offset > 100_000:
            raise ReadError("status_503", f"{path} answered 503", retryable=True)
        super().read_into(path, offset, view)


async def test_a_store_that_turns_bad_after_the_start_is_one_clear_error(
    tmp_path: Path, living_shell: LivingShell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first layers are there and the pass waits for the last: who asked gets one error, whole or as a stream.

    It names the cause; and when the store is good again, so is the model.
    """
    model = make_folder(tmp_path / "model")
    body: dict[str, Any] = {"model": "acme/m", "prompt": PROMPT, "max_tokens": 4, "temperature": 0}
    async with real_node(tmp_path, living_shell, reader=TurnsBad, retry_for_s=1.0) as node:
        revision = await node.commit(tmp_path / "model", "acme/m")
        line = await node.load(revision)
        asked = [node.post("completions", **body, stream=stream) for stream in (False, True)]
        answers = [(answer.status_code, answer.json()["error"]) for answer in await asyncio.gather(*asked)]
        monkeypatch.setattr(TurnsBad, "is_good", True)
        again = await node.load(revision)
        text, _ = await streamed(node, **body)

    assert (line["phase"], again["phase"]) == ("ready", "ready")
    assert [(status, error["code"]) for status, error in answers] == [(503, "worker_lost")] * 2
    assert all("answered 503" in error["message"] for _, error in answers)
    assert text == greedy(model, PROMPT, 4)

"""A node over HTTP, asked by the official client, with a scripted engine behind it."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx2 as httpx
import openai
import pytest

from tests.inference.fake_engine import (
    ANSWER,
    HOP_TOKEN,
    TEXT,
    VOCABULARY,
    FakeTier,
    RunningNode,
    Script,
    revision,
    running_node,
    small_files,
)
from weights_cache.model.revision import Spec
from wire.http.framing import LAST_CHUNK, take_whole_chunks
from wire.timing import parse_receipt, parse_server_timing

HI: list[Any] = [{"role": "user", "content": "hi"}]
FUNCTION = {"type": "function", "function": {"name": "f"}}
AUTH = {"authorization": f"Bearer {HOP_TOKEN}"}


def client(node: RunningNode) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=f"{node.url}/v1",
        api_key=HOP_TOKEN,
        max_retries=0,
        timeout=60,
        http_client=openai.DefaultAsyncHttpxClient(verify=False),
    )


async def load(
    node: RunningNode, model: str = "acme/m", reason: str = "request", **changes: Any
) -> list[dict[str, Any]]:
    body = {"revision": revision(model, **changes).as_value(), "reason": reason}
    async with httpx.AsyncClient(verify=False) as http:
        answer = await http.post(f"{node.url}/load", json=body, headers=AUTH, timeout=60)
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


async def post(node: RunningNode, path: str, body: Any, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(verify=False) as http:
        return await http.post(f"{node.url}{path}", json=body, headers=AUTH | headers, timeout=60)


@pytest.fixture
async def node(tmp_path: Any) -> AsyncIterator[RunningNode]:
    async with running_node(tmp_path) as running:
        yield running


async def test_a_chat(node: RunningNode) -> None:
    lines = await load(node)
    async with client(node) as asked:
        raw = await asked.chat.completions.with_raw_response.create(model="acme/m", messages=HI)
    answer = raw.parse()
    order = node.shell.engines[0].orders[0]

    assert lines[-1]["phase"] == "ready"
    assert (lines[-1]["start"], lines[-1]["bytes"]["region"]) == ("region", 100)
    assert (
        0 <= lines[-1]["phases"]["fork"] <= 1.5
    )  # less where the engine, which only says so, took longer than is true
    assert lines[-1]["phases"] | {"queue": 0, "prepare": 0, "fork": 0, "boot": 0, "text": 0} == {
        "queue": 0, "prepare": 0, "fork": 0, "boot": 0, "fetch": 3.0, "verify": 1.0, "attach": 2.0, "warm": 1.0,
        "text": 0,
    }  # fmt: skip
    assert answer.choices[0].message.content == TEXT
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(order["tokens"])
    assert answer.usage.completion_tokens == len(ANSWER) + 1
    assert VOCABULARY.decode(order["tokens"], keep_special=True) == "<|user|>user: hi\n<|assistant|>"
    assert order["max_tokens"] == 128 - len(order["tokens"])
    assert (order["temperature"], order["stop_ids"], order["seed"]) == (1.0, [], None)


async def test_what_an_answer_says_of_itself(node: RunningNode) -> None:
    await load(node)
    heads = [
        (await post(node, "/v1/chat/completions", {"model": "acme/m", "messages": HI}, **more)).headers
        for more in (
            {"x-request-id": "req_1"},
            {},
            {"x-nearfield-start": "origin"},
            {"x-nearfield-start": "nonsense"},
        )
    ]
    timing = parse_server_timing(heads[0]["server-timing"])
    own = [
        ms for name, ms in timing.items() if name.startswith("node.") and not name.startswith("node.start.")
    ]

    assert heads[0]["x-request-id"] == "req_1"
    assert heads[1]["x-request-id"].startswith("req_")
    assert [head["x-nearfield-start"] for head in heads] == ["region", "warm", "origin", "warm"]
    assert heads[0]["x-nearfield-revision"] == revision().id
    assert heads[0]["x-nearfield-remote-bytes"] == "0"
    assert {
        "node.read",
        "node.template",
        "node.tokenize",
        "node.queue",
        "node.prefill",
        "node.decode",
    } <= set(timing)
    assert 0 <= timing["node.start.fork"] <= 1.5
    assert "node.start.fork" not in parse_server_timing(heads[1]["server-timing"])
    assert sum(own) == pytest.approx(timing["node"], rel=0.05)


async def test_a_stream_is_the_answer_in_parts(node: RunningNode) -> None:
    await load(node)
    body = {"model": "acme/m", "messages": HI, "stream": True, "stream_options": {"include_usage": True}}
    answer = await post(node, "/v1/chat/completions", body)
    events = answer.text.removesuffix("\n\n").split("\n\n")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    receipt = parse_receipt(events[-1]) or {}
    phases: Any = receipt["phases"]

    assert answer.headers["content-type"].startswith("text/event-stream")
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"]) == TEXT
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == len(ANSWER) + 1
    assert len({(c["id"], c["created"], c["model"], c["system_fingerprint"]) for c in chunks}) == 1
    assert events[-2] == "data: [DONE]"
    assert (receipt["hop"], receipt["start"], receipt["copied_bytes"]) == ("node", "region", 5)
    assert receipt["completion_tokens"] == len(ANSWER) + 1
    assert sum(phases.values()) == pytest.approx(receipt["total_ms"], rel=0.05)


async def test_the_last_token_and_the_end_are_one_chunk(node: RunningNode) -> None:
    """Each hop behind looks at every chunk, and the first token of a short answer waits for that."""
    await load(node)
    body = json.dumps({"model": "acme/m", "messages": HI, "stream": True, "max_tokens": 1}).encode()
    lines = ["POST /v1/chat/completions HTTP/1.1", "host: h", f"authorization: {AUTH['authorization']}"]
    lines += ["content-type: application/json", f"content-length: {len(body)}", "connection: close", "", ""]
    reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
    writer.write("\r\n".join(lines).encode() + body)
    head, _, answer = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    chunks: list[bytes] = []
    end = take_whole_chunks(answer, chunks)

    assert head.startswith(b"HTTP/1.1 200 ")
    assert answer[end:] == LAST_CHUNK
    assert len(chunks) == 1
    assert chunks[0].count(b'"content"') == 2  # the opening's, and the token's
    assert b"data: [DONE]\n\n: nearfield {" in chunks[0]


@pytest.mark.parametrize(
    ("path", "asked", "has_opening"),
    [
        ("/v1/chat/completions", {"messages": HI, "n": 2}, True),
        ("/v1/chat/completions", {"messages": HI, "max_tokens": 5}, True),
        ("/v1/completions", {"prompt": ["hi", "hello there"], "n": 2, "max_tokens": 50}, False),
    ],
)
async def test_each_chunk_counts_its_own_choice_as_vllms_do(
    node: RunningNode, path: str, asked: dict[str, Any], has_opening: bool
) -> None:
    """The counts grow to those of the choice's end, and what the last chunks said adds up to the request's usage."""
    await load(node)
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = {"model": "acme/m", "stream": True, "stream_options": options} | asked
    *chunks, end = chunks_of(await post(node, path, body))
    orders = node.shell.engines[0].orders
    lasts = 0
    for index, order in enumerate(orders):
        counts = [chunk["usage"] for chunk in chunks if chunk["choices"][0]["index"] == index]
        made = [one["completion_tokens"] for one in counts]
        lasts += made[-1]

        assert {one["prompt_tokens"] for one in counts} == {len(order["tokens"])}
        assert all(one["total_tokens"] == one["prompt_tokens"] + one["completion_tokens"] for one in counts)
        assert made == sorted(made)
        assert made[0] == (0 if has_opening else 1)
        assert made[-1] == min(len(ANSWER) + 1, asked.get("max_tokens", 99))

    assert len({len(order["tokens"]) for order in orders}) == len(orders) // asked.get("n", 1)
    assert (end["choices"], end["usage"]["completion_tokens"]) == ([], lasts)


def chunks_of(answer: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]


@pytest.mark.parametrize("promised", [True, False])
async def test_an_answer_says_whether_it_is_deterministic_and_its_engine_is_told(
    node: RunningNode, promised: bool
) -> None:
    wanted = replace(revision(), spec=Spec(deterministic=promised or None))
    await post(node, "/load", {"revision": wanted.as_value(), "reason": "request"})
    whole = await post(node, "/v1/chat/completions", {"model": "acme/m", "messages": HI})
    streamed = await post(node, "/v1/completions", {"model": "acme/m", "prompt": "hi", "stream": True})
    receipt = parse_receipt(streamed.text.removesuffix("\n\n").split("\n\n")[-1]) or {}

    assert node.shell.engines[0].spec["deterministic"] is promised
    assert whole.json()["system_fingerprint"].endswith("_det") is promised
    assert receipt["deterministic"] is promised
    for answer in (whole, streamed):
        assert answer.headers.get("x-nearfield-deterministic") == ("true" if promised else None)


async def test_a_prediction_is_the_engines_to_guess_by_and_is_counted(node: RunningNode) -> None:
    """All tokens but the first come as guessed, of a prediction that is shorter than the answer."""
    await load(node)
    async with client(node) as asked:
        foretold: Any = {"type": "content", "content": [{"type": "text", "text": "hi"}]}
        body: Any = {"model": "acme/m", "messages": HI, "n": 2}
        answer = await asked.chat.completions.create(**body, prediction=foretold)
        plain = await asked.chat.completions.create(**body)
    told, unasked = answer.usage, plain.usage
    assert told is not None
    assert unasked is not None
    details, without = told.completion_tokens_details, unasked.completion_tokens_details
    assert details is not None
    assert without is not None
    num_predicted = len(node.shell.engines[0].orders[0]["predicted"])

    assert [each.get("predicted") for each in node.shell.engines[0].orders[2:]] == [None, None]
    assert num_predicted > 0
    accepted = 2 * min(num_predicted, len(ANSWER) - 1)
    assert details.accepted_prediction_tokens == accepted
    assert details.rejected_prediction_tokens == 2 * num_predicted - accepted
    assert without.accepted_prediction_tokens is None


async def test_the_official_client_reads_a_stream(node: RunningNode) -> None:
    await load(node)
    async with client(node) as asked:
        stream = await asked.chat.completions.create(
            model="acme/m", messages=HI, stream=True, logprobs=True, n=2
        )
        chunks = [chunk async for chunk in stream]
    texts = {0: "", 1: ""}
    for chunk in chunks:
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""

    assert texts == {0: TEXT, 1: TEXT}
    assert {c.choices[0].finish_reason for c in chunks} == {None, "stop"}
    assert any(c.choices[0].logprobs for c in chunks)
    assert len(node.shell.engines[0].orders) == 2


async def test_seeds_of_choices_differ_and_the_first_is_the_requests(node: RunningNode) -> None:
    await load(node)
    async with client(node) as asked:
        await asked.chat.completions.create(model="acme/m", messages=HI, n=3, seed=41)

    assert [order["seed"] for order in node.shell.engines[0].orders] == [41, 42, 43]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_stop_string_over_tokens_ends_the_answer_and_its_work(tmp_path: Any, stream: bool) -> None:
    async with running_node(tmp_path, Script(gap_s=0.002)) as node, client(node) as asked:
        await load(node)
        create: Any = asked.chat.completions.create
        made = await create(model="acme/m", messages=HI, stop=["fox ju", "never"], stream=stream)
        parts = [chunk async for chunk in made] if stream else [made]
        await asyncio.sleep(0.05)
        engine = node.shell.engines[0]

        if stream:
            text = "".join(c.choices[0].delta.content or "" for c in parts)
            assert parts[-1].choices[0].finish_reason == "stop"
        else:
            text = parts[0].choices[0].message.content
            assert parts[0].usage.completion_tokens <= len(
                VOCABULARY.encode("The quick brown fox jumps", add_special=False)
            )
        assert text == "The quick brown "
        assert engine.cancelled == [engine.orders[0]["id"]]


async def test_completions_with_many_prompts_echo_and_scores(node: RunningNode) -> None:
    await load(node)
    async with client(node) as asked:
        echoed = await asked.completions.create(
            model="acme/m", prompt=["Say: ", "Now: "], n=2, echo=True, max_tokens=3, temperature=0
        )
        scored = await asked.completions.create(model="acme/m", prompt=[5, 6, 7], logprobs=2, max_tokens=3)
    text = VOCABULARY.decode(ANSWER[:3])

    assert [choice.text for choice in echoed.choices] == [f"Say: {text}"] * 2 + [f"Now: {text}"] * 2
    assert {choice.finish_reason for choice in echoed.choices} == {"length"}
    assert echoed.usage is not None
    assert echoed.usage.completion_tokens == 12
    assert scored.usage is not None
    assert scored.usage.prompt_tokens == 3
    assert scored.choices[0].logprobs is not None
    assert scored.choices[0].logprobs.token_logprobs == [-0.25] * 3
    assert scored.choices[0].logprobs.text_offset == [
        0,
        *[len(VOCABULARY.decode(ANSWER[:n])) for n in (1, 2)],
    ]
    assert node.shell.engines[0].orders[-1]["logprobs"] == 2


@pytest.mark.parametrize(
    ("path", "body", "code", "param"),
    [
        ("chat/completions", {"messages": HI, "max_tokens": 1000}, "context_length_exceeded", "messages"),
        (
            "chat/completions",
            {"messages": [{"role": "user", "content": "x " * 500}]},
            "context_length_exceeded",
            "messages",
        ),
        ("completions", {"prompt": [1] * 128}, "context_length_exceeded", "prompt"),
        ("completions", {"prompt": [1] * 120, "max_tokens": 9}, "context_length_exceeded", "prompt"),
        ("completions", {"prompt": ""}, "invalid_value", "prompt"),
        ("completions", {"prompt": [10**6]}, "invalid_value", "prompt"),
        ("chat/completions", {"messages": HI, "logit_bias": {"1000000": 1}}, "invalid_value", "logit_bias"),
        (
            "chat/completions",
            {"messages": HI, "stop_token_ids": [1000000]},
            "invalid_value",
            "stop_token_ids",
        ),
        ("embeddings", {"input": "x"}, "wrong_model_kind", "model"),
        ("chat/completions", {"messages": HI, "tools": [FUNCTION]}, "unsupported_parameter", "tools"),
        ("chat/completions", {"messages": HI, "tools": [1]}, "invalid_type", "tools[0]"),
    ],
)
async def test_what_cannot_be_done_is_refused_before_the_engine(
    node: RunningNode, path: str, body: dict[str, Any], code: str, param: str
) -> None:
    await load(node)
    answer = await post(node, f"/v1/{path}", {"model": "acme/m", **body})
    error = answer.json()["error"]

    assert answer.status_code == 400
    assert (error["code"], error["param"], error["type"]) == (code, param, "invalid_request_error")
    assert answer.headers["x-request-id"]
    assert node.shell.engines[0].orders == []


async def test_a_prompt_that_just_fits_is_served(node: RunningNode) -> None:
    await load(node)
    answer = await post(node, "/v1/completions", {"model": "acme/m", "prompt": [1] * 120, "max_tokens": 8})

    assert answer.status_code == 200
    assert answer.json()["usage"] | {} == answer.json()["usage"]
    assert answer.json()["usage"]["total_tokens"] == 128


async def test_chat_without_a_template_says_what_to_do(tmp_path: Any) -> None:
    async with running_node(tmp_path, tier=FakeTier(small_files(None))) as node:
        await load(node)
        answer = await post(node, "/v1/chat/completions", {"model": "acme/m", "messages": HI})

        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "no_chat_template")
        assert "/v1/completions" in answer.json()["error"]["message"]


async def test_a_template_that_refuses_is_a_400_with_its_words(tmp_path: Any) -> None:
    files = small_files("{{ raise_exception('only one turn') }}")
    async with running_node(tmp_path, tier=FakeTier(files)) as node:
        await load(node)
        answer = await post(node, "/v1/chat/completions", {"model": "acme/m", "messages": HI})

        assert answer.status_code == 400
        assert "only one turn" in answer.json()["error"]["message"]


async def test_embeddings(tmp_path: Any) -> None:
    async with running_node(tmp_path) as node, client(node) as asked:
        await load(node, kind="embed", normalize=True, pooling="mean", max_seq_len=16, kv_bytes_per_token=0)
        texts = ["dog", "the lazy dog", "a"]
        made = await asked.embeddings.create(model="acme/m", input=texts)
        floats = await asked.embeddings.create(model="acme/m", input=texts, encoding_format="float")
        ids = await asked.embeddings.create(model="acme/m", input=[[7, 8], [9]], encoding_format="float")
        short = await asked.embeddings.create(model="acme/m", input="dog", dimensions=2)
        many = await asked.embeddings.create(model="acme/m", input=["a"] * 200)
        long = await post(node, "/v1/embeddings", {"model": "acme/m", "input": ["a", "dog " * 30]})
        wide = await post(node, "/v1/embeddings", {"model": "acme/m", "input": "a", "dimensions": 5})
        chat = await post(node, "/v1/chat/completions", {"model": "acme/m", "messages": HI})
    lengths = [len(VOCABULARY.encode(text, add_special=True)) for text in texts]

    assert [item.embedding[0] for item in made.data] == lengths
    assert [item.embedding for item in made.data] == [item.embedding for item in floats.data]
    assert made.usage.prompt_tokens == made.usage.total_tokens == sum(lengths)
    assert [item.embedding[:2] for item in ids.data] == [[2.0, 15.0], [1.0, 9.0]]
    assert sum(number * number for number in short.data[0].embedding) == pytest.approx(1.0)
    assert len(many.data) == 200
    assert (long.status_code, long.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert (wide.status_code, wide.json()["error"]["param"]) == (400, "dimensions")
    assert (chat.status_code, chat.json()["error"]["code"]) == (400, "wrong_model_kind")
    assert "/v1/embeddings" in chat.json()["error"]["message"]


async def test_nobody_comes_in_without_the_token(node: RunningNode) -> None:
    routes = [
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/load",
        "/unload",
        "/inspect",
        "/status",
        "/x",
        "/docs",
    ]
    async with httpx.AsyncClient(verify=False) as http:
        for path in routes:
            for method in ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"):
                answer = await http.request(method, node.url + path)
                assert answer.status_code == 401, (method, path)
        for value in ("Bearer wrong", HOP_TOKEN, f"Basic {HOP_TOKEN}", f"Bearer {HOP_TOKEN}x"):
            answer = await http.get(node.url + "/status", headers={"authorization": value})
            assert answer.status_code == 401, value
        healthy = await http.get(node.url + "/healthz")
        unknown = await http.get(node.url + "/nothing", headers=AUTH)
        method = await http.get(node.url + "/load", headers=AUTH)

    assert healthy.json() == {"status": "ok"}
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "not_found")
    assert (method.status_code, method.json()["error"]["code"]) == (405, "method_not_allowed")


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"[]", {}, 400),
        (b'{"model": "a", "model": "b"}', {}, 400),
        (b" " * (1024 * 1024 + 1), {}, 413),
        (b"{}", {"content-encoding": "gzip"}, 415),
        (b"", {}, 400),
    ],
)
async def test_a_bad_body_is_refused_in_openais_shape(
    node: RunningNode, content: bytes, headers: dict[str, str], status: int
) -> None:
    async with httpx.AsyncClient(verify=False) as http:
        answer = await http.post(f"{node.url}/v1/chat/completions", content=content, headers=AUTH | headers)

    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


async def test_a_model_that_is_not_resident_is_409(node: RunningNode) -> None:
    by_name = await post(node, "/v1/chat/completions", {"model": "acme/m", "messages": HI})
    await load(node)
    body = {"model": "acme/m", "messages": HI}
    other = await post(node, "/v1/chat/completions", body, **{"x-nearfield-revision": "0" * 64})
    same = await post(node, "/v1/chat/completions", body, **{"x-nearfield-revision": revision().id})

    assert (by_name.status_code, by_name.json()["error"]["code"]) == (409, "not_resident")
    assert (other.status_code, other.json()["error"]["code"]) == (409, "not_resident")
    assert same.status_code == 200


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        ({"code": "overloaded", "message": "256 wait"}, 429),
        ({"code": "overloaded", "message": "256 wait", "retry_after_s": 12.2}, 429),
        ({"code": "bad_request", "message": "no"}, 400),
        ({"code": "poisoned", "message": "NaN"}, 400),
        ({"code": "engine_error", "message": "odd"}, 500),
        ({"code": "stopping", "message": "bye"}, 503),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_what_the_engine_refuses_keeps_its_status(
    tmp_path: Any, failure: dict[str, Any], status: int, stream: bool
) -> None:
    async with running_node(tmp_path, Script(failure=failure)) as node:
        await load(node)
        answer = await post(
            node, "/v1/chat/completions", {"model": "acme/m", "messages": HI, "stream": stream}
        )

        assert answer.status_code == status
        assert answer.json()["error"]["code"] == failure["code"]
        assert ("retry-after" in answer.headers) == (status in {429, 503})
        if "retry_after_s" in failure:
            assert answer.headers["retry-after"] == "13", "as the engine measured it, in whole seconds"


async def test_whose_request_it_is_and_how_urgent_goes_to_the_engine(node: RunningNode) -> None:
    await load(node)
    body = {"model": "acme/m", "messages": HI, "priority": 3, "n": 2}
    assert (
        await post(node, "/v1/chat/completions", body, **{"x-nearfield-tenant": "acme"})
    ).status_code == 200
    assert (await post(node, "/v1/chat/completions", {"model": "acme/m", "messages": HI})).status_code == 200
    told = [(order["tenant"], order["priority"]) for order in node.shell.engines[0].orders]
    assert told == [("acme", 3), ("acme", 3), ("", 0)]
    for priority in (-1, 10, 1.0, "0", True):
        refused = await post(node, "/v1/chat/completions", body | {"priority": priority})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "priority")

"""`/v1/rerank`, `/tokenize`, `/detokenize`, `/v1/messages/count_tokens`: every parameter, and their answers."""

from typing import Any

import numpy as np
import pytest
from openai.types.responses.input_token_count_params import InputTokenCountParams

from inference.api.anthropic.request import REFUSED as ANTHROPIC_REFUSED
from inference.api.app import ROUTES
from inference.api.responses.request import COUNTED
from inference.api.tokenize import requests as token_requests
from inference.api.tokenize.requests import read_count, read_detokenize, read_input_count, read_tokenize
from inference.api.vectors import rerank
from inference.api.vectors.rerank import read_rerank
from regions.ask import ASKED
from tests.inference.fake_engine import VOCABULARY, running_node
from tests.inference.test_node_serving import client, load, post
from wire.figures.gen_ai import OPERATIONS
from wire.refused.refusal import Refusal

HI = [{"role": "user", "content": "hi"}]
DOCUMENTS = ["the lazy dog", "fox", "a quick brown fox jumps"]
FUNCTION = [{"type": "function", "function": {"name": "f"}}]
BODIES: dict[str, tuple[dict[str, Any], Any, dict[str, Any]]] = {
    "rerank": ({"model": "a/m", "query": "q", "documents": ["d"]}, read_rerank, rerank.REFUSED),
    "text": ({"model": "a/m", "prompt": "hi"}, read_tokenize, token_requests.REFUSED),
    "chat": ({"model": "a/m", "messages": HI}, read_tokenize, token_requests.REFUSED),
    "ids": ({"model": "a/m", "tokens": [1]}, read_detokenize, {}),
    "count": ({"model": "a/m", "messages": HI}, read_count, ANTHROPIC_REFUSED),
}
OFFICIAL = {
    # Cohere's v1 and v2, Jina's, and vLLM's RerankRequest
    "rerank": "model query documents top_n return_documents max_tokens_per_doc rank_fields max_chunks_per_doc"
    " return_embeddings truncate_prompt_tokens priority user",
    # vLLM's TokenizeCompletionRequest, TokenizeChatRequest and DetokenizeRequest
    "text": "model prompt add_special_tokens return_token_strs",
    "chat": "model messages add_generation_prompt return_token_strs continue_final_message add_special_tokens"
    " chat_template chat_template_kwargs media_io_kwargs mm_processor_kwargs tools",
    "ids": "model tokens",
    # anthropic 2.14's MessageCountTokensParams
    "count": "messages model cache_control output_config speed system thinking tool_choice tools"
    " user_profile_id workspace_id",
}
WITNESS: dict[str, Any] = {
    "add_generation_prompt": False,
    "chat_template_kwargs": {"a": 1},
    "documents": ["e"],
    "max_tokens_per_doc": 3,
    "messages": [{"role": "user", "content": "ho"}],
    "model": "a/other",
    "output_config": {"effort": "low"},
    "prompt": "ho",
    "query": "r",
    "return_documents": False,
    "return_token_strs": True,
    "system": "be brief",
    "thinking": {"type": "disabled"},
    "tokens": [2],
    "tool_choice": {"type": "any"},
    "top_n": 1,
}
LABELS: dict[str, Any] = {"user": "u", "cache_control": {"type": "ephemeral"}}


def tools_of(route: str) -> list[dict[str, Any]]:
    return FUNCTION if route == "chat" else [{"name": "f", "input_schema": {"type": "object"}}]


def refusal(read: Any, body: dict[str, Any]) -> Refusal:
    with pytest.raises(Refusal) as refused:
        read(body)
    assert (refused.value.status, refused.value.kind) == (400, "invalid_request_error")
    return refused.value


@pytest.mark.parametrize(
    ("route", "name"), [(route, name) for route, names in OFFICIAL.items() for name in names.split()]
)
def test_each_parameter_is_honoured_or_refused_by_name(route: str, name: str) -> None:
    body, read, refused = BODIES[route]
    witness = WITNESS | {"tools": tools_of(route), "add_special_tokens": route == "chat"}
    assert [name in witness, name in LABELS, name in refused].count(True) == 1
    beside = body | ({"tools": tools_of(route)} if name == "tool_choice" else {})
    if name in witness:
        assert read(beside | {name: witness[name]}) != read(beside)
    elif name in LABELS:
        assert read(body | {name: LABELS[name]}) == read(body)
    else:
        said = refusal(read, body | {name: {"some": "value"}})
        assert (said.param, said.code) == (name, "unsupported_parameter")
        assert read(body | dict.fromkeys((name,), refused[name][0][0] if refused[name][0] else None))


@pytest.mark.parametrize(
    ("route", "change", "param"),
    [
        ("rerank", {"documents": []}, "documents"),
        ("rerank", {"documents": ["d", 1]}, "documents[1]"),
        ("rerank", {"documents": [{"text": "d", "title": "t"}]}, "documents[0].title"),
        ("rerank", {"documents": [{}]}, "documents[0].text"),
        ("rerank", {"documents": ["d"] * 2049}, "documents"),
        ("rerank", {"query": ""}, "query"),
        ("rerank", {"query": ["q"]}, "query"),
        ("rerank", {"top_n": -1}, "top_n"),
        ("rerank", {"max_tokens_per_doc": 0}, "max_tokens_per_doc"),
        ("rerank", {"texts": ["d"]}, "texts"),
        ("text", {"prompt": ["hi"]}, "prompt"),
        ("text", {"prompt": None}, "prompt"),
        ("chat", {"messages": []}, "messages"),
        ("chat", {"prompt": "hi"}, "prompt"),
        ("chat", {"temperature": 1}, "temperature"),
        ("ids", {"tokens": []}, "tokens"),
        ("ids", {"tokens": [-1]}, "tokens"),
        ("ids", {"tokens": [1.0]}, "tokens"),
        ("count", {"max_tokens": 1}, "max_tokens"),
        ("count", {"messages": [{"role": "robot"}]}, "messages[0].role"),
    ],
)
def test_a_field_at_fault_is_named(route: str, change: dict[str, Any], param: str) -> None:
    body, read, _ = BODIES[route]
    assert refusal(read, body | change).param == param


def test_the_node_serves_the_paths_that_edge_and_gateway_know() -> None:
    served = [path for paths, _, _ in ROUTES for path in paths]
    assert sorted(served) == sorted(ASKED)


def test_every_route_of_inference_is_counted_by_what_it_does() -> None:
    about_tokens = {path for path in ASKED if "token" in path}
    assert OPERATIONS.keys() == ASKED.keys() - about_tokens
    for paths, _, reply in ROUTES:
        assert {OPERATIONS.get(path, "") for path in paths} == {getattr(reply, "operation", None)}


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
async def test_documents_come_in_the_order_of_their_vectors(tmp_path: Any, path: str) -> None:
    """The scripted engine's vector of a row is (number of ids, their sum, 1, 1)."""
    async with running_node(tmp_path) as node:
        await load(node, kind="embed", pooling="mean", kv_bytes_per_token=0, eos_token_ids=())
        body = {
            "model": "acme/m",
            "query": "the quick fox",
            "documents": [*DOCUMENTS[:2], {"text": DOCUMENTS[2]}],
        }
        whole = (await post(node, path, body)).json()
        some = (await post(node, path, body | {"top_n": 2, "return_documents": False})).json()
    rows = VOCABULARY.encode_all([body["query"], *DOCUMENTS], add_special=True)
    vectors = np.array([[len(row), sum(row), 1, 1] for row in rows], dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = vectors[1:] @ vectors[0]
    order = [int(index) for index in np.argsort(-scores, kind="stable")]

    assert [one["index"] for one in whole["results"]] == order
    assert [one["document"]["text"] for one in whole["results"]] == [DOCUMENTS[index] for index in order]
    assert [one["relevance_score"] for one in whole["results"]] == pytest.approx(
        [scores[i] for i in order], abs=1e-6
    )
    assert whole["usage"] == dict.fromkeys(("prompt_tokens", "total_tokens"), sum(map(len, rows)))
    assert (whole["model"], whole["id"][:7]) == ("acme/m", "rerank-")
    assert [set(one) for one in some["results"]] == [{"index", "relevance_score"}] * 2
    assert [one["index"] for one in some["results"]] == order[:2]


async def test_a_document_that_is_too_long_is_refused_or_cut_where_asked(tmp_path: Any) -> None:
    async with running_node(tmp_path) as node:
        await load(node, kind="embed", pooling="mean", kv_bytes_per_token=0, eos_token_ids=(), max_len=16)
        body = {"model": "acme/m", "query": "fox", "documents": ["dog", "fox " * 40]}
        refused = await post(node, "/v1/rerank", body)
        cut = await post(node, "/v1/rerank", body | {"max_tokens_per_doc": 9})
        longest = await post(node, "/v1/rerank", body | {"max_tokens_per_doc": 99})
        query = await post(node, "/v1/rerank", body | {"query": "fox " * 40, "max_tokens_per_doc": 9})
        sent = [len(row) for order in node.shell.engines[0].orders for row in order["batch"]]

    assert refused.json()["error"]["param"] == "documents[1]"
    assert query.json()["error"]["param"] == "query"
    assert {one.json()["error"]["code"] for one in (refused, query)} == {"context_length_exceeded"}
    assert (cut.status_code, longest.status_code) == (200, 200)
    assert [max(sent[:3]), max(sent[3:])] == [9, 16]


RERANKER: dict[str, Any] = {"kind": "rerank", "kv_bytes_per_token": 0, "eos_token_ids": ()}


async def test_a_cross_encoder_scores_each_document_with_the_query(tmp_path: Any) -> None:
    """The scripted engine's number for a row is how many ids it has; its tokenizer joins by nothing at all."""
    async with running_node(tmp_path) as node:
        await load(node, **RERANKER)
        body = {"model": "acme/m", "query": "the quick fox", "documents": DOCUMENTS}
        whole = (await post(node, "/v1/rerank", body)).json()
        best = (await post(node, "/rerank", body | {"top_n": 1, "return_documents": False})).json()
    query, *documents = VOCABULARY.encode_all([body["query"], *DOCUMENTS], add_special=False)
    orders = node.shell.engines[0].orders
    sent = [row for order in orders[: len(orders) // 2] for row in order["batch"]]
    scores = [1 / (1 + np.exp(-float(len(query + row)))) for row in documents]
    order = sorted(range(3), key=lambda index: -scores[index])

    assert sorted(sent) == sorted(query + row for row in documents)
    assert orders[0]["segments"] == [
        [0] * len(query) + [1] * (len(row) - len(query)) for row in orders[0]["batch"]
    ]
    assert [one["index"] for one in whole["results"]] == order
    assert [one["relevance_score"] for one in whole["results"]] == pytest.approx([scores[i] for i in order])
    assert whole["usage"] == dict.fromkeys(("prompt_tokens", "total_tokens"), sum(map(len, sent)))
    assert [(one["index"], len(one)) for one in best["results"]] == [(order[0], 2)]


async def test_only_the_document_of_a_pair_is_cut(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_node(tmp_path) as node:
        await load(node, **RERANKER, max_len=16)
        body = {"model": "acme/m", "query": "fox", "documents": ["dog", "fox " * 40]}
        refused = await post(node, "/v1/rerank", body)
        cut = await post(node, "/v1/rerank", body | {"max_tokens_per_doc": 9})
        longest = await post(node, "/v1/rerank", body | {"max_tokens_per_doc": 99})
        query = await post(node, "/v1/rerank", body | {"query": "fox " * 40, "max_tokens_per_doc": 9})
        monkeypatch.setattr(rerank, "MAX_PAIR_TOKENS", 31)
        many = await post(node, "/v1/rerank", body | {"documents": ["dog"] * 31})
        sent = [row for order in node.shell.engines[0].orders for row in order["batch"]]
    asked = VOCABULARY.encode("fox", add_special=False)

    assert [one.json()["error"]["param"] for one in (refused, query, many)] == [
        "documents[1]",
        "query",
        "documents",
    ]
    assert {one.json()["error"]["code"] for one in (refused, query, many)} == {"context_length_exceeded"}
    assert (cut.status_code, longest.status_code) == (200, 200)
    assert [max(map(len, sent[:2])), max(map(len, sent[2:]))] == [len(asked) + 9, 16]
    assert all(row[: len(asked)] == asked for row in sent)


async def test_a_cross_encoder_does_nothing_else(tmp_path: Any) -> None:
    bodies = {"/v1/chat/completions": {"messages": HI}, "/v1/completions": {"prompt": "x"}}
    async with running_node(tmp_path) as node:
        await load(node, **RERANKER)
        for path, body in (bodies | {"/v1/embeddings": {"input": "x"}}).items():
            answer = await post(node, path, {"model": "acme/m"} | body)
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], error["param"]) == (400, "wrong_model_kind", "model")
            assert error["message"].endswith("use /v1/rerank.")
        assert (await post(node, "/tokenize", {"model": "acme/m", "prompt": "x"})).status_code == 200


async def test_text_to_ids_and_back(tmp_path: Any) -> None:
    text = "The quick brown fox \u00e9\u4e16"
    async with running_node(tmp_path) as node:
        await load(node)
        for prefix in ("", "/v1"):
            asked = {"model": "acme/m", "prompt": text, "return_token_strs": True}
            found = (await post(node, f"{prefix}/tokenize", asked)).json()
            back = (
                await post(node, f"{prefix}/detokenize", {"model": "acme/m", "tokens": found["tokens"]})
            ).json()
            assert found["tokens"] == VOCABULARY.encode(text, add_special=True)
            assert (found["count"], found["max_model_len"]) == (len(found["tokens"]), 128)
            assert found["token_strs"] == VOCABULARY.names_of(found["tokens"])
            assert back == {"prompt": text}
        special = VOCABULARY.token_of("<|end|>")
        shown = await post(node, "/detokenize", {"model": "acme/m", "tokens": [special]})
        unknown = await post(node, "/detokenize", {"model": "acme/m", "tokens": [10**6]})
        long = await post(node, "/tokenize", {"model": "acme/m", "prompt": text * 400})

    assert shown.json() == {"prompt": "<|end|>"}
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (400, "tokens")
    assert long.json()["count"] > long.json()["max_model_len"], "counting what does not fit is what it is for"
    assert node.shell.engines[0].orders == []


async def test_a_chat_is_counted_as_it_would_be_asked(tmp_path: Any) -> None:
    async with running_node(tmp_path) as node:
        await load(node)
        body = {"model": "acme/m", "messages": HI}
        found = (await post(node, "/tokenize", body)).json()
        whole = (await post(node, "/v1/chat/completions", body)).json()
        counted = (await post(node, "/v1/messages/count_tokens", body | {"system": "s"})).json()
        message = (await post(node, "/v1/messages", body | {"system": "s", "max_tokens": 9})).json()
        wrong = await post(node, "/v1/messages/count_tokens", body | {"max_tokens": 9})

    assert found["tokens"] == node.shell.engines[0].orders[0]["tokens"]
    assert found["count"] == whole["usage"]["prompt_tokens"]
    assert counted == {"input_tokens": message["usage"]["input_tokens"]}
    assert wrong.json()["error"] | {"message": ""} == {
        "type": "invalid_request_error", "message": "", "param": "max_tokens", "code": "unknown_parameter",
    }  # fmt: skip


async def test_an_input_is_counted_as_it_would_be_asked(tmp_path: Any) -> None:
    """By OpenAI's own client."""
    text: Any = {"format": {"type": "json_object"}}
    async with running_node(tmp_path) as node:
        await load(node)
        async with client(node) as asked:
            answer = await asked.responses.create(model="acme/m", input="hi", instructions="s")
            counted = await asked.responses.input_tokens.count(
                model="acme/m", input="hi", instructions="s", text=text, truncation="disabled"
            )
        wrong = await post(
            node, "/v1/responses/input_tokens", {"model": "acme/m", "input": "hi", "stream": True}
        )
        effort = {"model": "acme/m", "input": "hi", "reasoning": {"effort": "low"}}
        named = await post(node, "/v1/responses/input_tokens", effort)

    assert answer.usage is not None
    assert counted.model_dump() == {
        "input_tokens": answer.usage.input_tokens,
        "object": "response.input_tokens",
    }
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "stream")
    assert (named.status_code, named.json()["error"]["param"]) == (400, "reasoning.effort")
    assert len(node.shell.engines[0].orders) == 1, "no engine is asked to count"


@pytest.mark.parametrize("name", sorted(InputTokenCountParams.__annotations__))
def test_each_parameter_of_a_count_is_read_or_refused_by_name(name: str) -> None:
    body: dict[str, Any] = {"model": "acme/m", "input": "hi"}
    if name in COUNTED:
        with pytest.raises(Refusal) as refused:
            read_input_count(body | {name: 1})
        assert (refused.value.param or "").startswith(name)
    else:
        with pytest.raises(Refusal) as refused:
            read_input_count(body | {name: "some"})
        assert (refused.value.param, refused.value.code) == (name, "unsupported_parameter")


async def test_a_model_of_the_other_kind_says_where_it_is_served(tmp_path: Any) -> None:
    async with running_node(tmp_path) as node:
        await load(node)
        answer = await post(node, "/v1/rerank", BODIES["rerank"][0] | {"model": "acme/m"})

    assert answer.json()["error"]["code"] == "wrong_model_kind"

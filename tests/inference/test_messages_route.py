"""Anthropic's `/v1/messages`: every parameter of its client, and its events, over the chat path."""

import json
from typing import Any

import pytest

from inference.api.anthropic.request import _FIELDS, REFUSED, read_messages_body
from inference.api.request.kinds import read_chat
from tests.inference.fake_engine import TEXT, VOCABULARY, RunningNode, Script, running_node
from tests.inference.test_node_serving import load, post
from tests.inference.test_tools_node import CITY, THOUGHT, script, tier
from wire.refused.refusal import Refusal

BODY: dict[str, Any] = {"model": "acme/m", "max_tokens": 200, "messages": [{"role": "user", "content": "hi"}]}
TOOLS = [{"name": "weather", "description": "d", "input_schema": CITY, "strict": True}]
OFFICIAL = [
    *(
        "cache_control",
        "container",
        "diagnostics",
        "inference_geo",
        "max_tokens",
        "messages",
        "metadata",
        "model",
    ),
    *(
        "output_config",
        "service_tier",
        "speed",
        "stop_sequences",
        "stream",
        "system",
        "thinking",
        "tool_choice",
    ),
    *("tools", "user_profile_id", "workspace_id"),
]
"""`anthropic.types.message_create_params` of anthropic 2.14.0, both of its classes together."""
WITNESS: dict[str, Any] = {
    "max_tokens": 9,
    "messages": [{"role": "user", "content": "ho"}],
    "model": "acme/other",
    "output_config": {"effort": "low"},
    "stop_sequences": ["x"],
    "stream": True,
    "system": "be brief",
    "thinking": {"type": "disabled"},
    "tool_choice": {"type": "any"},
    "tools": TOOLS,
}
LABELS: dict[str, Any] = {"metadata": {"user_id": "u"}, "cache_control": {"type": "ephemeral"}}


def refusal(body: dict[str, Any]) -> Refusal:
    with pytest.raises(Refusal) as refused:
        read_messages_body(body)
    assert refused.value.status == 400
    return refused.value


@pytest.mark.parametrize("name", OFFICIAL)
def test_each_official_parameter_is_honoured_or_refused_by_name(name: str) -> None:
    assert [name in WITNESS, name in LABELS, name in REFUSED].count(True) == 1
    beside = BODY | ({"tools": TOOLS} if name == "tool_choice" else {})
    if name in WITNESS:
        assert read_messages_body(beside | {name: WITNESS[name]}) != read_messages_body(beside)
    elif name in LABELS:
        assert read_messages_body(BODY | {name: LABELS[name]}) == read_messages_body(BODY)
    else:
        said = refusal(BODY | {name: {"some": "value"}})
        assert (said.param, said.code) == (name, "unsupported_parameter")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"temperature": 1.5}, "temperature"),
        ({"thinking": {"type": "enabled", "budget_tokens": 9}}, "thinking.budget_tokens"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "system", "content": [{"type": "image"}]}]}, "messages[0].content[0].type"),
        ({"thinking": {"type": "adaptive", "display": "omitted"}}, "thinking.display"),
        ({"tools": [TOOLS[0] | {"defer_loading": True}]}, "tools[0].defer_loading"),
        ({"tools": [TOOLS[0] | {"eager_input_streaming": False}]}, "tools[0].eager_input_streaming"),
        ({"tools": [TOOLS[0] | {"input_examples": [{"city": "Rome"}]}]}, "tools[0].input_examples"),
        (
            {"tools": [TOOLS[0] | {"allowed_callers": ["code_execution_20260120"]}]},
            "tools[0].allowed_callers",
        ),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_use"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": []}]}]}, "messages[0].content[0].type"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type"),
        ({"tool_choice": {"type": "tool", "name": "x"}, "tools": TOOLS}, "tool_choice"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
        ({"cache_control": {"type": "x"}}, "cache_control.type"),
        ({"x": 1}, "x"),
    ],
)
def test_a_field_at_fault_is_named(change: dict[str, Any], param: str) -> None:
    assert refusal(BODY | change).param == param


def test_a_conversation_is_the_chat_that_openai_would_send() -> None:
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm", "signature": ""}, {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Rome"}}]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t1", "is_error": True,
             "content": [{"type": "text", "text": "sunny"}]},
            {"type": "text", "text": "so?"}]},
    ]  # fmt: skip
    call = {"id": "t1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
    asked = read_messages_body(
        BODY | {"messages": turns, "system": "s", "tools": TOOLS, "stop_sequences": ["x"], "top_k": 3}
        | {"tool_choice": {"type": "tool", "name": "weather", "disable_parallel_tool_use": True}}
    )  # fmt: skip

    assert asked == read_chat({
        "model": "acme/m",
        "max_tokens": 200,
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "a\nb"},
            {"role": "assistant", "content": "I look.", "reasoning_content": "hm", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "t1", "content": "Error: sunny"},
            {"role": "user", "content": "so?"},
        ],
        "tools": [{"type": "function", "function": {
            "name": "weather", "description": "d", "parameters": CITY, "strict": True}}],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "parallel_tool_calls": False,
        "stop": ["x"],
        "top_k": 3,
    })  # fmt: skip


def events_of(text: str) -> list[dict[str, Any]]:
    """The named events; each says its own name in its data as well."""
    found = []
    for block in text.split("\n\n"):
        if block.startswith("event: "):
            name, data = block.split("\n")
            found.append(json.loads(data.removeprefix("data: ")))
            assert found[-1]["type"] == name.removeprefix("event: ")
    return found


def put_together(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The message as Anthropic's own client accumulates it; blocks open, fill and close one after the other."""
    message: dict[str, Any] = events[0]["message"]
    texts: dict[int, str] = {}
    for event in events[1:]:
        match event["type"]:
            case "content_block_start":
                assert event["index"] == len(message["content"])
                message["content"].append(event["content_block"])
                texts[event["index"]] = ""
            case "content_block_delta":
                assert event["index"] == len(message["content"]) - 1
                texts[event["index"]] += next(v for k, v in event["delta"].items() if k != "type")
            case "content_block_stop":
                block = message["content"][event["index"]]
                text = texts.pop(event["index"])
                block |= {"input": json.loads(text)} if block["type"] == "tool_use" else {block["type"]: text}
            case "message_delta":
                message |= event["delta"] | {"usage": event["usage"]}
    assert texts == {}
    assert events[-1] == {"type": "message_stop"}
    return message


@pytest.mark.parametrize("size", [1, 4, 100])
async def test_calls_and_thoughts_whole_and_streamed(tmp_path: Any, size: int) -> None:
    async with running_node(tmp_path, script(THOUGHT, size), tier()) as node:
        await load(node, max_len=1024)
        whole = (await post(node, "/v1/messages", BODY | {"tools": TOOLS})).json()
        answer = await post(node, "/v1/messages", BODY | {"tools": TOOLS, "stream": True})
    made = put_together(events_of(answer.text))
    for message in (whole, made):
        assert message.pop("id").startswith("msg_")
        assert [block.pop("id")[:5] for block in message["content"] if block["type"] == "tool_use"] == [
            "call_"
        ] * 2

    assert made == whole
    assert [block["type"] for block in whole["content"]] == ["thinking", "text", "tool_use", "tool_use"]
    assert whole["content"][2] == {"type": "tool_use", "name": "weather", "input": {"city": "Rome"}}
    assert whole["stop_reason"] == "tool_use"
    assert whole["usage"]["output_tokens"] == len(VOCABULARY.encode(THOUGHT, add_special=False)) + 1


@pytest.mark.parametrize(
    ("more", "reason", "stop"),
    [
        ({}, "end_turn", None),
        ({"max_tokens": 3}, "max_tokens", None),
        ({"stop_sequences": ["fox"]}, "stop_sequence", "fox"),
    ],
)
async def test_why_an_answer_ended(
    tmp_path: Any, more: dict[str, Any], reason: str, stop: str | None
) -> None:
    async with running_node(tmp_path) as node:
        await load(node, max_len=512)
        whole = (await post(node, "/v1/messages", BODY | more)).json()
        made = put_together(
            events_of((await post(node, "/v1/messages", BODY | more | {"stream": True})).text)
        )

    for message in (whole, made):
        assert (message["stop_reason"], message["stop_sequence"]) == (reason, stop)
        assert TEXT.startswith(message["content"][0]["text"])


async def check_error(node: RunningNode, body: dict[str, Any], status: int, kind: str) -> None:
    answer = await post(node, "/v1/messages", body)
    said = answer.json()
    assert (answer.status_code, said["type"], said["error"]["type"]) == (status, "error", kind)
    assert answer.headers["x-request-id"]


async def test_errors_have_anthropics_shape(tmp_path: Any) -> None:
    async with running_node(tmp_path) as node:
        await load(node)
        await check_error(node, BODY | {"max_tokens": 0}, 400, "invalid_request_error")
        await check_error(node, BODY | {"max_tokens": 5000}, 400, "invalid_request_error")
    async with running_node(tmp_path, Script(failure={"code": "overloaded", "message": "full"})) as node:
        await load(node)
        await check_error(node, BODY | {"max_tokens": 9}, 429, "rate_limit_error")


def test_what_asks_for_nothing_is_taken_inside_objects_too() -> None:
    """`eager_input_streaming` is what @ai-sdk/anthropic sends with each streamed tool."""
    assert read_messages_body(BODY | {"output_config": {"effort": "max"}}).reasoning_effort == "max"
    idle = {"eager_input_streaming": True, "defer_loading": False, "allowed_callers": ["direct"]}
    tools, thinking = [TOOLS[0] | idle], {"type": "adaptive", "display": "summarized"}

    assert read_messages_body(BODY | {"tools": tools, "thinking": thinking}) == read_messages_body(
        BODY | {"tools": TOOLS}
    )


def test_a_system_turn_may_stand_anywhere() -> None:
    turns = [*BODY["messages"], {"role": "system", "content": [{"type": "text", "text": "now in verse"}]}]

    assert read_messages_body(BODY | {"messages": turns}).messages == (
        {"role": "user", "content": "hi"},
        {"role": "system", "content": "now in verse"},
    )


BETA = {
    "billing_policy": {"type": "x"},
    "compaction": {"type": "x"},
    "context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]},
    "fallback_credit_token": "t",
    "fallbacks": [{"model": "acme/other"}],
    "mcp_servers": [{"type": "url", "url": "http://127.0.0.1:1", "name": "x"}],
}
"""What `anthropic.types.beta.message_create_params` of 2.14 has beside, but `thread` and the header `betas`."""


@pytest.mark.parametrize("name", BETA)
def test_what_the_beta_has_beside_is_refused_by_name(name: str) -> None:
    said = refusal(BODY | {name: BETA[name]})

    assert (said.param, said.code) == (name, "unsupported_parameter")
    assert read_messages_body(
        BODY | {"mcp_servers": [], "fallbacks": [], "thread": None}
    ) == read_messages_body(BODY)


async def test_a_thread_is_refused_in_the_words_that_anthropics_runner_goes_on_from(tmp_path: Any) -> None:
    """`anthropic.lib.threads`: this `error_code`, and the request is sent again with all its messages."""
    async with running_node(tmp_path) as node:
        await load(node)
        said = (await post(node, "/v1/messages", BODY | {"thread": {"type": "create"}})).json()["error"]
        other = (await post(node, "/v1/messages", BODY | {"max_tokens": 0})).json()["error"]

    assert (said["type"], said["param"]) == ("invalid_request_error", "thread")
    assert said["details"] == {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
    assert "details" not in other


@pytest.mark.parametrize("arguments", ['"no object"', "{broken", '{"a":' + "[" * 9_000 + "]" * 9_000 + "}"])
async def test_a_calls_input_is_an_object_whatever_the_model_wrote(tmp_path: Any, arguments: str) -> None:
    written = f'<tool_call>{{"arguments": {arguments}, "name": "weather"}}</tool_call>'
    named = f'<tool_call>{{"name": "weather", "arguments": {arguments}}}</tool_call>'
    for text in (written, named):
        async with running_node(tmp_path, script(text, 1_000), tier()) as node:
            await load(node, max_len=65_536)
            answer = await post(node, "/v1/messages", BODY | {"tools": TOOLS, "max_tokens": 60_000})

        assert answer.status_code == 200
        for block in answer.json()["content"]:
            assert block["type"] == "text" or isinstance(block["input"], dict)


def test_the_table_names_what_older_clients_send_too() -> None:
    assert set(_FIELDS) - set(OFFICIAL) == {"temperature", "top_p", "top_k"}
    assert set(REFUSED) - set(OFFICIAL) == {*BETA, "thread"}

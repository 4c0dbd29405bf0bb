"""OpenAI's `/v1/responses`: every parameter of its client, and its events, read by the client itself."""

from typing import Any

import openai
import openai.types.responses.response_create_params as params
import pytest
from openai.types.responses import Response

from inference.api.request.kinds import read_chat
from inference.api.responses.request import REFUSED, read_response
from tests.inference.fake_engine import TEXT, VOCABULARY, Script, running_node
from tests.inference.test_messages_route import events_of
from tests.inference.test_node_serving import client, load, post
from tests.inference.test_tools_node import CITY, THOUGHT, script, tier
from wire.refused.refusal import Refusal

BODY: dict[str, Any] = {"model": "acme/m", "input": "hi"}
TOOLS: list[Any] = [
    {"type": "function", "name": "weather", "description": "d", "parameters": CITY, "strict": True}
]
OFFICIAL = sorted(
    params.ResponseCreateParamsStreaming.__required_keys__
    | params.ResponseCreateParamsStreaming.__optional_keys__
)
WITNESS: dict[str, Any] = {
    "input": "ho",
    "instructions": "be brief",
    "max_output_tokens": 9,
    "metadata": {"a": "b"},
    "model": "acme/other",
    "parallel_tool_calls": False,
    "prompt_cache_key": "k",
    "reasoning": {"effort": "low"},
    "safety_identifier": "s",
    "stream": True,
    "temperature": 0.5,
    "text": {"format": {"type": "json_object"}},
    "tool_choice": "required",
    "tools": TOOLS,
    "top_p": 0.5,
    "user": "u",
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_each_official_parameter_is_honoured_or_refused_by_name(name: str) -> None:
    """Labels are repeated by the answer, so what is read differs with them too; options of streams ask for nothing."""
    if name == "stream_options":
        assert read_response(BODY | {name: {"include_obfuscation": False}}) == read_response(BODY)
        assert (
            refusal(BODY | {name: {"include_obfuscation": True}}).param
            == "stream_options.include_obfuscation"
        )
        return
    assert (name in WITNESS) != (name in REFUSED)
    beside = BODY | ({"tools": TOOLS} if name in {"tool_choice", "parallel_tool_calls"} else {})
    if name in WITNESS:
        assert read_response(beside | {name: WITNESS[name]}) != read_response(beside)
    else:
        said = refusal(BODY | {name: {"some": "value"}})
        assert (said.param, said.code) == (name, "unsupported_parameter")


def refusal(body: dict[str, Any]) -> Refusal:
    with pytest.raises(Refusal) as refused:
        read_response(body)
    assert refused.value.status == 400
    return refused.value


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input": []}, "input"),
        ({"input": [{"type": "image_generation_call"}]}, "input[0].type"),
        ({"input": [{"type": []}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [TOOLS[0] | {"defer_loading": True}]}, "tools[0].defer_loading"),
        ({"tools": [TOOLS[0] | {"async": True}]}, "tools[0].async"),
        ({"tools": [TOOLS[0] | {"output_schema": {}}]}, "tools[0].output_schema"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"reasoning": {"summary": "auto"}}, "reasoning.summary"),
        ({"reasoning": {"mode": "pro"}}, "reasoning.mode"),
        ({"reasoning": {"context": "all_turns"}}, "reasoning.context"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"store": True}, "store"),
        ({"background_options": {"completion_window": "2h"}}, "background_options"),
        ({"x": 1}, "x"),
        ({"input": [{"type": "reasoning", "id": "r", "summary": []}]}, "input"),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
        (
            {"tools": TOOLS, "tool_choice": {"type": "allowed_tools", "mode": "x", "tools": [{"name": "a"}]}},
            "tool_choice.tools[0].type",
        ),
        (
            {"tools": [{"type": "function", "name": "f", "parameters": [1]}]},
            "tools[0].parameters",
        ),
    ],
)
def test_a_field_at_fault_is_named(change: dict[str, Any], param: str) -> None:
    assert refusal(BODY | change).param == param


def test_what_asks_for_nothing_is_taken_inside_a_tool_too() -> None:
    idle = {"defer_loading": False, "async": False, "allowed_callers": ["direct"], "output_schema": None}

    assert (
        read_response(BODY | {"tools": [TOOLS[0] | idle]}).chat == read_response(BODY | {"tools": TOOLS}).chat
    )
    reasoning = {"effort": "low", "mode": "standard", "context": "auto"}
    assert (
        read_response(BODY | {"reasoning": reasoning}).chat
        == read_response(BODY | {"reasoning": {"effort": "low"}}).chat
    )


def test_items_are_the_chat_that_they_mean() -> None:
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
        {"type": "reasoning", "id": "r", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "role": "assistant",
         "content": [{"type": "output_text", "text": "I look.", "annotations": []}]},
        {"type": "function_call", "call_id": "c", "name": "weather", "arguments": '{"city": "Rome"}'},
        {"type": "function_call_output", "call_id": "c", "output": "sunny"},
    ]  # fmt: skip
    call = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
    schema = {"name": "n", "schema": CITY, "strict": True}
    asked = read_response(
        BODY | {"input": items, "instructions": "s", "text": {"format": {"type": "json_schema"} | schema}}
    )

    assert asked.chat == read_chat({
        "model": "acme/m",
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "I look.", "reasoning_content": "hm", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": "sunny"},
        ],
        "response_format": {"type": "json_schema", "json_schema": schema},
    })  # fmt: skip


@pytest.mark.parametrize("size", [1, 4, 100])
async def test_whole_and_streamed_say_the_same_to_the_official_client(tmp_path: Any, size: int) -> None:
    async with running_node(tmp_path, script(THOUGHT, size), tier()) as node:
        await load(node, max_len=1024)
        async with client(node) as asked:
            whole = await asked.responses.create(**BODY, tools=TOOLS, metadata={"a": "b"})
            async with asked.responses.stream(**BODY, tools=TOOLS) as stream:
                events = [event async for event in stream]
                made = await stream.get_final_response()
    kinds = [item.type for item in whole.output]
    begun = [event.item for event in events if event.type == "response.output_item.added"]
    added = [event.part for event in events if event.type == "response.content_part.added"]

    assert [item.content for item in begun[:2]] == [[], []], "the client adds each part that is said to come"  # type: ignore[union-attr]
    assert [part.type for part in added] == ["reasoning_text", "output_text"]
    assert (
        kinds
        == [item.type for item in made.output]
        == ["reasoning", "message", "function_call", "function_call"]
    )
    assert whole.output_text == made.output_text == "I look."
    assert [(one.name, one.arguments) for one in whole.output[2:]] == [("weather", '{"city": "Rome"}')] * 2  # type: ignore[union-attr]
    assert whole.id.startswith("resp_")
    assert whole.usage == made.usage
    assert whole.usage is not None
    assert whole.usage.output_tokens == len(VOCABULARY.encode(THOUGHT, add_special=False)) + 1
    assert 0 < whole.usage.output_tokens_details.reasoning_tokens < whole.usage.output_tokens
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert (whole.metadata, whole.status, made.status) == ({"a": "b"}, "completed", "completed")
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "I look."


@pytest.mark.parametrize("stream", [False, True])
async def test_a_full_engine_is_a_rate_limit_to_the_official_client(tmp_path: Any, stream: bool) -> None:
    async with running_node(tmp_path, Script(failure={"code": "overloaded", "message": "full"})) as node:
        await load(node)
        async with client(node) as asked:
            with pytest.raises(openai.RateLimitError, match="full") as refused:
                await asked.with_options(max_retries=0).responses.create(**BODY, stream=stream)

    assert refused.value.response.headers["retry-after"]


@pytest.mark.parametrize("stream", [False, True])
async def test_what_the_model_cannot_do_names_what_the_client_wrote(tmp_path: Any, stream: bool) -> None:
    """The chat path refuses it, under names that this route's clients have never heard of."""
    async with running_node(tmp_path) as node:
        await load(node)
        told = [
            (await post(node, "/v1/responses", BODY | {"stream": stream} | more)).json()["error"]
            for more in (
                {"reasoning": {"effort": "low"}},
                {"input": "word " * 200},
                {"max_output_tokens": 9_000},
            )
        ]

    assert [error["param"] for error in told] == ["reasoning.effort", "input", "input"]
    assert "'reasoning.effort' is not supported" in told[0]["message"]


async def test_events_come_in_order_and_a_cut_answer_is_incomplete(tmp_path: Any) -> None:
    async with running_node(tmp_path) as node:
        await load(node)
        events = events_of(
            (await post(node, "/v1/responses", BODY | {"stream": True, "max_output_tokens": 3})).text
        )
        whole = await post(node, "/v1/responses", BODY | {"max_output_tokens": 3})
    kinds = [event["type"].removeprefix("response.") for event in events]
    answer = Response.model_validate(whole.json(), strict=True)

    assert [kind for kind in kinds if kind != "output_text.delta"] == [
        "created", "in_progress", "output_item.added", "content_part.added",
        "output_text.done", "content_part.done", "output_item.done", "incomplete",
    ]  # fmt: skip
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == answer.output_text
    assert TEXT.startswith(answer.output_text)
    assert answer.incomplete_details is not None
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")

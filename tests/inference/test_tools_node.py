"""Tool calls and thoughts through a node, read by the official client; whole and streamed say the same."""

import json
from typing import Any

import pytest

from inference.api.answer.grammar import call_structure
from inference.api.request.kinds import read_chat
from inference.api.request.sampling import Sampling
from inference.api.request.tools import FORMATS, markers_of, read_tools
from inference.api.text.toolcalls import Markers
from tests.inference.fake_engine import VOCABULARY, FakeTier, RunningNode, Script, running_node, small_files
from tests.inference.test_engine_grammar import served, text_of
from tests.inference.test_node_serving import HI, client, load, post
from tests.inference.test_tool_calls import read
from wire.refused.refusal import Refusal

TEMPLATE = (
    "{% if tools %}{{ tools | tojson }}\n{% endif %}{% for m in messages %}{{ m.role }}: {{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% if enable_thinking is defined and not enable_thinking %}"
    "<think></think>{% endif %}{% endif %}"
)
CITY = {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"],
        "additionalProperties": False}  # fmt: skip
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {"name": "weather", "description": "d", "parameters": CITY, "strict": True},
    },
    {"type": "function", "function": {"name": "now"}},
]
CHAT: dict[str, Any] = {"model": "acme/m", "messages": HI, "tools": TOOLS}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
THOUGHT = f"<think>\nwhere? END\n</think>\n\nI look.\n{CALL}\n{CALL}"


def script(text: str, size: int = 1) -> Script:
    tokens = VOCABULARY.encode(text, add_special=False)
    return Script(answer=lambda _order: [tokens[at : at + size] for at in range(0, len(tokens), size)])


def tier(template: str = TEMPLATE) -> FakeTier:
    return FakeTier(files=small_files(template))


async def streamed(node: RunningNode, **more: Any) -> dict[str, Any]:
    """A stream put together as the official client's users do: by the index of each piece."""
    made: dict[str, Any] = {"content": "", "thoughts": "", "calls": {}, "finish": None}
    async with client(node) as asked:
        stream = await asked.chat.completions.create(
            **(CHAT | {"stream": True, "stream_options": {"include_usage": True}} | more)
        )
        async for chunk in stream:
            made["usage"] = chunk.usage
            for choice in chunk.choices:
                made["finish"] = choice.finish_reason or made["finish"]
                made["content"] += choice.delta.content or ""
                made["thoughts"] += getattr(choice.delta, "reasoning_content", None) or ""
                for piece in choice.delta.tool_calls or []:
                    assert piece.function is not None
                    call = made["calls"].setdefault(
                        piece.index, {"id": piece.id, "name": piece.function.name, "arguments": ""}
                    )
                    assert (piece.id is None) == (piece.type is None) == (piece.function.name is None)
                    call["arguments"] += piece.function.arguments or ""
    return made


@pytest.mark.parametrize("size", [1, 3, 100])
async def test_calls_and_thoughts_whole_and_streamed(tmp_path: Any, size: int) -> None:
    async with running_node(tmp_path, script(THOUGHT, size), tier(), max_slots=4) as node:
        await load(node, max_len=1024)
        async with client(node) as asked:
            answer = await asked.chat.completions.create(**CHAT, stop="END")
        pieces = await streamed(node, stop="END")
        order = node.shell.engines[0].orders[0]
    message = answer.choices[0].message
    calls = message.tool_calls or []

    assert message.content == pieces["content"] == "I look."
    assert message.reasoning_content == pieces["thoughts"] == "\nwhere? END\n"  # type: ignore[attr-defined]
    assert [(one.type, one.function.name, one.function.arguments) for one in calls] == [  # type: ignore[union-attr]
        ("function", "weather", '{"city": "Rome"}')
    ] * 2
    assert [(one["name"], one["arguments"]) for one in pieces["calls"].values()] == [
        ("weather", '{"city": "Rome"}')
    ] * 2
    assert len({one.id for one in calls} | {one["id"] for one in pieces["calls"].values()}) == 4
    assert answer.choices[0].finish_reason == pieces["finish"] == "tool_calls"
    assert answer.usage is not None
    assert answer.usage == pieces["usage"]
    assert answer.usage.completion_tokens == len(VOCABULARY.encode(THOUGHT, add_special=False)) + 1
    assert 0 < answer.usage.completion_tokens_details.reasoning_tokens < answer.usage.completion_tokens  # type: ignore[union-attr, operator]
    assert '"name": "weather"' in VOCABULARY.decode(order["tokens"])


async def test_one_call_only_ends_the_answer_after_it(tmp_path: Any) -> None:
    async with running_node(tmp_path, script(THOUGHT), tier()) as node:
        await load(node, max_len=1024)
        answer = (await post(node, "/v1/chat/completions", CHAT | {"parallel_tool_calls": False})).json()
    choice = answer["choices"][0]

    assert len(choice["message"]["tool_calls"]) == 1
    assert choice["finish_reason"] == "tool_calls"
    assert answer["usage"]["completion_tokens"] < len(VOCABULARY.encode(THOUGHT, add_special=False))


async def test_a_conversation_with_results_reaches_the_template(tmp_path: Any) -> None:
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city": "Rome"}'},
    }
    messages = [
        *HI,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]
    async with running_node(tmp_path, None, tier()) as node:
        await load(node, max_len=1024)
        answer = await post(node, "/v1/chat/completions", {"model": "acme/m", "messages": messages})
        prompt = VOCABULARY.decode(node.shell.engines[0].orders[0]["tokens"])

    assert answer.status_code == 200
    assert '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>' in prompt
    assert "tool: sunny" in prompt


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [*TOOLS, TOOLS[0]]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "a", "x": 1}}]}, "tools[0].function.x"),
        ({"tool_choice": "always"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
        ({"tool_choice": {"type": "custom", "custom": {"name": "x"}}}, "tool_choice.type"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice"),
        ({"tools": [], "tool_choice": {"type": "function", "function": {"name": "now"}}}, "tool_choice"),
        ({"tools": None, "parallel_tool_calls": False}, "parallel_tool_calls"),
        ({"guided_grammar": 'start: "x"'}, "guided_grammar"),
        ({"tool_choice": "required", "ignore_eos": True}, "ignore_eos"),
    ],
)
def test_a_tool_at_fault_is_named(more: dict[str, Any], param: str) -> None:
    with pytest.raises(Refusal) as refused:
        read_chat(CHAT | more)
    assert (refused.value.status, refused.value.param) == (400, param)


def test_choices_narrow_the_tools() -> None:
    def use(choice: Any) -> Any:
        found = read_chat(CHAT | {"tool_choice": choice}).tools
        return None if found is None else ([tool.name for tool in found.tools], found.must, found.is_single)

    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [
        {"type": "function", "function": {"name": "now"}}]}}  # fmt: skip
    assert use("none") is None
    assert use("auto") == (["weather", "now"], False, False)
    assert use("required") == (["weather", "now"], True, False)
    assert use({"type": "function", "function": {"name": "now"}}) == (["now"], True, True)
    assert use(allowed) == (["now"], False, False)
    assert read_chat(CHAT).sampling == Sampling()
    for idle in ({"tool_choice": "auto"}, {"tool_choice": "none"}, {"parallel_tool_calls": True}):
        assert read_chat(CHAT | {"tools": []} | idle).tools is None


async def test_models_without_a_known_format_are_not_offered_tools(tmp_path: Any) -> None:
    async with running_node(tmp_path) as node:
        await load(node, max_len=1024)
        refused = [
            await post(node, "/v1/chat/completions", CHAT),
            await post(
                node, "/v1/chat/completions", {"model": "acme/m", "messages": HI, "reasoning_effort": "low"}
            ),
        ]
        silent = await post(node, "/v1/chat/completions", CHAT | {"tool_choice": "none"})

    assert [(one.status_code, one.json()["error"]["param"]) for one in refused] == [
        (400, "tools"),
        (400, "reasoning_effort"),
    ]
    assert silent.status_code == 200


async def test_a_template_for_tools_is_used_where_tools_are_offered(tmp_path: Any) -> None:
    """As Hermes 2 and Command R have them: named `tool_use` beside `default`."""
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": TEMPLATE}]
    files = small_files(None, **{"tokenizer_config.json": json.dumps({"chat_template": named}).encode()})
    async with running_node(tmp_path, script(CALL), FakeTier(files=files)) as node:
        await load(node, max_len=1024)
        called = (await post(node, "/v1/chat/completions", CHAT)).json()["choices"][0]
        said = (await post(node, "/v1/chat/completions", CHAT | {"tools": None})).json()["choices"][0]
        prompts = [VOCABULARY.decode(order["tokens"]) for order in node.shell.engines[0].orders]

    assert called["message"]["tool_calls"][0]["function"]["name"] == "weather"
    assert said["message"]["content"] == CALL
    assert '"name": "weather"' in prompts[0]
    assert prompts[1] == "plain"


async def test_effort_none_switches_thinking_off_where_the_template_can(tmp_path: Any) -> None:
    async with running_node(tmp_path, None, tier()) as node:
        await load(node, max_len=1024)
        body = {"model": "acme/m", "messages": HI, "reasoning_effort": "none"}
        await post(node, "/v1/chat/completions", body)
        prompt = VOCABULARY.decode(node.shell.engines[0].orders[0]["tokens"])

    assert prompt.endswith("<think></think>")


@pytest.mark.parametrize(
    ("template", "name"),
    [
        (TEMPLATE, "hermes"),
        ("{% if tools %}[AVAILABLE_TOOLS]{% endif %}[TOOL_CALLS]", "mistral"),
        ("{{ tools }}<|python_tag|>", "llama"),
        (
            '{{ tools }}{"name": function name, "parameters": dictionary of argument name and its value}',
            "llama",
        ),
        ("{{ tools }}<tool_call><function=x>", None),
        ("{{ tools }}", None),
        ("<tool_call>", None),
    ],
)
def test_the_template_says_how_calls_are_written(template: str, name: str | None) -> None:
    found = markers_of(template)
    assert (found.name if found else None) == name


@pytest.mark.parametrize("markers", FORMATS)
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_demanded_call_is_written_by_any_model(markers: Markers, choice: Any) -> None:
    """Random logits under the grammar: every answer is calls of the tools and arguments of their schemas."""
    use = read_chat(CHAT | {"tool_choice": choice}).tools
    assert use is not None
    structure = call_structure(use, markers, VOCABULARY)
    assert structure is not None
    answers = served({str(seed): {"grammar": structure.grammar, "seed": seed} for seed in range(12)})

    for tokens_and_end in answers.values():
        words, _, calls = read([text_of(tokens_and_end)], markers)
        if tokens_and_end[1]["reason"] == "stop":
            assert (words, bool(calls)) == ("", True)
            assert not use.is_single or len(calls) == 1
        for _, name, arguments in calls[:-1] if tokens_and_end[1]["reason"] == "length" else calls:
            assert name in {tool.name for tool in use.tools}
            assert name != "weather" or json.loads(arguments)["city"] in {"Rome", "Oslo"}
    assert any(one[1]["reason"] == "stop" for one in answers.values())


@pytest.mark.parametrize("markers", FORMATS)
def test_each_tool_finds_its_own_definitions(markers: Markers) -> None:
    """As pydantic and zod write nested and recursive types; two tools may give one name to two definitions."""

    def tool(name: str, defined: dict[str, Any], **more: Any) -> dict[str, Any]:
        parameters = {"type": "object", "properties": {"x": {"$ref": "#/$defs/P"}}, "required": ["x"],
                      "additionalProperties": False, "$defs": {"P": defined}} | more  # fmt: skip
        return {"type": "function", "function": {"name": name, "parameters": parameters}}

    draft = "http://json-schema.org/draft-07/schema#"
    itself = {
        "anyOf": [
            {"const": 1},
            {"type": "array", "items": {"$ref": "#/$defs/P"}, "minItems": 1, "maxItems": 1},
        ]
    }
    tools = [tool("one", {"enum": ["Rome"]}), tool("two", itself, **{"$schema": draft})]
    use = read_chat(CHAT | {"tools": tools, "tool_choice": "required", "parallel_tool_calls": False}).tools
    assert use is not None
    structure = call_structure(use, markers, VOCABULARY)
    assert structure is not None
    answers = served({str(seed): {"grammar": structure.grammar, "seed": seed} for seed in range(12)})
    ended = [one for one in answers.values() if one[1]["reason"] == "stop"]
    called = [read([text_of(one)], markers)[2][0] for one in ended]

    assert {name for _, name, _ in called} == {"one", "two"}
    for _, name, arguments in called:
        value = json.loads(arguments)["x"]
        assert value == "Rome" if name == "one" else json.dumps(value).strip("[]") == "1"


@pytest.mark.parametrize("markers", FORMATS)
def test_a_strict_tool_is_held_to_its_schema_where_calls_are_free(markers: Markers) -> None:
    use = read_chat(CHAT).tools
    assert use is not None
    structure = call_structure(use, markers, VOCABULARY)
    assert structure is not None
    opening = VOCABULARY.encode(markers.opening or "{", add_special=False)
    fields = {
        "grammar": structure.grammar,
        "max_tokens": 60,
        "logit_bias": {str(token): 6 for token in opening},
    }
    answers = served({str(seed): fields | {"seed": seed} for seed in range(6)})

    assert {one[1]["op"] for one in answers.values()} == {"done"}
    assert call_structure(type(use)(read_tools(TOOLS[1:], "tools")), markers, VOCABULARY) is None

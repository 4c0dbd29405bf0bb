"""What an answer may be: thoughts, then words, calls or what was asked for; as grammars, then through a node."""

import json
from functools import cache
from typing import Any

import llguidance
import pytest

from inference.api.answer.grammar import after_thoughts, call_structure
from inference.api.grammar.structure import Structure
from inference.api.request.kinds import read_chat
from inference.api.request.tools import FORMATS
from inference.api.text.toolcalls import Markers
from tests.inference.fake_engine import VOCABULARY, running_node
from tests.inference.test_node_serving import HI, load, post
from tests.inference.test_tools_node import CALL, CHAT, script, streamed, tier
from wire.refused.refusal import Refusal

SPECIAL = ("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<think>", "</think>")
MISTRAL, HERMES, LLAMA = FORMATS
CALLS = {HERMES.name: CALL, MISTRAL.name: '[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Rome"}}]'}
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "string"}},
    "required": ["a"],
    "additionalProperties": False,
}
ASKED = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
THOUGHT = "<think>is it </thi or {}? <tool_call></think>\n\n"


class Bytes:
    """A tokenizer of single bytes and, beside them, the marks as special tokens."""

    eos_token_id, bos_token_id = 256, None

    def __init__(self) -> None:
        marks = (b"\xff" + one.encode() for one in SPECIAL)
        self.tokens = [*(bytes([one]) for one in range(256)), b"<eos>", *marks]
        self.special_token_ids = list(range(256, 257 + len(SPECIAL)))

    def __call__(self, text: Any) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


class Marked:
    """As much of a vocabulary as grammars ask for. `special`: marks are tokens that are no text."""

    def __init__(self, *, special: bool) -> None:
        self._special = special

    def token_of(self, text: str) -> int | None:
        return 257 + SPECIAL.index(text) if text in SPECIAL else None

    def is_special(self, token: int) -> bool:
        return self._special and token > 256

    def encode(self, text: str) -> list[int]:
        marks = SPECIAL if self._special else ()
        if not (found := min((one for one in marks if one in text), key=text.index, default="")):
            return list(text.encode())
        before, _, after = text.partition(found)
        return [*before.encode(), self.token_of(found) or 0, *self.encode(after)]


@cache
def tokenizer() -> Any:
    return llguidance.LLTokenizer(llguidance.TokenizerWrapper(Bytes()))


def takes(structure: Structure, tokens: list[int]) -> bool:
    """Whether an answer of exactly these tokens is one under the grammar."""
    matcher = llguidance.LLMatcher(tokenizer(), structure.grammar)
    assert not matcher.get_error()
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


def held(special: bool, markers: Markers, prompt: str | None = None, **more: Any) -> Any:
    """What says of a text whether the answer to CHAT and `more` may be it."""
    words: Any = Marked(special=special)
    asked = read_chat(CHAT | more)
    assert asked.tools is not None
    structure = call_structure(asked.tools, markers, words, asked.structure)
    assert structure is not None
    if prompt is not None:
        structure = after_thoughts(structure, prompt, words)
    return lambda text: takes(structure, words.encode(text))


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("markers", [MISTRAL, HERMES])
def test_words_may_come_before_a_call_of_a_strict_tool(markers: Markers, special: bool) -> None:
    """Whether a mark is a token of its own or text. A model that thinks, or says what it does, calls all the same."""
    may, call = held(special, markers, "<|a|>"), CALLS[markers.name]
    single = held(special, markers, "<|a|>", parallel_tool_calls=False)

    for text in (
        "I look.",
        "",
        "1 < 2 <tool [TOOL",
        call,
        f"I look.\n{call}",
        f"<think>hm</think>\n\n{call}",
    ):
        assert may(text), text
        assert single(text), text
    assert not may(call.replace("Rome", "Bonn"))
    assert not may(f"I look. {call.replace('city', 'town')}")
    if markers is HERMES:
        assert may(f"hm {CALL}\n{CALL}")
        assert not single(f"hm {CALL}\n{CALL}")


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("markers", [MISTRAL, HERMES])
def test_an_answer_is_calls_or_what_was_asked_for(markers: Markers, special: bool) -> None:
    may, call = held(special, markers, response_format=ASKED), CALLS[markers.name]

    assert may('{"a": "x"}')
    assert may(call)
    assert may('{"a": "1 < 2 </b>"}')
    assert not may("I look.")
    assert not may(f'{{"a": "x"}}{call}')
    assert not may(call.replace("Rome", "Bonn"))
    must = held(special, markers, response_format=ASKED, tool_choice="required")
    assert must(call)
    assert not must('{"a": "x"}')


def test_where_the_two_begin_alike_they_are_refused() -> None:
    asked = read_chat(CHAT | {"response_format": ASKED})
    assert asked.tools is not None
    with pytest.raises(Refusal) as refused:
        call_structure(asked.tools, LLAMA, VOCABULARY, asked.structure)

    assert (refused.value.status, refused.value.param) == (400, "response_format.json_schema.schema")


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("begun", [True, False])
def test_thoughts_come_before_what_is_held(begun: bool, special: bool) -> None:
    """Those of the prompt must end; with none begun the model may have some, where the prompt has not ended them."""
    thought, prompt = THOUGHT.removeprefix("<think>") if begun else THOUGHT, "<think>\n" if begun else "<|a|>"
    thought = thought.replace("<tool_call>", "") if special else thought
    for more in ({"response_format": ASKED}, {"tool_choice": "required"}):
        may, answer = (
            held(special, HERMES, prompt, **more),
            '{"a": "x"}' if "response_format" in more else CALL,
        )
        closed = held(special, HERMES, "<think>\n\n</think>\n\n", **more)

        assert may(thought + answer)
        assert may(thought.rstrip() + answer)
        assert may(answer) != begun
        assert not may(thought)
        assert not may(thought + "I look.")
        assert not may(answer + thought)
        assert closed(answer)
        assert not closed(THOUGHT + answer)


TEXTS = {
    "json": ('{"a": "<tool_call> <think>"}', '{"a": "<tool_call> <think>"}', "", 0),
    "thoughts": (THOUGHT + '{"a": "</think>"}', '{"a": "</think>"}', "is it </thi or {}? <tool_call>", 0),
    "calls": (f"{CALL}\n{CALL}", None, "", 2),
    "thoughts and a call": (THOUGHT + CALL, None, "is it </thi or {}? <tool_call>", 1),
}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("size", [1, 100])
async def test_the_two_together_whole_and_streamed(tmp_path: Any, name: str, size: int) -> None:
    """What only looks like a mark stays text, and the grammar that the engine got allows what the answer is."""
    text, content, thoughts, num_calls = TEXTS[name]
    async with running_node(tmp_path, script(text, size), tier(), max_slots=4) as node:
        await load(node, max_len=1024)
        answer = await post(node, "/v1/chat/completions", CHAT | {"response_format": ASKED})
        pieces = await streamed(node, response_format=ASKED)
        order = node.shell.engines[0].orders[0]
    message = answer.json()["choices"][0]["message"]

    assert message["content"] == content
    assert pieces["content"] == (content or "")
    assert message.get("reasoning_content", "") == pieces["thoughts"] == thoughts
    assert len(message.get("tool_calls", [])) == len(pieces["calls"]) == num_calls
    assert pieces["finish"] == ("tool_calls" if num_calls else "stop")
    assert takes(Structure(order["grammar"].removeprefix("start: "), ""), list(text.encode()))


async def test_a_structure_alone_has_thoughts_before_it_too(tmp_path: Any) -> None:
    async with running_node(tmp_path, script(THOUGHT + '{"a": "x"}'), tier()) as node:
        await load(node, max_len=1024)
        body = {"model": "acme/m", "messages": HI, "response_format": ASKED}
        message = (await post(node, "/v1/chat/completions", body)).json()["choices"][0]["message"]
        await post(node, "/v1/chat/completions", body | {"reasoning_effort": "none"})
        free, shut = (one["grammar"] for one in node.shell.engines[0].orders)

    assert json.loads(message["content"]) == {"a": "x"}
    assert message["reasoning_content"] == "is it </thi or {}? <tool_call>"
    assert "think" in free
    assert "think" not in shut

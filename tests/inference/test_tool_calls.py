"""Answers taken apart: however the text is cut, the same words, thoughts and calls come out."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.api.text.toolcalls import AnswerReader, Markers

HERMES = Markers("hermes", "<tool_call>", "</tool_call>")
LLAMA = Markers("llama", "<|python_tag|>", "", "parameters", bare=True)
MISTRAL = Markers("mistral", "[TOOL_CALLS]", "", is_list=True)


def read(pieces, markers=HERMES, **more):
    """(words, thoughts, [(id, name, arguments)]) of an answer that came in these pieces."""
    numbers = itertools.count()
    reader = AnswerReader(markers, lambda: f"call_{next(numbers)}", **more)
    words, thoughts, calls = "", "", []
    for parts in [*map(reader.receive, pieces), reader.finish()]:
        words, thoughts = words + parts.words, thoughts + parts.thoughts
        for part in parts.calls:
            assert part.index in {len(calls), len(calls) - 1}, "a call is written to its end before the next"
            assert (part.index == len(calls)) == (part.id is not None) == (part.name is not None)
            if part.id is not None:
                calls.append([part.id, part.name, ""])
            calls[part.index][2] += part.arguments
    assert len(calls) == reader.num_calls
    return words, thoughts, [tuple(call) for call in calls]


ONE = '<tool_call>\n{"name": "f", "arguments": {"a": "}{\\"]", "b": [1, {"c": null}]}}\n</tool_call>'
ARGUMENTS = '{"a": "}{\\"]", "b": [1, {"c": null}]}'
CASES = {
    "words": ("Hello < world <tool", HERMES, {}, ("Hello < world <tool", "", [])),
    "a call": (ONE, HERMES, {}, ("", "", [("call_0", "f", ARGUMENTS)])),
    "words and two calls": (
        f"I look.\n\n{ONE}\n{ONE} ",
        HERMES,
        {},
        ("I look.", "", [("call_0", "f", ARGUMENTS), ("call_1", "f", ARGUMENTS)]),
    ),
    "another order": (
        '<tool_call>{"arguments": {"x": 1}, "id": 3, "name": "g"}</tool_call>',
        HERMES,
        {},
        ("", "", [("call_0", "g", '{"x": 1}')]),
    ),
    "no arguments": ('<tool_call>{"name": "g"}</tool_call>', HERMES, {}, ("", "", [("call_0", "g", "{}")])),
    "arguments as a text": (
        '<tool_call>{"name": "g", "arguments": "{\\"x\\": 1}"}</tool_call>',
        HERMES,
        {},
        ("", "", [("call_0", "g", '{"x": 1}')]),
    ),
    "no call after all": ('<tool_call>{"nome": "g"}</tool_call>', HERMES, {}, ('{"nome": "g"}', "", [])),
    "broken off": (
        '<tool_call>{"name": "g", "arguments": {"x": "ab',
        HERMES,
        {},
        ("", "", [("call_0", "g", '{"x": "ab')]),
    ),
    "broken off before its name": ('<tool_call>{"na', HERMES, {}, ('{"na', "", [])),
    "thoughts": (
        f"<think>\nis {{it}} </thin?</think>\n\nyes {ONE}",
        HERMES,
        {"thinks": True},
        ("yes", "\nis {it} </thin?", [("call_0", "f", ARGUMENTS)]),
    ),
    "thoughts that the prompt began": (
        "hm<tool_call></think> so",
        HERMES,
        {"thinks": True, "thinking": True},
        ("so", "hm<tool_call>", []),
    ),
    "thoughts alone": ("hm</thi", None, {"thinks": True, "thinking": True}, ("", "hm</thi", [])),
    "llama": ('{"name": "f", "parameters": {"q": 1}}', LLAMA, {}, ("", "", [("call_0", "f", '{"q": 1}')])),
    "llama, marked": (
        '<|python_tag|>{"name": "f", "parameters": {}}; {"name": "g", "parameters": {}}',
        LLAMA,
        {},
        ("", "", [("call_0", "f", "{}"), ("call_1", "g", "{}")]),
    ),
    "llama, an object that is no call": ('{"a": 1} is JSON', LLAMA, {}, ('{"a": 1}is JSON', "", [])),
    "llama, an object later": ('see {"name": "f"}', LLAMA, {}, ('see {"name": "f"}', "", [])),
    "mistral": (
        '[TOOL_CALLS] [{"name": "f", "arguments": {"q": [1]}}, {"name": "g", "arguments": {}}]',
        MISTRAL,
        {},
        ("", "", [("call_0", "f", '{"q": [1]}'), ("call_1", "g", "{}")]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", list(CASES))
def test_every_cut_in_two_gives_the_same(case):
    text, markers, more, wanted = CASES[case]
    for cut in range(len(text) + 1):
        assert read([text[:cut], text[cut:]], markers, **more) == wanted
    assert read(list(text), markers, **more) == wanted


@given(
    st.lists(st.sampled_from(["<tool_call>", "</tool_call>", "<think>", "</think>", ONE, "{", "}", '"', "\\", " ", "\n",
                              '{"name": "f", "arguments": ', "x", "<", "é"]), max_size=12),
    st.lists(st.integers(0, 60), max_size=8), st.booleans(), st.sampled_from([HERMES, LLAMA, MISTRAL, None]),
    st.booleans(),
)  # fmt: skip
def test_any_text_in_any_pieces_gives_the_same(atoms, cuts, thinking, markers, only_first):
    text = "".join(atoms)
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[start:end] for start, end in itertools.pairwise(edges)]
    how = {"thinks": True, "thinking": thinking, "only_first": only_first}
    whole = read([text], markers, **how)

    assert read(pieces, markers, **how) == whole
    assert read(list(text), markers, **how) == whole


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["f", "get_weather", "a-b.c"]),
            st.dictionaries(st.text(max_size=5), st.recursive(st.none() | st.integers() | st.text(max_size=6),
                            lambda inner: st.lists(inner, max_size=3), max_leaves=5), max_size=3),
        ), max_size=3,
    )
)  # fmt: skip
def test_calls_come_back_as_they_were_written(calls):
    text = "\n".join(
        f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"
        for name, arguments in calls
    )
    found = read(list(text))[2]

    assert [(name, json.loads(arguments)) for _, name, arguments in found] == calls

"""A structure that a request asks for reaches the engine as a grammar, or is refused by name before it does."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from inference.api.grammar.structure import read_regex
from inference.api.grammar.trial import GrammarChild
from inference.api.request.kinds import read_chat, read_completion
from tests.inference.fake_engine import ANSWER, END, FakeTier, RunningNode, Script, running_node
from tests.inference.test_node_serving import HI, client, load, post
from tests.inference.tokenizers_made import suffixed
from wire.refused.refusal import Refusal

CHAT: dict[str, Any] = {"model": "acme/m", "messages": HI}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


def as_schema(named: Any, **more: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": named} | more}


WAYS: list[dict[str, Any]] = [
    {"response_format": {"type": "json_object"}},
    as_schema({"name": "n", "schema": SCHEMA, "strict": True}),
    {"structured_outputs": {"json": SCHEMA}},
    {"structured_outputs": {"json_object": True}},
    {"structured_outputs": {"choice": ["a", "b"], "json": None}},
    {"guided_json": json.dumps(SCHEMA)},
    {"guided_regex": "[a-z]+/[0-9]"},
    {"guided_choice": ["a", "b"]},
    {"guided_grammar": 'start: "a" | "b"'},
]  # fmt: skip


@pytest.fixture
async def node(tmp_path: Any) -> AsyncIterator[RunningNode]:
    async with running_node(tmp_path) as running:
        yield running


@pytest.mark.parametrize("way", WAYS)
async def test_each_way_to_ask_is_a_grammar_that_compiles(way: dict[str, Any]) -> None:
    child = GrammarChild()
    try:
        completion = read_completion({"model": "acme/m", "prompt": "x"} | way)
        for structure in (read_chat(CHAT | way).structure, completion.structure):
            assert structure is not None
            assert structure.param.partition(".")[0] in way
            await child.check(structure.grammar, structure.param)
    finally:
        await child.close()
    assert child.num_killed == 0


@pytest.mark.parametrize(
    ("way", "param"),
    [
        (as_schema(None, type="xml"), "response_format.type"),
        (as_schema(None), "response_format.json_schema"),
        (as_schema({"schema": {}}), "response_format.json_schema.name"),
        (as_schema({"name": "n", "schema": []}), "response_format.json_schema.schema"),
        (as_schema({"name": "n", "strict": 1}), "response_format.json_schema.strict"),
        ({"response_format": {"type": "json_object", "schema": {}}}, "response_format.schema"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_regex": ""}, "guided_regex"),
        ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "guided_regex"),
        ({"guided_regex": "a", "ignore_eos": True}, "ignore_eos"),
        ({"guided_regex": "a", "min_tokens": 2}, "min_tokens"),
    ],
)  # fmt: skip
def test_a_structure_at_fault_is_named(way: dict[str, Any], param: str) -> None:
    with pytest.raises(Refusal) as refused:
        read_chat(CHAT | way)
    assert (refused.value.status, refused.value.param) == (400, param)


@pytest.mark.parametrize(
    ("way", "param", "why"),
    [
        ({"guided_json": {"type": "foo"}}, "guided_json", "foo"),
        ({"guided_json": {"type": "array", "uniqueItems": True}}, "guided_json", "uniqueItems"),
        ({"guided_json": {"$ref": "http://127.0.0.1:1/x"}}, "guided_json", "127.0.0.1"),
        ({"guided_regex": "(?=a)b"}, "guided_regex", "look"),
        ({"guided_regex": "(("}, "guided_regex", "regex"),
        ({"guided_grammar": "start: nothing"}, "guided_grammar", "nothing"),
        ({"structured_outputs": {"json": False}}, "structured_outputs", "exactly one"),
    ],
)
async def test_what_cannot_be_followed_is_refused_before_the_engine(
    node: RunningNode, way: dict[str, Any], param: str, why: str
) -> None:
    await load(node)
    answer = await post(node, "/v1/chat/completions", CHAT | way)
    error = answer.json()["error"]

    assert (answer.status_code, error["param"]) == (400, param)
    assert why in error["message"]
    assert node.shell.engines[0].orders == []


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "more", "param"),
    [
        ("chat/completions", {"messages": HI, **WAYS[1]}, "response_format.json_schema.schema"),
        ("completions", {"prompt": "x", **WAYS[6]}, "guided_regex"),
        ("responses", {"input": "x", "text": {"format": {"type": "json_object"}}}, "text.format"),
        (
            "messages",
            {"messages": HI, "max_tokens": 9}
            | {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
            "output_config.format.schema",
        ),
    ],
)
async def test_what_only_the_engine_finds_out_names_the_parameter_too(
    tmp_path: Any, path: str, more: dict[str, Any], param: str, stream: bool
) -> None:
    script = Script(failure={"code": "bad_grammar", "message": "no way"})
    async with running_node(tmp_path, script) as node:
        await load(node)
        answer = await post(node, f"/v1/{path}", {"model": "acme/m", "stream": stream} | more)
    error = answer.json()["error"]

    assert (answer.status_code, error["code"], error["param"]) == (400, "bad_grammar", param)
    assert error["message"] == f"No answer can be held to {param!r}: no way"


async def test_an_engine_is_told_its_vocabulary_once_and_first(node: RunningNode) -> None:
    await load(node)
    async with client(node) as asked:
        await asked.chat.completions.create(model="acme/m", messages=HI)
        assert node.shell.engines[0].lessons == []
        for _ in range(2):
            answer = await asked.chat.completions.create(
                model="acme/m", messages=HI, n=2, response_format={"type": "json_object"}
            )
    engine = node.shell.engines[0]

    assert len(answer.choices) == 2
    assert len(engine.lessons) == 1
    assert [order["grammar"] is None for order in engine.orders] == [True, False, False, False, False]


async def test_a_grammar_that_costs_too_much_costs_the_child_only() -> None:
    child = GrammarChild(cpu_ms=100)
    words = " | ".join(f'"word{number}"' for number in range(60_000))
    try:
        with pytest.raises(Refusal) as refused:
            await child.check(f"start: {words}", "guided_grammar")
        assert "it took more than" in refused.value.message
        assert refused.value.param == "guided_grammar"
        await child.check('start: "fine"', "guided_grammar")
        assert child.num_killed == 1
    finally:
        await child.close()


async def test_models_whose_tokens_have_no_text_are_not_asked_for_structure(tmp_path: Any) -> None:
    tier = FakeTier()
    tier.files["tokenizer.json"] = suffixed()
    async with running_node(tmp_path, tier=tier) as node:
        await load(node)
        answer = await post(node, "/v1/chat/completions", CHAT | {"guided_choice": ["a"]})

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "guided_choice")


def test_slashes_of_an_expression_are_escaped_once() -> None:
    assert read_regex("a/b", "x").rule == r"/a\/b/"
    assert read_regex(r"a\/b", "x").rule == r"/a\/b/"
    assert read_regex(r"a\\/b", "x").rule == r"/a\\\/b/"
    assert read_regex("a\nb\\\nc", "x").rule == r"/a\nb\nc/"


async def test_a_model_without_an_end_token_is_not_asked_for_structure(node: RunningNode) -> None:
    await load(node, eos_token_ids=())
    answer = await post(node, "/v1/chat/completions", CHAT | {"guided_choice": ["a"]})

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "guided_choice")
    assert END not in ANSWER

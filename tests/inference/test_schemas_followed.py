"""Schemas as pydantic and zod write them: what holds nothing is left out, what cannot be held is refused."""

from typing import Any

import llguidance
import pytest

from inference.api.grammar.schema import HELD_FORMATS
from inference.api.grammar.structure import read_schema
from tests.inference.test_answer_grammar import takes, tokenizer
from wire.refused.refusal import Refusal


def follows(schema: Any, text: str) -> bool:
    return takes(read_schema(schema, "x"), list(text.encode()))


@pytest.mark.parametrize("named", sorted(HELD_FORMATS))
def test_formats_that_are_held_are_known_to_the_grammar(named: str) -> None:
    assert not follows({"type": "string", "format": named}, '"\\u0001 "') or named == "unknown"


def test_a_schema_is_read_without_what_asks_for_nothing() -> None:
    """Of pydantic: paths, bytes, secrets. Of zod: records, which name their keys' schema."""
    path: dict[str, Any] = {"type": "string", "format": "path", "maxLength": 3}
    record = {
        "type": "object",
        "propertyNames": {"type": "string"},
        "additionalProperties": {"type": "integer"},
    }
    nested = {"type": "object", "properties": {"format": path, "r": {"anyOf": [record]}}, "required": ["format"],
              "additionalProperties": False}  # fmt: skip

    assert follows(path, '"a/b"')
    assert not follows(path, '"a/b/c"')
    assert follows({"type": "array", "uniqueItems": False, "items": path}, '["a"]')
    assert follows(nested, '{"format":"a","r":{"b":1}}')
    assert not follows(nested, '{"format":"a","r":{"b":"c"}}')
    assert follows({"enum": [{"format": "path"}]}, '{"format":"path"}')
    assert not follows({"enum": [{"format": "path"}]}, "{}")


def test_names_of_properties_are_spelled_out() -> None:
    """As pydantic writes `dict[Literal["a", "b"], int]`."""
    few = {
        "type": "object",
        "propertyNames": {"enum": ["a", "b"]},
        "additionalProperties": {"type": "integer"},
    }
    fewer = few | {"properties": {"a": {"type": "boolean"}}, "additionalProperties": False}

    assert follows(few, '{"a":1,"b":2}')
    assert follows(few, "{}")
    assert not follows(few, '{"c":1}')
    assert not follows(few, '{"a":"x"}')
    assert follows(fewer, '{"a":true}')
    assert not follows(fewer, '{"a":true,"b":1}')


@pytest.mark.parametrize("schema", [{"uniqueItems": True}, {"propertyNames": {"pattern": "a"}}, {"not": {}}])
def test_what_asks_for_more_than_can_be_held_stays(schema: Any) -> None:
    matcher = llguidance.LLMatcher(
        tokenizer(), read_schema(schema | {"type": ["array", "object"]}, "x").grammar
    )

    assert "Unimplemented" in matcher.get_error()


@pytest.mark.parametrize("depth", [100, 400, 700, 900, 990, 2_000])
def test_a_schema_in_a_text_is_read_or_refused_however_deep(depth: int) -> None:
    text = '{"items":' * depth + "{}" + "}" * depth
    why = ""
    try:
        assert read_schema(text, "guided_json").rule.count('"items"') == depth
    except Refusal as refused:
        why = f"{refused.status} {refused.param}"

    assert why in (("",) if depth == 100 else ("", "400 guided_json"))
    assert why or depth < 2_000

"""The OpenAPI document: every reader is described, and what it allows and forbids is what the readers do."""

import copy
import json

import pytest

from deploy.openapi.document import document
from deploy.openapi.fields import body, known_as, schema
from deploy.openapi.routes import ROUTES
from deploy.openapi.shapes import SHAPES
from inference.api.app import ROUTES as SERVED
from tests.deploy.conforms import breaches
from wire.refused.refusal import Refusal

SAID = {"role": "user", "content": "hi"}
FUNCTION = {"name": "f", "description": "d", "parameters": {"type": "object"}}
GIVEN = {
    "chat": {
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": [{"type": "text", "text": "t"}]},
        ],
        "tools": [{"type": "function", "function": FUNCTION}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "metadata": {"a": "b"},
        "logit_bias": {"5": -100},
        "stop": ["a", "b"],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "seed": -1,
    },
    "completion": {"prompt": [[1, 2], [3]], "stop": "x", "guided_choice": ["a", "b"], "logprobs": 2},
    "embeddings": {"input": ["a", "b"], "encoding_format": "base64"},
    "response": {"input": "hi", "instructions": "short", "max_output_tokens": 4, "metadata": {"a": "b"}},
    "messages": {
        "max_tokens": 4,
        "system": [{"type": "text", "text": "s"}],
        "messages": [SAID],
        "stop_sequences": ["a"],
        "thinking": {"type": "adaptive"},
        "metadata": {"user_id": "u"},
        "tools": [{"name": "f", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "any"},
    },
    "countInput": {"input": "hi", "instructions": "s"},
    "countTokens": {"messages": [SAID], "system": "s"},
    "rerank": {"query": "q", "documents": ["a", {"text": "b"}], "top_n": 1},
    "tokenize": {"prompt": "hi", "return_token_strs": True},
    "detokenize": {"tokens": [1, 2]},
}
"""A body of each route, but for its model, that has each kind of field."""
BY_NAME = {route.name: route for route in ROUTES}


def whole(name):
    return {"model": "acme/m", **copy.deepcopy(GIVEN[name])}


BOUNDS = {f"{end}{of}" for end in ("min", "max") for of in ("Length", "Items", "Properties")} | {"maximum"}


def without_bounds(value):
    """The schema without the words that `breaches` has no meaning for: bounds, which are tried one by one below."""
    if isinstance(value, list):
        return [without_bounds(each) for each in value]
    if not isinstance(value, dict):
        return value
    kept = {name: without_bounds(each) for name, each in value.items() if name not in BOUNDS}
    if isinstance(kept.get("type"), list):
        return {"anyOf": [{**kept, "type": each} for each in kept["type"]]}
    return kept


def test_every_route_that_a_node_serves_is_published():
    served = {path for paths, _, _ in SERVED for path in paths}

    assert {path for route in ROUTES for path in (route.path, *route.also)} == served
    assert set(document()["paths"]) == served | {"/v1/models", "/v1/models/{id}"}


def test_every_shape_that_was_written_out_is_a_readers():
    """And none is left of a reader that is gone."""
    read = {known_as(reader) for route in ROUTES for reader in route.fields.values()}

    assert set(SHAPES) - read == {"inference.api.vectors.rerank._document"}, "that one reads inside an array"


@pytest.mark.parametrize("name", BY_NAME)
def test_what_is_published_is_what_is_read(name):
    """A body is taken by both; an unknown field, or one without what must be there, by neither."""
    route, said = BY_NAME[name], whole(name)
    published = without_bounds(body(route.fields, route.required))

    route.read(copy.deepcopy(said))
    assert breaches(said, published) == []
    for wrong in (
        {**said, "mesages": 1},
        *({k: v for k, v in said.items() if k != lost} for lost in route.required),
    ):
        assert breaches(wrong, published)
        with pytest.raises(Refusal):
            route.read(copy.deepcopy(wrong))


BOUNDED = [
    (route.name, field, *edge)
    for route in ROUTES
    for field, reader in route.fields.items()
    for edge in (
        (("minimum", -1), ("maximum", 1)) if schema(reader).get("type") in {"integer", "number"} else ()
    )
]


@pytest.mark.parametrize(("name", "field", "bound", "beyond"), BOUNDED)
def test_bounds_are_the_readers_own(name, field, bound, beyond):
    """The last value inside is read, and the first outside is refused by its name."""
    route = BY_NAME[name]
    reader = route.fields[field]
    edge = schema(reader)[bound]

    assert reader(edge, field) == edge
    with pytest.raises(Refusal) as refused:
        reader(edge + beyond, field)
    assert refused.value.param == field


def test_lengths_and_choices_are_the_readers_own():
    model, effort = BY_NAME["chat"].fields["model"], BY_NAME["chat"].fields["reasoning_effort"]

    model("a" * schema(model)["maxLength"], "model")
    with pytest.raises(Refusal):
        model("a" * (schema(model)["maxLength"] + 1), "model")
    assert [effort(word, "x") for word in schema(effort)["enum"]] == schema(effort)["enum"]


def test_every_reference_of_the_document_is_there():
    text = json.dumps(document())
    names = {part.partition('"')[0] for part in text.split("#/components/schemas/")[1:]}

    assert names == set(document()["components"]["schemas"]) - {"ChatChunk"}
    ids = [verb["operationId"] for path in document()["paths"].values() for verb in path.values()]
    assert len(set(ids)) == len(ids)

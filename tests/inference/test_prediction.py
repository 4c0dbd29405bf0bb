"""`prediction` is OpenAI's shape, or refused by the place of its fault."""

from typing import Any

import pytest

from inference.api.request.prediction import MAX_PARTS, read_prediction
from wire.refused.refusal import Refusal


def part(text: Any) -> dict[str, Any]:
    return {"type": "text", "text": text}


@pytest.mark.parametrize(
    ("content", "text"), [("a text", "a text"), ([part("a "), part("text")], "a text"), ([], ""), ("", "")]
)
def test_a_text_or_its_parts(content: Any, text: str) -> None:
    assert read_prediction({"type": "content", "content": content}, "prediction") == text


@pytest.mark.parametrize(
    ("value", "param"),
    [
        ("a text", "prediction"),
        ({"content": "a"}, "prediction.type"),
        ({"type": "text", "content": "a"}, "prediction.type"),
        ({"type": "content"}, "prediction.content"),
        ({"type": "content", "content": 5}, "prediction.content"),
        ({"type": "content", "content": ["a"]}, "prediction.content[0]"),
        ({"type": "content", "content": [part("a"), part(5)]}, "prediction.content[1].text"),
        ({"type": "content", "content": [{"type": "image", "text": "a"}]}, "prediction.content[0].type"),
        ({"type": "content", "content": [part("a") | {"x": 1}]}, "prediction.content[0].x"),
        ({"type": "content", "content": [part("a")] * (MAX_PARTS + 1)}, "prediction.content"),
        ({"type": "content", "content": "a", "x": 1}, "prediction.x"),
    ],
)
def test_anything_else_is_refused_where_it_is(value: Any, param: str) -> None:
    with pytest.raises(Refusal) as caught:
        read_prediction(value, "prediction")
    assert (caught.value.status, caught.value.param) == (400, param)

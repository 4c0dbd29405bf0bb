"""The official client's own strict types can read every byte we write."""

import json
from typing import Any

import pytest
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from inference.api.answer.chat_shape import ChatShape
from inference.api.answer.choice import Delta, TokenScore
from inference.api.answer.completion import CompletionShape
from inference.api.answer.parts import (
    DONE,
    Finished,
    Heading,
    Usage,
    error_event,
    token_text,
)
from inference.api.text.tokens import Vocabulary
from inference.api.vectors.batches import VectorError, batches, cut, embedding_body, read_vectors
from tests.inference.tokenizers_made import byte_level
from wire.refused.refusal import Refusal

VOCABULARY = Vocabulary.from_bytes(byte_level())
HEADING = Heading("chatcmpl-1", 1_700_000_000, "acme/m", "fp_abc")
USAGE = Usage(7, 3)
EURO = VOCABULARY.encode("€", add_special=False)[0]
SCORES = (TokenScore(EURO, -0.25, ((EURO, -0.25), (5, -1.5)), 0),)


def values(events: bytes) -> list[dict[str, Any]]:
    """The JSON of each event."""
    lines = events.decode().split("\n\n")
    assert lines[-1] == ""
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


@pytest.mark.parametrize("with_usage", [True, False])
@pytest.mark.parametrize("scored", [True, False])
def test_chat_chunks(with_usage: bool, scored: bool) -> None:
    shape = ChatShape(HEADING, VOCABULARY, scored=scored, with_usage=with_usage)
    events = (
        shape.opening(1) + shape.event(1, Delta('"é"\n', SCORES)) + shape.event(1, Delta("", (), "length"))
    )
    raw = values(events + shape.closing(USAGE, with_usage=True).removesuffix(DONE))
    role, text, end, last = (ChatCompletionChunk.model_validate(value, strict=True) for value in raw)

    assert (role.choices[0].delta.role, role.choices[0].delta.content) == ("assistant", "")
    assert text.choices[0].delta.content == '"é"\n'
    assert (text.choices[0].index, end.choices[0].finish_reason) == (1, "length")
    assert (text.choices[0].logprobs is not None) == scored
    assert end.choices[0].delta.content is None
    assert last.choices == []
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens, last.usage.total_tokens) == (7, 3, 10)
    assert all(("usage" in value) == with_usage for value in raw[:3])


def test_a_delta_that_says_nothing_is_no_event() -> None:
    assert ChatShape(HEADING, VOCABULARY, scored=False, with_usage=False).event(0, Delta("")) == b""
    assert CompletionShape(HEADING, VOCABULARY, scored=False, with_usage=False).event(0, Delta("")) == b""


def test_text_and_end_in_one_delta_are_two_chat_chunks() -> None:
    shape = ChatShape(HEADING, VOCABULARY, scored=False, with_usage=False)
    text, end = values(shape.event(0, Delta("x", (), "stop")))

    assert text["choices"][0]["finish_reason"] is None
    assert end["choices"][0]["finish_reason"] == "stop"


def test_a_whole_chat() -> None:
    shape = ChatShape(HEADING, VOCABULARY, scored=True, with_usage=False)
    body = shape.whole([Finished("a", SCORES, "stop"), Finished("b", (), "length")], USAGE)
    answer = ChatCompletion.model_validate(json.loads(body), strict=True)
    content = answer.choices[0].logprobs.content  # type: ignore[union-attr]

    assert [choice.message.content for choice in answer.choices] == ["a", "b"]
    assert content is not None
    assert (content[0].logprob, len(content[0].top_logprobs)) == (-0.25, 2)
    assert content[0].bytes == list(VOCABULARY.piece(EURO))
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 0


def test_a_whole_completion() -> None:
    shape = CompletionShape(HEADING, VOCABULARY, scored=True, with_usage=False, echoes=["say: ", "say: "])
    body = shape.whole([Finished("a", SCORES, "stop"), Finished("b", (), "length")], USAGE)
    answer = Completion.model_validate(json.loads(body), strict=True)
    logprobs = answer.choices[0].logprobs

    assert [choice.text for choice in answer.choices] == ["say: a", "say: b"]
    assert logprobs is not None
    assert (logprobs.token_logprobs, logprobs.text_offset) == ([-0.25], [0])
    assert Completion.model_validate(json.loads(body)).object == "text_completion"


def test_completion_chunks() -> None:
    shape = CompletionShape(HEADING, VOCABULARY, scored=False, with_usage=True, echoes=["say: "])
    raw = values(
        shape.opening(0)
        + shape.event(0, Delta("x", (), "stop"))
        + shape.closing(USAGE, with_usage=True).removesuffix(DONE)
    )

    assert (raw[0]["choices"][0]["text"], raw[0]["choices"][0]["finish_reason"]) == ("say: ", None)
    assert Completion.model_validate(raw[1], strict=True).choices[0].text == "x"
    assert Completion.model_validate(raw[2], strict=True).usage is not None
    assert (raw[0]["usage"], raw[2]["choices"]) == (None, [])


def test_the_end_and_the_error_event() -> None:
    assert DONE == b"data: [DONE]\n\n"
    assert values(error_event(Refusal(503, "worker_lost", "gone", "server_error")))[0]["error"] == {
        "message": "gone",
        "type": "server_error",
        "param": None,
        "code": "worker_lost",
    }


def test_bytes_that_are_no_character_are_escaped_in_a_token() -> None:
    assert token_text(b"\xe2\x82") == "\\xe2\\x82"
    assert token_text("€".encode()) == "€"


def test_vectors_there_and_back() -> None:
    import base64

    import numpy as np

    made = np.array([[3.0, 4.0, 12.0], [1.0, 0.0, 0.0]], dtype="<f4")
    data = base64.b64encode(made.tobytes()).decode()
    found = read_vectors(data, 3, 2)
    answer = CreateEmbeddingResponse.model_validate(
        json.loads(embedding_body(found, "a/m", 5, as_base64=False))
    )
    written = json.loads(embedding_body(found, "a/m", 5, as_base64=True))["data"][0]["embedding"]

    assert [item.embedding for item in answer.data] == made.tolist()
    assert np.frombuffer(base64.b64decode(written), "<f4").tolist() == [3.0, 4.0, 12.0]
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (5, 5)
    np.testing.assert_allclose(cut(found, 2, normalize=True)[0], [0.6, 0.8], rtol=1e-6)
    np.testing.assert_allclose(cut(found, 2, normalize=False)[0], [3.0, 4.0])
    assert cut(found, 3, normalize=True) is found
    assert cut(np.zeros((1, 3), dtype="<f4"), 2, normalize=True).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize(
    ("data", "dim"), [("!!!", 1), ("AAAA", 1), ("AACAfw==", 1), ("AADAfw==", 1), ("AAAAAA==", 2)]
)
def test_vectors_that_are_none(data: str, dim: int) -> None:
    """Not base64, a torn float, infinity, NaN, too few numbers."""
    with pytest.raises(VectorError):
        read_vectors(data, dim, 1)


def test_more_dimensions_than_the_model_has_are_refused() -> None:
    import numpy as np

    with pytest.raises(Refusal) as refused:
        cut(np.zeros((1, 3), dtype="<f4"), 4, normalize=True)

    assert refused.value.param == "dimensions"


def test_batches_hold_like_lengths_and_lose_nobody() -> None:
    rows = [[1] * length for length in (5, 1, 20_000, 3, 5000, 9000, *[2] * 100)]
    made = list(batches(rows))

    assert sorted(index for batch in made for index in batch) == list(range(len(rows)))
    assert max(map(len, made)) <= 64
    assert all(len(batch) * max(len(rows[i]) for i in batch) <= 16_384 or len(batch) == 1 for batch in made)

"""A stream put together is the answer that was not streamed: every tokenizer, stop set and chunking, as it is sent.

And no U+FFFD is shown unless the model's own bytes were no text; and `usage` is the engine's own log of tokens.
"""

import codecs
import json
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.api.answer.chat_shape import ChatShape
from inference.api.answer.choice import Choice, Delta, make_choice
from inference.api.answer.completion import CompletionShape
from inference.api.answer.parts import Finished, Heading, Usage
from inference.api.request.sampling import Sampling
from inference.api.text.tokens import REPLACEMENT, Vocabulary
from tests.evidence import count
from tests.inference.fake_engine import ANSWER, FakeEngine, running_node
from tests.inference.test_node_figures import usage_of
from tests.inference.test_node_serving import HI, load, post
from tests.inference.test_tokens_stops import by_definition
from tests.inference.tokenizers_made import FAMILIES, TEXTS

HEADING = Heading("x-1", 1, "acme/m", "fp")
BYTES = ("byte_level", "sentencepiece")
"""Families whose tokens may be single bytes of a character."""


@cache
def vocabulary(family: str) -> Vocabulary:
    return Vocabulary.from_bytes(FAMILIES[family]())


@st.composite
def answers(draw: st.DrawFn, family: str) -> list[int]:
    """The tokens of an answer: of some text, or whatever a model may make of a vocabulary, half characters included."""
    vocab = vocabulary(family)
    text = draw(st.text(max_size=20) | st.sampled_from(TEXTS) | st.text("😀é你e\u0301 ab", max_size=12))
    ids = vocab.encode(text, add_special=False)
    noise = draw(st.lists(st.integers(0, vocab.num_ids - 1), max_size=10))
    where = draw(st.integers(0, len(ids)))
    return [*ids[:where], *noise, *ids[where:]][: draw(st.integers(0, 60))]


def stop_sets(draw: st.DrawFn, text: str) -> tuple[str, ...]:
    """Up to four stop strings, most of which the text has somewhere."""
    found = []
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, max(0, len(text) - 1)))
        found.append(
            text[start : start + draw(st.integers(1, 6))] or draw(st.text("ab", min_size=1, max_size=3))
        )
    return tuple(found)


def run(choice: Choice, tokens: list[int], sizes: list[int]) -> list[Delta]:
    """The answer in frames of these sizes, then one by one, until it has ended."""
    deltas, sizes = [], list(sizes)
    while tokens and choice.finish is None:
        size = sizes.pop() if sizes else 1
        deltas.append(choice.receive(tokens[:size]))
        tokens = tokens[size:]
    return [*deltas, choice.end("length")]


def shown(shape: Any, deltas: list[Delta]) -> tuple[str, str]:
    """Text and finish of a client that puts the events of a stream together."""
    events = b"".join(shape.event(0, delta) for delta in deltas).decode().split("\n\n")
    choices = [json.loads(event.removeprefix("data: "))["choices"][0] for event in events if event]
    text = "".join(one["text"] if "text" in one else one["delta"].get("content", "") for one in choices)
    return text, next(one["finish_reason"] for one in choices if one["finish_reason"])


def whole(shape: Any, deltas: list[Delta]) -> tuple[str, str]:
    """Text and finish of the body that is not streamed."""
    finish = next(delta.finish for delta in deltas if delta.finish)
    said = Finished("".join(delta.text for delta in deltas), None, finish)
    choice = json.loads(shape.whole([said], Usage(1, 1)))["choices"][0]
    return choice["text"] if "text" in choice else choice["message"]["content"] or "", choice["finish_reason"]


@pytest.mark.parametrize("make", [ChatShape, CompletionShape])
@pytest.mark.parametrize("family", list(FAMILIES))
@settings(max_examples=count(20, 1000), deadline=None)
@given(data=st.data())
def test_any_frames_make_the_same_answer(family: str, make: Any, data: st.DataObject) -> None:
    vocab = vocabulary(family)
    tokens = data.draw(answers(family))
    keep, follows = data.draw(st.booleans()), data.draw(st.booleans())
    stream = vocab.text_stream(keep_special=keep, follows_text=follows)
    text = "".join([*map(stream.receive, tokens), stream.finish()])
    sampling = Sampling(
        stop=data.draw(st.composite(stop_sets)(text)),
        include_stop=data.draw(st.booleans()),
        keep_special=keep,
    )
    shape = make(HEADING, vocab, scored=False, with_usage=False)
    at_once, in_parts = (make_choice(vocab, sampling, (), follows_text=follows) for _ in range(2))
    one = run(at_once, tokens, [max(1, len(tokens))])
    many = run(in_parts, tokens, data.draw(st.lists(st.integers(1, 5), max_size=10)))
    wanted, hit = by_definition(text, sampling.stop, include=sampling.include_stop)

    assert shown(shape, many) == whole(shape, one) == (wanted, "stop" if hit is not None else "length")
    assert at_once.num_tokens == in_parts.num_tokens <= len(tokens)


@pytest.mark.parametrize("family", BYTES)
@settings(max_examples=count(40, 2000), deadline=None)
@given(data=st.data())
def test_a_replacement_character_is_shown_only_for_bytes_that_are_no_text(
    family: str, data: st.DataObject
) -> None:
    """Half a character at the end is no such thing: the answer was cut there, and it is left out."""
    vocab = vocabulary(family)
    tokens = [token for token in data.draw(answers(family)) if not vocab.is_special(token)]
    made = b"".join(vocab.piece(token, first=not number) for number, token in enumerate(tokens))
    text = "".join(
        delta.text for delta in run(make_choice(vocab, Sampling(), (), follows_text=False), tokens, [])
    )

    assert (REPLACEMENT in text) == (not is_text(made) or REPLACEMENT.encode() in made)


def is_text(data: bytes) -> bool:
    """Whether bytes are UTF-8 as far as they go."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError:
        return False
    return True


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("num", [1, 3])
@pytest.mark.parametrize("max_tokens", [5, 100])
async def test_usage_is_the_engines_own_log(tmp_path: Any, stream: bool, num: int, max_tokens: int) -> None:
    body = {"model": "acme/m", "messages": HI, "n": num, "max_tokens": max_tokens, "stream": stream}
    async with running_node(tmp_path) as node:
        await load(node)
        more = {"stream_options": {"include_usage": True}} if stream else {}
        usage = usage_of(await post(node, "/v1/chat/completions", body | more))
        engine: FakeEngine = node.shell.engines[0]
        ends = num if max_tokens > len(ANSWER) else 0  # the end token is counted and not sent

    assert len(engine.orders) == num
    assert usage["completion_tokens"] == sum(engine.sent.values()) + ends
    assert usage["prompt_tokens"] == len(engine.orders[0]["tokens"])
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]

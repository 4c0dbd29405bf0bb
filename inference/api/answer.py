"""OpenAI's response shapes: whole answers, stream chunks, usage, probabilities, the end and the error event.

Chunks are made by hand around one `json.dumps` of the text: this runs for every token of every stream.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from inference.api.stream_options import chunk_tail

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from inference.api.choice import Delta, TokenScore
    from inference.api.tokens import Vocabulary
    from inference.api.toolcalls import CallPart
    from wire.refusal import Refusal

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Usage:
    """Exact token counts of one request: prompts once each, every choice's generated tokens."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    def as_value(self) -> dict[str, Any]:
        """OpenAI's `usage`: integers, never null."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens, "audio_tokens": 0},
        }


@dataclass(frozen=True, slots=True)
class Finished:
    """One whole choice: its text, its scores (None when not asked for), and why it ended."""

    text: str
    scores: tuple[TokenScore, ...] | None
    finish: str
    thoughts: str = ""
    calls: tuple[CallPart, ...] = ()
    """Each call whole, in one part."""
    stop: str | None = None


@dataclass(frozen=True, slots=True)
class Heading:
    """What every part of one answer repeats. `created` is in seconds since 1970."""

    id: str
    created: int
    model: str
    fingerprint: str


class Shape(Protocol):
    """One route's way to say an answer."""

    def opening(self, index: int) -> bytes:
        """The events before a choice's first text; may be empty."""

    def event(self, index: int, delta: Delta) -> bytes:
        """One event for `delta` (with its `finish`, if it has one); empty when it says nothing."""

    def closing(self, usage: Usage, *, with_usage: bool) -> bytes:
        """The last events of a stream that went well."""

    def error(self, refusal: Refusal) -> bytes:
        """The last event of a stream that failed after it began."""

    def whole(self, choices: Sequence[Finished], usage: Usage) -> bytes:
        """The body of an answer that does not stream."""


def sse(value: Any) -> bytes:
    """One event with `value` as its data."""
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def error_event(refusal: Refusal) -> bytes:
    """An error after the stream began: the official client raises it."""
    return b"data: " + refusal.body() + b"\n\n"


class ChatShape:
    """`chat.completion` and its chunks."""

    __slots__ = ("_head", "_heading", "_scored", "_tail", "_vocabulary")

    def __init__(
        self,
        heading: Heading,
        vocabulary: Vocabulary,
        *,
        scored: bool,
        with_usage: bool,
        counted: Sequence[int] = (),
    ) -> None:
        self._heading = _heading("chat.completion", heading)
        self._vocabulary = vocabulary
        self._scored = scored
        self._head = _event_head("chat.completion.chunk", heading)
        self._tail = chunk_tail(with_usage=with_usage, counted=counted)

    def opening(self, index: int) -> bytes:
        """See `Shape`."""
        delta = b'"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null'
        return b'%b{"index":%d,%b%b' % (self._head, index, delta, self._tail(index, 0))

    def event(self, index: int, delta: Delta) -> bytes:
        """See `Shape`."""
        tail = self._tail(index, delta.num_tokens)
        parts = b"".join(map(partial(self._extra, index, tail), _extras(delta)))
        if delta.text or delta.scores:
            content = b'"delta":{"content":%b},"logprobs":%b,"finish_reason":null' % (
                _text(delta.text),
                self._scores(delta.scores),
            )
            parts += b'%b{"index":%d,%b%b' % (self._head, index, content, tail)
        if delta.finish:
            ending = b'"delta":{},"logprobs":null,"finish_reason":"%b"' % delta.finish.encode()
            parts += b'%b{"index":%d,%b%b' % (self._head, index, ending, tail)
        return parts

    def _extra(self, index: int, tail: bytes, change: dict[str, Any]) -> bytes:
        inner = b'"delta":%b,"logprobs":null,"finish_reason":null' % json.dumps(change).encode()
        return b'%b{"index":%d,%b%b' % (self._head, index, inner, tail)

    def closing(self, usage: Usage, *, with_usage: bool) -> bytes:
        """See `Shape`."""
        counts = b'],"usage":%b}\n\n' % json.dumps(usage.as_value()).encode()
        return (self._head + counts if with_usage else b"") + DONE

    def error(self, refusal: Refusal) -> bytes:
        """See `Shape`."""
        return error_event(refusal)

    def whole(self, choices: Sequence[Finished], usage: Usage) -> bytes:
        """See `Shape`."""
        answers = [
            {
                "index": index,
                "message": _message(choice),
                "logprobs": None if choice.scores is None else self._score_value(choice.scores),
                "finish_reason": choice.finish,
            }
            for index, choice in enumerate(choices)
        ]
        return json.dumps(self._heading | {"choices": answers, "usage": usage.as_value()}).encode()

    def _scores(self, scores: tuple[TokenScore, ...]) -> bytes:
        return json.dumps(self._score_value(scores)).encode() if self._scored else b"null"

    def _score_value(self, scores: tuple[TokenScore, ...]) -> dict[str, Any]:
        return {"content": [self._scored_token(score) for score in scores], "refusal": None}

    def _scored_token(self, score: TokenScore) -> dict[str, Any]:
        top = [self._one(token, logprob) for token, logprob in score.top]
        return self._one(score.token, score.logprob) | {"top_logprobs": top}

    def _one(self, token: int, logprob: float) -> dict[str, Any]:
        piece = self._vocabulary.piece(token)
        return {"token": token_text(piece), "logprob": logprob, "bytes": list(piece)}


class CompletionShape:
    """`text_completion`, whole and in chunks of the same form. `echoes` are put before the choices' texts."""

    __slots__ = ("_echoes", "_head", "_heading", "_scored", "_tail", "_vocabulary")

    def __init__(
        self,
        heading: Heading,
        vocabulary: Vocabulary,
        *,
        scored: bool,
        with_usage: bool,
        counted: Sequence[int] = (),
        echoes: Sequence[str] = (),
    ) -> None:
        self._heading = _heading("text_completion", heading)
        self._vocabulary = vocabulary
        self._scored = scored
        self._echoes = echoes
        self._head = _event_head("text_completion", heading)
        self._tail = chunk_tail(with_usage=with_usage, counted=counted)

    def opening(self, index: int) -> bytes:
        """See `Shape`."""
        echo = self._echoes[index] if self._echoes else ""
        return self._event(index, 0, _text(echo), b"null", b"null") if echo else b""

    def event(self, index: int, delta: Delta) -> bytes:
        """See `Shape`."""
        if not (delta.text or delta.scores or delta.finish):
            return b""
        finish = b'"%b"' % delta.finish.encode() if delta.finish else b"null"
        scores = json.dumps(self._score_value(delta.scores)).encode() if self._scored else b"null"
        return self._event(index, delta.num_tokens, _text(delta.text), scores, finish)

    def _event(self, index: int, num_tokens: int, text: bytes, scores: bytes, finish: bytes) -> bytes:
        body = b'"text":%b,"logprobs":%b,"finish_reason":%b' % (text, scores, finish)
        return b'%b{"index":%d,%b%b' % (self._head, index, body, self._tail(index, num_tokens))

    def closing(self, usage: Usage, *, with_usage: bool) -> bytes:
        """See `Shape`."""
        counts = b'],"usage":%b}\n\n' % json.dumps(usage.as_value()).encode()
        return (self._head + counts if with_usage else b"") + DONE

    def error(self, refusal: Refusal) -> bytes:
        """See `Shape`."""
        return error_event(refusal)

    def whole(self, choices: Sequence[Finished], usage: Usage) -> bytes:
        """See `Shape`."""
        answers = [
            {
                "index": index,
                "text": (self._echoes[index] if self._echoes else "") + choice.text,
                "logprobs": None if choice.scores is None else self._score_value(choice.scores),
                "finish_reason": choice.finish,
            }
            for index, choice in enumerate(choices)
        ]
        return json.dumps(self._heading | {"choices": answers, "usage": usage.as_value()}).encode()

    def _score_value(self, scores: tuple[TokenScore, ...]) -> dict[str, Any]:
        def name(token: int) -> str:
            return token_text(self._vocabulary.piece(token))

        return {
            "tokens": [name(score.token) for score in scores],
            "token_logprobs": [score.logprob for score in scores],
            "top_logprobs": [
                {name(token): logprob for token, logprob in (*score.top, (score.token, score.logprob))}
                for score in scores
            ],
            "text_offset": [score.offset for score in scores],
        }


def _extras(delta: Delta) -> Iterator[dict[str, Any]]:
    """The deltas of what is not text: thoughts, and each piece of a call with its `index`."""
    if delta.thoughts:
        yield {"reasoning_content": delta.thoughts}
    for part in delta.calls:
        function: dict[str, Any] = {"arguments": part.arguments}
        call: dict[str, Any] = {"index": part.index, "function": function}
        if part.id is not None:
            function["name"] = part.name
            call |= {"id": part.id, "type": "function"}
        yield {"tool_calls": [call]}


def _message(choice: Finished) -> dict[str, Any]:
    content = choice.text if choice.text or not choice.calls else None
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if choice.thoughts:
        message["reasoning_content"] = choice.thoughts
    if choice.calls:
        message["tool_calls"] = [
            {"id": one.id, "type": "function", "function": {"name": one.name, "arguments": one.arguments}}
            for one in choice.calls
        ]
    return message


def token_text(piece: bytes) -> str:
    r"""A token's bytes as a text; bytes that are no whole character are written as \\xe2, as OpenAI does."""
    return piece.decode("utf-8", "backslashreplace")


def _heading(kind: str, heading: Heading) -> dict[str, Any]:
    return {
        "id": heading.id,
        "object": kind,
        "created": heading.created,
        "model": heading.model,
        "system_fingerprint": heading.fingerprint,
    }


def _event_head(kind: str, heading: Heading) -> bytes:
    """`data: {...,"choices":[`, ready for a choice."""
    return b"data: " + json.dumps(_heading(kind, heading)).encode()[:-1] + b',"choices":['


def _text(text: str) -> bytes:
    return json.dumps(text).encode()

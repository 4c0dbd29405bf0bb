"""How a chat is said: `chat.completion`, whole and in chunks.

Chunks are made by hand around one `json.dumps` of the text: this runs for every token of every stream.
"""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

from inference.api.answer.openai_shape import OpenAIShape
from inference.api.answer.parts import json_text, token_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inference.api.answer.choice import Delta, TokenScore
    from inference.api.answer.parts import Finished


class ChatShape(OpenAIShape):
    """`chat.completion` and its chunks."""

    __slots__ = ()

    object_name = "chat.completion"
    chunk_name = "chat.completion.chunk"

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
                json_text(delta.text),
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

    def _said(self, index: int, choice: Finished) -> dict[str, Any]:  # noqa: ARG002 - completions go by it
        return {"message": _message(choice)}

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

"""What the two ways of saying an answer that are OpenAI's have in common: a head, a tail, an end, and the whole."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar

from inference.api.answer.parts import DONE, error_event, event_head, fixed_fields
from inference.api.request.stream_options import chunk_tail

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inference.api.answer.choice import TokenScore
    from inference.api.answer.parts import Finished, Heading, Usage
    from inference.api.text.tokens import Vocabulary
    from wire.refused.refusal import Refusal


class OpenAIShape:
    """The fields of every answer and chunk, and how a stream ends; `object_name` and `chunk_name` are the `object`."""

    __slots__ = ("_head", "_heading", "_scored", "_tail", "_vocabulary")

    object_name: ClassVar[str]
    chunk_name: ClassVar[str]

    def __init__(
        self,
        heading: Heading,
        vocabulary: Vocabulary,
        *,
        scored: bool,
        with_usage: bool,
        counted: Sequence[int] = (),
    ) -> None:
        self._heading: dict[str, Any] = fixed_fields(self.object_name, heading)
        self._vocabulary = vocabulary
        self._scored = scored
        self._head = event_head(self.chunk_name, heading)
        self._tail = chunk_tail(with_usage=with_usage, counted=counted)

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
                **self._said(index, choice),
                "logprobs": None if choice.scores is None else self._score_value(choice.scores),
                "finish_reason": choice.finish,
            }
            for index, choice in enumerate(choices)
        ]
        return json.dumps(self._heading | {"choices": answers, "usage": usage.as_value()}).encode()

    def _said(self, index: int, choice: Finished) -> dict[str, Any]:
        """The field of one choice that holds what the model said."""
        raise NotImplementedError

    def _score_value(self, scores: tuple[TokenScore, ...]) -> dict[str, Any]:
        """The value of `logprobs`."""
        raise NotImplementedError

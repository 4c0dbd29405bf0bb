"""Completions: prompts as texts or ids, and `text_completion`, whole and in chunks of the same form."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from inference.api.answer.openai_shape import OpenAIShape
from inference.api.answer.parts import Shape, json_text, token_text
from inference.api.answer.sequences import Job, check_ids, check_length
from inference.api.answer.serving import GenerationReply
from inference.api.text.prompt import check_prompt, encode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inference.api.answer.choice import Delta, TokenScore
    from inference.api.answer.parts import Finished, Heading
    from inference.api.request.kinds import CompletionRequest
    from inference.api.text.tokens import Vocabulary
    from inference.workers.entry.resident import ResidentModel


class CompletionShape(OpenAIShape):
    """`text_completion`, whole and in chunks of the same form. `echoes` are put before the choices' texts."""

    __slots__ = ("_echoes",)

    object_name = chunk_name = "text_completion"

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
        super().__init__(heading, vocabulary, scored=scored, with_usage=with_usage, counted=counted)
        self._echoes = echoes

    def opening(self, index: int) -> bytes:
        """See `Shape`."""
        echo = self._echoes[index] if self._echoes else ""
        return self._event(index, 0, json_text(echo), b"null", b"null") if echo else b""

    def event(self, index: int, delta: Delta) -> bytes:
        """See `Shape`."""
        if not (delta.text or delta.scores or delta.finish):
            return b""
        finish = b'"%b"' % delta.finish.encode() if delta.finish else b"null"
        scores = json.dumps(self._score_value(delta.scores)).encode() if self._scored else b"null"
        return self._event(index, delta.num_tokens, json_text(delta.text), scores, finish)

    def _event(self, index: int, num_tokens: int, text: bytes, scores: bytes, finish: bytes) -> bytes:
        body = b'"text":%b,"logprobs":%b,"finish_reason":%b' % (text, scores, finish)
        return b'%b{"index":%d,%b%b' % (self._head, index, body, self._tail(index, num_tokens))

    def _said(self, index: int, choice: Finished) -> dict[str, Any]:
        return {"text": (self._echoes[index] if self._echoes else "") + choice.text}

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


class CompletionReply(GenerationReply):
    """`/v1/completions`."""

    operation = "text_completion"

    _request: CompletionRequest

    @property
    def _num_prompts(self) -> int:
        """See `GenerationReply`."""
        return len(self._request.prompts)

    async def _job(self, model: ResidentModel) -> Job:
        request = self._request
        prompts = []
        for prompt in request.prompts:
            if isinstance(prompt, str):
                tokens = await encode(model, prompt, add_special=True)
            else:
                tokens = list(prompt)
                check_ids(tokens, model.limits, "prompt")
            check_prompt(tokens, "prompt")
            check_length(len(tokens), request.sampling.max_tokens, model.limits, "prompt")
            prompts.append(tokens)
        self._visit.phases.mark("tokenize")
        grammar = await self.grammar_of(model, request.structure)
        held_by = None if request.structure is None else request.structure.param
        fixed = tuple(prompts), request.sampling, request.delivery
        return Job(*fixed, follows_text=True, grammar=grammar, held_by=held_by)

    def _shape(self, model: ResidentModel, job: Job) -> Shape:
        return CompletionShape(
            self._heading("cmpl-", model),
            model.text.vocabulary,
            scored=job.delivery.logprobs is not None,
            with_usage=job.delivery.include_usage,
            counted=job.counted,
            echoes=self._echoes(model) if self._request.echo else (),
        )

    def _echoes(self, model: ResidentModel) -> list[str]:
        """Each prompt's text, once for each of its choices."""
        vocabulary = model.text.vocabulary
        texts = [
            one if isinstance(one, str) else vocabulary.decode(list(one)) for one in self._request.prompts
        ]
        return [text for text in texts for _ in range(self._request.delivery.num_choices)]

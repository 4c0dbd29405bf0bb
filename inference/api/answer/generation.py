"""A generation that runs: what the engine sends becomes deltas of text, with exact usage at any moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from inference.api.answer.choice import Delta, TokenScore, make_choice
from inference.api.answer.parts import Predicted, Usage
from inference.api.grammar.trial import BAD_GRAMMAR, unusable
from inference.usage.entry import FINISHED, STOPPED, Counts
from wire.refused.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from inference.api.answer.sequences import Job, ModelLimits
    from inference.api.text.tokens import Vocabulary
    from inference.link import Message
    from inference.workers.counts.answers import Tally
    from inference.workers.engines.calls import Call


class Generation:
    """A request that runs. `deltas` yields what each wake brings; the counts are exact at any moment."""

    def __init__(
        self, call: Call, job: Job, vocabulary: Vocabulary, limits: ModelLimits, tally: Tally
    ) -> None:
        num = len(job.prompts) * job.delivery.num_choices
        self._call, self._tally = call, tally
        self._choices = [
            make_choice(
                vocabulary,
                job.sampling,
                limits.eos_ids,
                follows_text=job.follows_text,
                reading=job.reading,
            )
            for _ in range(num)
        ]
        self._num_tokens = [0] * num
        self._num_stopped = 0
        self._num_guessed = [0] * num
        self._job = job
        self._cached: dict[int, int] = {}
        self._fresh: list[int] = []
        self.keeps_ids = False
        """Whether `take_fresh` is asked."""
        self.prefill_ms: float | None = None
        """The engine's own figure of the first sequence to begin; None until then."""
        self.wait_ms = 0.0
        """Of `prefill_ms`, what was spent waiting for weights that had not landed yet."""

    @property
    def num_choices(self) -> int:
        """Sequences of this request."""
        return len(self._choices)

    @property
    def num_cached(self) -> int:
        """Of the prompts' tokens, those that were not computed for this request.

        A prompt counts once, however many choices it has, and its choices copy from each other: what none of
        them computed was there before.
        """
        num = self._job.delivery.num_choices
        prompts = range(len(self._job.prompts))
        begun = [
            [self._cached[i] for i in range(p * num, p * num + num) if i in self._cached] for p in prompts
        ]
        return sum(min(counts) for counts in begun if counts)

    def usage(self) -> Usage:
        """The tokens so far."""
        num_reasoning = sum(choice.num_reasoning for choice in self._choices)
        return Usage(
            self._job.num_prompt_tokens,
            sum(self._num_tokens),
            self.num_cached,
            num_reasoning,
            self._predicted(),
        )

    def _predicted(self) -> Predicted | None:
        """What came of the caller's prediction, over all choices."""
        if (said := self._job.predicted) is None:
            return None
        num_right = sum(min(count, len(said)) for count in self._num_guessed)
        return Predicted(num_right, len(said) * len(self._num_guessed) - num_right)

    def counts(self) -> Counts:
        """The same as it is written down."""
        num = sum(self._num_tokens)
        return Counts(self._job.num_prompt_tokens, num, self.num_cached, min(num, len(self._job.resumed)))

    @property
    def is_over(self) -> bool:
        """Every choice has finished."""
        return all(choice.finish is not None for choice in self._choices)

    @property
    def outcome(self) -> str:
        """How an answer that came to its end did so."""
        return STOPPED if self._num_stopped else FINISHED

    async def deltas(self) -> AsyncIterator[list[tuple[int, Delta]]]:
        """What has come, as (number of the choice, delta), until every choice has finished.

        Raises:
            Refusal: the engine refused or was lost.
        """
        while not self.is_over:
            yield [(index, self._receive(index, message)) for index, message in await self._take()]

    async def _take(self) -> list[tuple[int, Message]]:
        """What the engine sent. Of a grammar it cannot follow it does not know which parameter that was."""
        try:
            return await self._call.take()
        except Refusal as refusal:
            if refusal.code == BAD_GRAMMAR and self._job.held_by is not None:
                raise unusable(refusal.message, self._job.held_by) from refusal
            raise

    def resume(self, max_tokens: int) -> Delta | None:
        """Take the job's own first tokens, which the client knows; what is left to say if they are the whole answer."""
        choice, resumed = self._choices[0], self._job.resumed
        choice.receive(resumed)
        self._num_tokens[0] = choice.num_tokens
        if choice.finish is not None:
            return Delta("")
        return choice.end("length") if len(resumed) >= max_tokens else None

    def take_fresh(self) -> list[int]:
        """The tokens that came since the last call, of an answer with one sequence."""
        fresh, self._fresh = self._fresh, []
        return fresh

    def _receive(self, index: int, message: Message) -> Delta:
        choice = self._choices[index]
        if choice.finish is not None:
            return Delta("")
        if message["op"] == "tokens":
            if self.keeps_ids:
                self._fresh += message["tokens"]
            self._note_first(index, message)
            self._num_guessed[index] += message.get("guessed") is True
            delta = choice.receive(message["tokens"], _scores(message.get("logprobs")))
            self._count(index, choice.num_tokens, message)
            if choice.finish is not None:
                self._call.drop(index)
                self._num_stopped += 1
                self._tally.end(index, "stop", choice.num_tokens)
            return delta
        self._note_first(index, message)  # of an answer that its first token ended
        finish, num_tokens = _finish(message), int(message["completion_tokens"])
        delta = choice.end(finish, num_tokens)
        if num_tokens > self._num_tokens[index]:  # with the end token, which is never sent
            self._count(index, num_tokens, message)
        self._tally.end(index, finish, num_tokens)
        return delta

    def _count(self, index: int, num_tokens: int, message: Message) -> None:
        self._num_tokens[index] = num_tokens
        self._tally.take(index, num_tokens, message.get("queue_ms"), message.get("prefill_ms"))

    def _note_first(self, index: int, message: Message) -> None:
        if message.get("cached_tokens") is not None:
            self._cached[index] = int(message["cached_tokens"])
        if self.prefill_ms is None and message.get("prefill_ms") is not None:
            self.prefill_ms = float(message["prefill_ms"])
            self.wait_ms = float(message.get("wait_ms") or 0.0)


def _finish(message: Message) -> str:
    """The engine's reason as OpenAI's; a cancel that was not ours means that the engine is closing down."""
    reason = str(message["reason"])
    if reason not in {"stop", "length"}:
        raise Refusal(
            503, "worker_lost", "The worker ended this request early; send it again.", "server_error"
        )
    return reason


def _scores(logprobs: Any) -> list[TokenScore] | None:
    """The engine's scores, one per token: {"token", "logprob", "top": [[id, logprob], ...]}."""
    if logprobs is None:
        return None
    return [
        TokenScore(
            int(one["token"]), float(one["logprob"]), tuple((int(t), float(p)) for t, p in one["top"]), 0
        )
        for one in logprobs
    ]

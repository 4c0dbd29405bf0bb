"""What a node counts of its answers: vLLM's figures under our prefix, and OpenTelemetry's.

A dashboard made for vLLM shows them once `vllm:` is read as `nearfield_` (https://docs.vllm.ai/en/latest/usage/metrics/):
same names, labels, meaning. Each choice of a request counts as one; of a prompt with several choices the tokens count
once, as `usage` has them. Times are from the request's head on this node.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final, Self

from wire.figures.gen_ai import GenAIFigures

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from wire.figures.metrics import Histogram, Metrics

MODEL: Final = "model_name"
TIMES: Final = {
    "time_to_first_token_seconds": "From a request's head to a choice's first token.",
    "inter_token_latency_seconds": "Between two tokens of a choice.",
    "request_time_per_output_token_seconds": "Of each choice: what a token took after the first one.",
    "e2e_request_latency_seconds": "From a request's head to a choice's end.",
    "request_queue_time_seconds": "In the engine's queue.",
    "request_prefill_time_seconds": "From a slot to the first token.",
    "request_decode_time_seconds": "From the first token to the last.",
}
TOKENS: Final = tuple(float(step * 10**power) for power in range(6) for step in (1, 2, 5))


class AnswerFigures:
    """The figures of all answers of a node. `begin` opens the tally of one request."""

    def __init__(self, metrics: Metrics, now: Callable[[], float] = time.perf_counter) -> None:
        self.now = now
        self.gen_ai = GenAIFigures(metrics)
        self._times: dict[str, Histogram] = {
            name: metrics.histogram(f"nearfield_{name}", about, MODEL) for name, about in TIMES.items()
        }
        self._sizes = {
            kind: metrics.histogram(
                f"nearfield_request_{kind}_tokens",
                f"{kind.capitalize()} tokens of each.",
                MODEL,
                bounds=TOKENS,
            )
            for kind in ("prompt", "generation")
        }
        self._tokens = {
            kind: metrics.counter(f"nearfield_{kind}_tokens_total", f"{kind.capitalize()} tokens.", MODEL)
            for kind in ("prompt", "generation")
        }
        self._ends = metrics.counter(
            "nearfield_request_success_total",
            "Choices that ended, by why: stop, length, abort (the client left), error.",
            MODEL,
            "finished_reason",
        )

    def begin(
        self,
        model: str,
        operation: str,
        arrived_s: float,
        prompts: Sequence[Sequence[int]],
        num_choices: int,
        held_ms: float = 0.0,
    ) -> Tally:
        """A request's orders go to the engine; its head was in at `arrived_s`, and it waited here for `held_ms`.

        Use the tally as a context.
        """
        return Tally(self, model, operation, arrived_s, [*map(len, prompts)], num_choices, held_ms)

    def observe(self, name: str, model: str, seconds: float) -> None:
        """One of `TIMES`."""
        self._times[name].observe(seconds, model)

    def prompt(self, model: str, num_tokens: int) -> None:
        """A prompt was computed."""
        self._tokens["prompt"].add(num_tokens, model)
        self._sizes["prompt"].observe(num_tokens, model)

    def made(self, model: str, num_tokens: int) -> None:
        """Tokens of an answer were made."""
        self._tokens["generation"].add(num_tokens, model)

    def finished(self, model: str, reason: str, num_tokens: int) -> None:
        """A choice of so many tokens has ended."""
        self._ends.add(1, model, reason)
        self._sizes["generation"].observe(num_tokens, model)


class _Sequence:
    """One choice as it goes."""

    __slots__ = ("first_s", "last_s", "num_tokens", "reason")

    def __init__(self) -> None:
        self.first_s: float | None = None
        self.last_s = 0.0
        self.num_tokens = 0
        self.reason: str | None = None


class Tally:
    """One request's figures while it runs. Leaving it ends whatever has not ended: as `abort`, or `error`."""

    def __init__(
        self,
        figures: AnswerFigures,
        model: str,
        operation: str,
        arrived_s: float,
        prompt_tokens: list[int],
        num_choices: int,
        held_ms: float = 0.0,
    ) -> None:
        self._figures, self._model, self._operation = figures, model, operation
        self._arrived_s, self._held_ms = arrived_s, held_ms
        self._prompts = dict(enumerate(prompt_tokens))  # those that were not computed yet
        self._num_choices = num_choices
        self._sequences = [_Sequence() for _ in range(len(prompt_tokens) * num_choices)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        left = fault is None or isinstance(fault, asyncio.CancelledError | GeneratorExit)
        for index, sequence in enumerate(self._sequences):
            if sequence.reason is None:
                self.end(index, "abort" if left else "error", sequence.num_tokens)

    def take(self, index: int, num_tokens: int, queue_ms: float | None, prefill_ms: float | None) -> None:
        """A choice has `num_tokens` by now; the times come with its first message."""
        sequence, now, figures = self._sequences[index], self._figures.now(), self._figures
        if sequence.first_s is None:
            sequence.first_s = now
            self._begun(index, now - self._arrived_s, queue_ms, prefill_ms)
        else:
            figures.observe("inter_token_latency_seconds", self._model, now - sequence.last_s)
        sequence.last_s = now
        figures.made(self._model, num_tokens - sequence.num_tokens)
        sequence.num_tokens = num_tokens

    def end(self, index: int, reason: str, num_tokens: int) -> None:
        """A choice has ended, with its end token if it has one."""
        sequence, now, figures = self._sequences[index], self._figures.now(), self._figures
        figures.made(self._model, num_tokens - sequence.num_tokens)
        sequence.num_tokens, sequence.reason = num_tokens, reason
        figures.finished(self._model, reason, num_tokens)
        figures.observe("e2e_request_latency_seconds", self._model, now - self._arrived_s)
        if sequence.first_s is not None:
            self._decoded(sequence, reason, now - sequence.first_s)

    def _begun(self, index: int, first_s: float, queue_ms: float | None, prefill_ms: float | None) -> None:
        figures, model = self._figures, self._model
        figures.observe("time_to_first_token_seconds", model, first_s)
        if queue_ms is not None and prefill_ms is not None:
            figures.observe("request_queue_time_seconds", model, (self._held_ms + queue_ms) / 1000)
            figures.observe("request_prefill_time_seconds", model, prefill_ms / 1000)
        if (num_tokens := self._prompts.pop(index // self._num_choices, None)) is not None:
            figures.prompt(model, num_tokens)
        if sum(each.first_s is not None for each in self._sequences) == 1:
            figures.gen_ai.first_token(self._operation, model, first_s)

    def _decoded(self, sequence: _Sequence, reason: str, seconds: float) -> None:
        self._figures.observe("request_decode_time_seconds", self._model, seconds)
        if sequence.num_tokens > 1 and reason in {"stop", "length"}:
            each_s = seconds / (sequence.num_tokens - 1)
            self._figures.observe("request_time_per_output_token_seconds", self._model, each_s)
            self._figures.gen_ai.per_token(self._operation, self._model, each_s)

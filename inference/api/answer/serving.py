"""Answers of generating models, from a parsed request to the last byte: what chats and completions share."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import TYPE_CHECKING

from inference.api.answer.generation import Generation
from inference.api.answer.parts import Finished, Heading, Shape
from inference.api.answer.resume import FIELD, Numbering, can_resume
from inference.api.answer.sequences import Job, Whose, check_ids, check_sampling, orders
from inference.api.reply import STREAM_HEADERS, Outlet
from inference.api.request.sampling import engine_fields
from inference.api.stay.reply import JSON_HEADERS, ModelReply
from inference.api.stay.visit import now_unix
from wire.refused.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from inference.api.answer.choice import Delta
    from inference.api.grammar.structure import Structure
    from inference.api.request.kinds import ChatRequest, CompletionRequest
    from inference.api.stay.reply import Children
    from inference.api.stay.visit import Visit
    from inference.api.text.toolcalls import CallPart
    from inference.workers.counts.answers import Tally
    from inference.workers.entry.resident import ResidentModel
    from inference.workers.host import Host


class GenerationReply(ModelReply):
    """A chat or a completion, streamed or whole."""

    def __init__(
        self,
        host: Host,
        visit: Visit,
        revision_id: str | None,
        request: ChatRequest | CompletionRequest,
        children: Children,
    ) -> None:
        super().__init__(host, visit, revision_id, request.model)
        self._request, self._children = request, children
        self._numbering: Numbering | None = None
        self._left: Delta | None = None

    @property
    def _streams(self) -> bool:
        """See `ModelReply`."""
        return self._request.delivery.stream

    async def answer(self, outlet: Outlet) -> None:
        """See `Reply`."""
        with self._resident() as model:
            check_sampling(self._request.sampling, model.limits)
            delivery = self._request.delivery
            async with self._turn(
                model, self._num_prompts * delivery.num_choices, delivery.priority
            ) as has_waited:
                self._visit.has_waited |= has_waited
                if has_waited:
                    self._visit.phases.mark("queue")
                await self._generate(outlet, model)

    @property
    def _num_prompts(self) -> int:
        """Prompts of this request."""
        return 1

    async def _generate(self, outlet: Outlet, model: ResidentModel) -> None:
        """The answer, once it is this tenant's turn."""
        job = self._resumed(model, await self._job(model))
        shape = self._shape(model, job)
        if job.grammar is not None:
            await model.calls.teach(model.text.vocabulary.lesson)
        whose = Whose(self._visit.tenant, self._visit.weight, self._visit.has_waited)
        wanted = orders(job, model.limits, model.text.defaults, whose)
        max_tokens = int(wanted[0]["max_tokens"])
        if len(job.resumed) >= max_tokens:
            wanted = []
        entry = self._stay.entry(job.num_prompt_tokens)
        with self._tally(model, job) as tally, await model.calls.open(wanted, entry) as call:
            generation = Generation(call, job, model.text.vocabulary, model.limits, tally)
            entry.counts = generation.counts
            generation.keeps_ids = self._numbering is not None
            if job.resumed:
                self._left = generation.resume(max_tokens)
            send = self._stream if job.delivery.stream else self._whole
            await send(outlet, generation, shape)

    def _resumed(self, model: ResidentModel, job: Job) -> Job:
        """The job behind what was told of it elsewhere; and its tokens' ids beside its events, if that is asked for."""
        resume = self._visit.resume
        if resume is None or not job.delivery.stream:
            return job
        rules = engine_fields(job.sampling, model.text.defaults)
        is_greedy = rules["temperature"] == 0 or rules["top_k"] == 1
        if not can_resume(job, is_greedy=is_greedy, is_deterministic=self._visit.is_deterministic):
            self._visit.resume = None
            if resume.tokens:
                raise Refusal(400, "bad_request", "This answer cannot be gone on with.", param=FIELD)
            return job
        check_ids(resume.tokens, model.limits, FIELD)
        return replace(job, resumed=resume.tokens)

    def _heading(self, prefix: str, model: ResidentModel) -> Heading:
        """A fresh one, or that of the stream which is gone on with; it numbers the stream, if it is numbered."""
        made, resume = heading(prefix, model, self._model), self._visit.resume
        if resume is not None and resume.id is not None:
            made = replace(made, id=resume.id, created=resume.created)
        self._numbering = Numbering(resume, made) if resume is not None else None
        return made

    def _tally(self, model: ResidentModel, job: Job) -> Tally:
        begin, phases = self._host.figures.answers.begin, self._visit.phases
        num_choices, held_ms = job.delivery.num_choices, phases.items.get("queue", 0.0)
        return begin(model.revision.model, self.operation, phases.started, job.prompts, num_choices, held_ms)

    async def _job(self, model: ResidentModel) -> Job:
        raise NotImplementedError

    async def grammar_of(self, model: ResidentModel, structure: Structure | None) -> str | None:
        """The structure as a grammar that the model's engine can follow. Raises Refusal (400)."""
        if structure is None:
            return None
        if not model.text.vocabulary.is_pieced or not model.limits.eos_ids:
            raise _no_grammars(model, structure.param)
        await self._children.grammars.check(structure.grammar, structure.param)
        return structure.grammar

    def _shape(self, model: ResidentModel, job: Job) -> Shape:
        raise NotImplementedError

    async def _stream(self, outlet: Outlet, generation: Generation, shape: Shape) -> None:
        """Nothing is sent before the first token, so that failures until then keep their status.

        The last token leaves with the end, as one chunk: every hop looks at each.
        """
        visit, last = self._visit, b""
        try:
            async for batch in self._batches(generation):
                is_new = not outlet.started and not self._is_resumed
                events = b"".join(map(shape.opening, range(generation.num_choices))) if is_new else b""
                events += b"".join([shape.event(index, delta) for index, delta in batch])
                if self._numbering is not None:
                    events = self._numbered(self._numbering, generation, events)
                if not outlet.started:
                    visit.note_first(generation.prefill_ms or 0.0, generation.wait_ms)
                    await outlet.start(200, {**STREAM_HEADERS, **visit.headers()})
                if generation.is_over:
                    last += events
                elif events:
                    await outlet.write(events)
            with_usage = self._request.delivery.include_usage
            closing = shape.closing(generation.usage(), with_usage=with_usage)
            self._stay.used(generation.counts(), generation.outcome)
        except Refusal as refusal:
            if not outlet.started:
                raise
            visit.error = refusal.code
            closing = shape.error(refusal)
        visit.phases.mark("decode")
        usage = generation.usage()
        receipt = visit.receipt(usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)
        await outlet.write(last + closing + receipt, last=True)

    def _numbered(self, numbering: Numbering, generation: Generation, events: bytes) -> bytes:
        """One step's events with their line; nothing of an end that the client knows."""
        tokens, resume = generation.take_fresh(), self._visit.resume
        return b"" if resume is not None and resume.is_finished else numbering.group(tokens, events)

    async def _batches(self, generation: Generation) -> AsyncIterator[list[tuple[int, Delta]]]:
        """What has come; first what is left of an answer that was told to its last token."""
        if self._left is not None:
            yield [(0, self._left)]
        async for batch in generation.deltas():
            yield batch

    @property
    def _is_resumed(self) -> bool:
        return self._visit.resume is not None and bool(self._visit.resume.tokens)

    async def _whole(self, outlet: Outlet, generation: Generation, shape: Shape) -> None:
        visit = self._visit
        parts: list[list[Delta]] = [[] for _ in range(generation.num_choices)]
        async for batch in generation.deltas():
            if visit.first_ms is None:
                visit.note_first(generation.prefill_ms or 0.0, generation.wait_ms)
            for index, delta in batch:
                parts[index].append(delta)
        scored = self._request.delivery.logprobs is not None
        usage = generation.usage()
        body = shape.whole([_finished(deltas, scored=scored) for deltas in parts], usage)
        self._stay.used(generation.counts(), generation.outcome)
        visit.phases.mark("decode")
        counted = visit.counted(usage.prompt_tokens, usage.completion_tokens)
        await outlet.whole(200, {**JSON_HEADERS, **counted}, body)


def _finished(deltas: Sequence[Delta], *, scored: bool) -> Finished:
    scores = tuple(score for delta in deltas for score in delta.scores)
    finish = next((delta.finish for delta in deltas if delta.finish), "stop")
    stop = next((delta.stop for delta in deltas if delta.finish), None)
    text, thoughts = "".join(delta.text for delta in deltas), "".join(delta.thoughts for delta in deltas)
    return Finished(text, scores if scored else None, finish, thoughts, whole_calls(deltas), stop)


def whole_calls(deltas: Sequence[Delta]) -> tuple[CallPart, ...]:
    """The calls whose pieces these deltas have, each in one."""
    calls: list[CallPart] = []
    for part in (part for delta in deltas for part in delta.calls):
        if part.index == len(calls):
            calls.append(part)
        else:
            calls[-1] = replace(calls[-1], arguments=calls[-1].arguments + part.arguments)
    return tuple(calls)


def heading(prefix: str, model: ResidentModel, name: str) -> Heading:
    """A fresh answer's heading. Equal fingerprints that end in `_det` promise equal answers to equal requests."""
    promise = "_det" if model.revision.spec.deterministic else ""
    fingerprint = f"fp_{model.revision.id[:12]}{promise}"
    return Heading(f"{prefix}{secrets.token_hex(12)}", now_unix(), name, fingerprint)


def _no_grammars(model: ResidentModel, param: str) -> Refusal:
    message = (
        f"{model.revision.model} cannot be held to a structure: its tokenizer's decoder is of a kind whose tokens "
        "have no text of their own, or it names no token that ends an answer. Ask for the structure in a message."
    )
    return Refusal(400, "unsupported_parameter", message, param=param)

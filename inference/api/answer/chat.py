"""Chats: messages and tools become a prompt, the answer's text becomes words, thoughts and calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from inference.api.answer.chat_shape import ChatShape
from inference.api.answer.choice import Reading
from inference.api.answer.grammar import after_thoughts, call_structure
from inference.api.answer.sequences import Job, check_length
from inference.api.answer.serving import GenerationReply
from inference.api.fields import unsupported
from inference.api.grammar.structure import Lark
from inference.api.request.tools import markers_of, no_tools, thinks
from inference.api.text.prompt import check_prompt, encode
from inference.api.text.toolcalls import THINK_CLOSE, THINK_OPEN
from wire.refused.refusal import Refusal

if TYPE_CHECKING:
    from inference.api.answer.parts import Shape
    from inference.api.grammar.structure import Structure
    from inference.api.request.kinds import ChatRequest
    from inference.api.text.template import ChatTemplate, TemplateChild
    from inference.api.text.toolcalls import Markers
    from inference.workers.worker import ResidentModel


class ChatReply(GenerationReply):
    """`/v1/chat/completions`."""

    _request: ChatRequest

    async def _job(self, model: ResidentModel) -> Job:
        request, visit = self._request, self._visit
        text = await prompt_of(model, request, self._children.templates)
        visit.phases.mark("template")
        tokens = await encode(model, text, add_special=False)
        visit.phases.mark("tokenize")
        check_prompt(tokens, "messages")
        check_length(len(tokens), request.sampling.max_tokens, model.limits, "messages")
        markers = _markers(model, request)
        structure = self._structure(model, markers, text)
        grammar = await self.grammar_of(model, structure)
        reading = self._reading(model, markers, text)
        held_by = None if structure is None else structure.param
        fixed = (tokens,), request.sampling, request.delivery, False, grammar, reading
        return Job(*fixed, held_by=held_by, predicted=await self._predicted(model))

    async def _predicted(self, model: ResidentModel) -> tuple[int, ...] | None:
        """The caller's prediction as tokens: no more than an answer can have, which bounds what is looked through."""
        text = self._request.prediction
        if text is None:
            return None
        return tuple(await encode(model, text, add_special=False))[: model.limits.max_len]

    def _structure(self, model: ResidentModel, markers: Markers | None, prompt: str) -> Structure | None:
        use, asked, vocabulary = self._request.tools, self._request.structure, model.text.vocabulary
        found = asked
        if use is not None and markers is not None:
            found = call_structure(use, markers, vocabulary, asked)
        return (
            after_thoughts(found, prompt, vocabulary)
            if found is not None and _thinks(model, self._request)
            else found
        )

    @property
    def _is_held(self) -> bool:
        """Whether an answer has no words of its own: thoughts at most stand before what is asked for."""
        use = self._request.tools
        return self._request.structure is not None or (use is not None and use.must)

    def _reading(self, model: ResidentModel, markers: Markers | None, prompt: str) -> Reading | None:
        """How the answers are taken apart; None when they are words only."""
        use = self._request.tools
        marked = _thinks(model, self._request) and not isinstance(self._request.structure, Lark)
        if markers is None and not marked:
            return None
        texts = [THINK_OPEN, THINK_CLOSE] if marked else []
        texts += [markers.opening, markers.closing] if markers else []
        ids = [
            token for text in texts if text and (token := model.text.vocabulary.token_of(text)) is not None
        ]
        return Reading(
            markers,
            frozenset(ids),
            thinks=marked,
            thinking=marked and prompt.rstrip().endswith(THINK_OPEN),
            is_single=use is not None and use.is_single,
            only_first=self._is_held,
        )

    def _shape(self, model: ResidentModel, job: Job) -> Shape:
        return ChatShape(
            self._heading("chatcmpl-", model),
            model.text.vocabulary,
            scored=job.delivery.logprobs is not None,
            with_usage=job.delivery.include_usage,
            counted=job.counted,
        )


async def prompt_of(model: ResidentModel, request: ChatRequest, templates: TemplateChild) -> str:
    """The chat as the text that the model goes on from. Raises Refusal (400)."""
    template = _template(model, request)
    if template is None:
        raise _no_template(model)
    _markers(model, request)  # what calls cannot be read from is not written either
    tools = {} if request.tools is None else {"tools": [tool.shown for tool in request.tools.tools]}
    variables = {
        "add_generation_prompt": request.add_generation_prompt,
        **tools,
        **_effort(request.reasoning_effort, template.source),
        **request.template_kwargs,
    }
    return await templates.render(template, request.messages, variables)


def _markers(model: ResidentModel, request: ChatRequest) -> Markers | None:
    """How the model writes the calls that this request allows. Raises Refusal (400)."""
    template = _template(model, request)
    if request.tools is None or template is None:
        return None
    markers = markers_of(template.source)
    if markers is None:
        raise no_tools(model.revision.model)
    return markers


def _template(model: ResidentModel, request: ChatRequest) -> ChatTemplate | None:
    template = model.text.template
    return None if template is None else template.offering(request.tools)


def _thinks(model: ResidentModel, request: ChatRequest) -> bool:
    template = _template(model, request)
    return template is not None and thinks(template.source)


def _effort(effort: str | None, template: str) -> dict[str, Any]:
    """`reasoning_effort` in the words that the template has for it. Raises Refusal (400) when it has none."""
    if effort is None:
        return {}
    if "enable_thinking" in template and effort == "none":
        return {"enable_thinking": False}
    if "reasoning_effort" in template:
        return {"reasoning_effort": effort}
    if effort == "none" and not thinks(template):
        return {}
    raise unsupported("reasoning_effort", "this model's chat template has no such setting.")


def _no_template(model: ResidentModel) -> Refusal:
    message = (
        f"{model.revision.model} has no chat template. Push one (chat_template.jinja, or chat_template in "
        "tokenizer_config.json), or use /v1/completions."
    )
    return Refusal(400, "no_chat_template", message, param="messages")

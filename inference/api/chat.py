"""Chats: messages and tools become a prompt, the answer's text becomes words, thoughts and calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from inference.api.answer import ChatShape, Shape
from inference.api.choice import Reading
from inference.api.fields import unsupported
from inference.api.sequences import Job, check_length
from inference.api.serving import GenerationReply, check_prompt, encode, heading
from inference.api.toolcalls import THINK_CLOSE, THINK_OPEN
from inference.api.tools import call_structure, markers_of, no_tools, thinks
from wire.refusal import Refusal

if TYPE_CHECKING:
    from inference.api.request import ChatRequest
    from inference.api.structure import Structure
    from inference.api.toolcalls import Markers
    from inference.workers.worker import ResidentModel


class ChatReply(GenerationReply):
    """`/v1/chat/completions`."""

    _request: ChatRequest

    async def _job(self, model: ResidentModel) -> Job:
        request, visit = self._request, self._visit
        if model.text.template is None:
            raise _no_template(model)
        markers = self._markers(model, model.text.template.source)
        variables = {
            "add_generation_prompt": request.add_generation_prompt,
            **self._tool_variables(),
            **_effort(request.reasoning_effort, model.text.template.source),
            **request.template_kwargs,
        }
        text = await self._children.templates.render(model.text.template, request.messages, variables)
        visit.phases.mark("template")
        tokens = await encode(model, text, add_special=False)
        visit.phases.mark("tokenize")
        check_prompt(tokens, "messages")
        check_length(len(tokens), request.sampling.max_tokens, model.limits, "messages")
        grammar = await self.grammar_of(model, self._structure(model, markers))
        reading = self._reading(model, markers, text)
        return Job((tokens,), request.sampling, request.delivery, False, grammar, reading)

    def _markers(self, model: ResidentModel, template: str) -> Markers | None:
        """How the model writes the calls that this request allows. Raises Refusal (400)."""
        if self._request.tools is None:
            return None
        markers = markers_of(template)
        if markers is None:
            raise no_tools(model.revision.model)
        return markers

    def _tool_variables(self) -> dict[str, Any]:
        use = self._request.tools
        return {} if use is None else {"tools": [tool.shown for tool in use.tools]}

    def _structure(self, model: ResidentModel, markers: Markers | None) -> Structure | None:
        use = self._request.tools
        if use is None or markers is None:
            return self._request.structure
        return call_structure(use, markers, model.text.vocabulary)

    def _reading(self, model: ResidentModel, markers: Markers | None, prompt: str) -> Reading | None:
        """How the answers are taken apart; None when they are words only."""
        template, use = model.text.template, self._request.tools
        marked = template is not None and thinks(template.source)
        if markers is None and not marked:
            return None
        texts = [THINK_OPEN, THINK_CLOSE] if marked else []
        texts += [markers.opening, markers.closing] if markers else []
        ids = [
            token for text in texts if text and (token := model.text.vocabulary.token_of(text)) is not None
        ]
        held = self._request.structure is not None or (use is not None and use.must)
        return Reading(
            markers,
            frozenset(ids),
            thinks=marked and not held,
            thinking=marked and not held and prompt.rstrip().endswith(THINK_OPEN),
            is_single=use is not None and use.is_single,
        )

    def _shape(self, model: ResidentModel, job: Job) -> Shape:
        return ChatShape(
            heading("chatcmpl", model, self._model),
            model.text.vocabulary,
            scored=job.delivery.logprobs is not None,
            with_usage=job.delivery.include_usage,
        )


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

"""Whether a request fits the model's context, before an external engine sees it: some answer 500, some never.

The node has the model's own tokenizer and template, so every engine refuses the same prompts in the same words. What
it cannot read itself (pictures) is left to the engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from inference.api.answer.sequences import check_length
from inference.api.request.messages import read_messages
from inference.api.text.prompt import check_prompt, encode
from inference.outside.kinds import CHAT, COMPLETIONS
from wire.refused.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from inference.api.text.template import TemplateChild
    from inference.workers.entry.resident import OutsideModel

    Counting = Callable[[Mapping[str, Any], OutsideModel, TemplateChild], Awaitable[list[int]]]


async def check_context(
    path: str, body: Mapping[str, Any], model: OutsideModel, child: TemplateChild
) -> None:
    """Raises Refusal (400 `context_length_exceeded`)."""
    count = _COUNTS.get(path)
    if count is None:
        return
    wanted = body.get("max_completion_tokens") or body.get("max_tokens")
    max_tokens = wanted if type(wanted) is int and wanted > 0 else None
    for num_tokens in await count(body, model, child):
        check_length(num_tokens, max_tokens, model.limits, _PARAMS[path])


async def _of_prompts(body: Mapping[str, Any], model: OutsideModel, child: TemplateChild) -> list[int]:
    del child
    prompt = body.get("prompt")
    prompts = prompt if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else [prompt]
    found = []
    for one in prompts:
        if isinstance(one, str):
            tokens = await encode(model, one, add_special=True)
            check_prompt(tokens, "prompt")
            found.append(len(tokens))
        elif isinstance(one, list):
            found.append(len(one))
    return found


async def _of_chat(body: Mapping[str, Any], model: OutsideModel, child: TemplateChild) -> list[int]:
    if model.text.template is None:
        return []
    tools, own = body.get("tools"), body.get("chat_template_kwargs")
    variables = {"add_generation_prompt": True, **({"tools": tools} if isinstance(tools, list) else {})}
    variables |= own if isinstance(own, dict) else {}
    try:
        messages = read_messages(body.get("messages"), "messages")
        template = model.text.template.offering(variables.get("tools"))
        text = await child.render(template, messages, variables)
    except Refusal:
        return []  # the engine has its own words for it
    return [len(await encode(model, text, add_special=False))]


_COUNTS: dict[str, Counting] = {COMPLETIONS: _of_prompts, CHAT: _of_chat}
_PARAMS = {COMPLETIONS: "prompt", CHAT: "messages"}

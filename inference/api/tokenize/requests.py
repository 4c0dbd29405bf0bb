"""What is asked about tokens: ids of a text or a chat and back, as vLLM has it; their number, as Anthropic, OpenAI."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inference.api.anthropic.request import read_count_body
from inference.api.fields import boolean, string, token_ids
from inference.api.request.kinds import (
    MAX_MODEL_CHARS,
    MAX_PROMPT_CHARS,
    MAX_PROMPT_TOKENS,
    ChatRequest,
    read_chat,
)
from inference.api.responses.request import read_count_body as read_input_body
from inference.api.route_fields import read_fields

if TYPE_CHECKING:
    from inference.api.fields import Reader


@dataclass(frozen=True, slots=True)
class TokenizeRequest:
    """`prompt` is a text, or a chat that the model's template makes one of. `with_texts`: each token's own name too."""

    model: str
    prompt: str | ChatRequest
    add_special: bool
    with_texts: bool = False


@dataclass(frozen=True, slots=True)
class DetokenizeRequest:
    """Ids whose text is asked for, that of special tokens with it."""

    model: str
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CountRequest:
    """How many tokens would this chat's prompt have?"""

    chat: ChatRequest

    @property
    def model(self) -> str:
        """The model whose tokens they are."""
        return self.chat.model


def _as_it_is(value: Any, param: str) -> Any:
    """Read later, by the route that it belongs to."""
    del param
    return value


_model = string(MAX_MODEL_CHARS, 1)
_OWN: dict[str, Reader[Any]] = {
    "model": _model,
    "add_special_tokens": boolean,
    "return_token_strs": boolean,
}
_TEXT: dict[str, Reader[Any]] = {**_OWN, "prompt": string(MAX_PROMPT_CHARS)}
_CHAT_FIELDS = ("messages", "add_generation_prompt", "chat_template_kwargs", "tools")
_CHAT: dict[str, Reader[Any]] = {**_OWN, **dict.fromkeys(_CHAT_FIELDS, _as_it_is)}
_DETOKENIZE: dict[str, Reader[Any]] = {"model": _model, "tokens": token_ids(MAX_PROMPT_TOKENS)}
REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "chat_template": ((), "the template is the model's own."),
    "continue_final_message": ((False,), "the last message is always whole."),
    "mm_processor_kwargs": ((), "messages carry text only."),
    "media_io_kwargs": ((), "messages carry text only."),
}
"""vLLM's fields that are not honoured -> (values that ask for nothing, why not)."""


def read_tokenize(body: dict[str, Any]) -> TokenizeRequest:
    """A body of `/tokenize`, of a text or of a chat. Raises Refusal (400, `param` set).

    A text gets the tokenizer's own begin and end unless it says otherwise; a chat has them from its template.
    """
    if body.get("messages") is not None:
        found = read_fields(body, _CHAT, ("model",), REFUSED)
        chat = read_chat({field: found[field] for field in ("model", *_CHAT_FIELDS) if field in found})
        prompt: str | ChatRequest = chat
    else:
        found = read_fields(body, _TEXT, ("model", "prompt"), REFUSED)
        prompt = found["prompt"]
    add_special = found.get("add_special_tokens", isinstance(prompt, str))
    return TokenizeRequest(found["model"], prompt, add_special, found.get("return_token_strs", False))


def read_detokenize(body: dict[str, Any]) -> DetokenizeRequest:
    """A body of `/detokenize`. Raises Refusal (400, `param` set)."""
    found = read_fields(body, _DETOKENIZE, ("model", "tokens"), {})
    return DetokenizeRequest(found["model"], found["tokens"])


def read_input_count(body: dict[str, Any]) -> CountRequest:
    """A body of `/v1/responses/input_tokens`. Raises Refusal (400, `param` set)."""
    return CountRequest(read_input_body(body))


def read_count(body: dict[str, Any]) -> CountRequest:
    """A body of `/v1/messages/count_tokens`. Raises Refusal (400, `param` set)."""
    return CountRequest(read_count_body(body))

"""What the gateway must know of a request before it may hold it: model, kind, stream, and whether it can fit.

The body's bytes go to the node untouched; this reads them once and keeps four values.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from regions.map import BadNameError, ModelName
from wire.refusal import Refusal

if TYPE_CHECKING:
    from regions.map import Kind

MAX_BODY_BYTES: Final = 1 << 20  # as at the edge: a prompt of about 250,000 tokens
MAX_TOKEN_BYTES: Final = 128  # longest token of the vocabularies in use (GPT-2 has 128 spaces in one)
PROMPT_FIELDS: Final = {
    "/v1/chat/completions": "messages",
    "/v1/completions": "prompt",
    "/v1/embeddings": "input",
}
_DECODER: Final = json.JSONDecoder()
KINDS: Final[dict[str, Kind]] = {
    "/v1/chat/completions": "generate",
    "/v1/completions": "generate",
    "/v1/embeddings": "embed",
}


class Ask(NamedTuple):
    """One inference request as the gateway sees it.

    `least_tokens` is a bound from below on the prompt: what exceeds the model's length by this bound is
    refused at once; the exact count is the node's. `prompt_field` is where the prompt stands in the body.
    """

    model: str
    kind: Kind
    stream: bool
    least_tokens: int
    prompt_field: str = "messages"


def read_ask(path: str, body: bytes) -> Ask:
    """The request to `path`, a key of KINDS. Raises Refusal 400, or 404 for an odd model name."""
    try:
        document = _DECODER.decode(body.decode())
    except (ValueError, RecursionError) as error:
        raise Refusal(400, "bad_request", "The body is not JSON; send one JSON object.") from error
    if not isinstance(document, dict) or not isinstance(document.get("model"), str):
        raise Refusal(
            400, "bad_request", 'The body names no model; send {"model": "org/name", ...}.', param="model"
        )
    try:
        model = str(ModelName.parse(document["model"]))
    except BadNameError as error:
        raise Refusal(404, "model_not_found", f"No such model: {error}.", param="model") from error
    kind = KINDS[path]
    stream = kind == "generate" and document.get("stream") is True
    return Ask(model, kind, stream, _least_tokens(document), PROMPT_FIELDS[path])


def refuse_misfit(ask: Ask, kind: Kind, max_len: int) -> None:
    """Raises Refusal 400 for a model of the other kind, or a prompt that cannot fit its `max_len` tokens."""
    if ask.kind != kind:
        path = "/v1/embeddings" if kind == "embed" else "/v1/chat/completions or /v1/completions"
        raise Refusal(400, "bad_request", f"{ask.model} is served at {path}.", param="model")
    if ask.least_tokens > max_len:
        text = f"The prompt has at least {ask.least_tokens} tokens; {ask.model} takes {max_len}. Shorten it."
        raise Refusal(400, "context_length_exceeded", text, param=ask.prompt_field)


def _least_tokens(document: dict[str, Any]) -> int:
    messages = document.get("messages")
    if isinstance(messages, list):
        texts = [each.get("content") for each in messages if isinstance(each, dict)]
        return sum(len(text) for text in texts if isinstance(text, str)) // MAX_TOKEN_BYTES
    return _least_of(document.get("prompt", document.get("input")))


def _least_of(prompt: object) -> int:
    """Of text: characters over the longest token; of token ids: exact; of a batch: its longest item."""
    if isinstance(prompt, str):
        return len(prompt) // MAX_TOKEN_BYTES
    if not isinstance(prompt, list) or not prompt:
        return 0
    if isinstance(prompt[0], int):
        return len(prompt)
    return max(_least_of(each) if isinstance(each, str | list) else 0 for each in prompt)

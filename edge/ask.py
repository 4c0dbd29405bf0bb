"""What the edge must know of an inference request to route it; the body's bytes go on untouched.

The JSON is read strictly, because the region reads the same bytes again: a key given twice, NaN, or another
encoding could mean one thing here and another there.
"""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple, NoReturn

from regions.map import BadNameError, ModelName
from wire.refusal import Refusal

MAX_BODY_BYTES: Final = 1 << 20  # replays need it in memory; a prompt of about 250,000 tokens
MAX_OBJECTS: Final = 200_000  # each costs a call of 0.3 us while the loop waits; 512 messages are 2,000
CHARS_PER_TOKEN: Final = 4  # of English text; the choice needs the order of magnitude
MAX_PROMPT_DEPTH: Final = 3  # messages of parts, or a batch of token lists
STREAMS: Final = frozenset({"/v1/chat/completions", "/v1/completions"})


class Ask(NamedTuple):
    """One inference request: its model, whether its answer streams, and about how long its prompt is."""

    model: str
    stream: bool
    prompt_tokens: int


def read_ask(path: str, body: bytes) -> Ask:
    """The request in `body` to `path`. Raises Refusal 400, or 404 for a name that no model can have."""
    document = _strict(body)
    name = document.get("model")
    if not isinstance(name, str):
        raise Refusal(400, "bad_request", 'Name a model: {"model": "org/name", ...}.', param="model")
    try:
        model = str(ModelName.parse(name))
    except BadNameError as error:
        raise Refusal(404, "model_not_found", f"No such model: {error}.", param="model") from error
    stream = path in STREAMS and document.get("stream") is True
    return Ask(model, stream, _prompt_tokens(document))


def _prompt_tokens(document: dict[str, Any]) -> int:
    """About how many tokens the prompt has: text by its length, ids by their number."""
    messages = document.get("messages")
    if isinstance(messages, list):
        prompt: object = [each.get("content") for each in messages if isinstance(each, dict)]
    else:
        prompt = document.get("prompt", document.get("input"))
    return max(1, _tokens_of(prompt, MAX_PROMPT_DEPTH))


def _tokens_of(prompt: object, depth: int) -> int:
    """Of a text, a list of token ids, a batch of either, or the parts of a message; nothing below `depth` lists."""
    if isinstance(prompt, str):
        return len(prompt) // CHARS_PER_TOKEN
    if isinstance(prompt, dict):
        text = prompt.get("text")
        return len(text) // CHARS_PER_TOKEN if isinstance(text, str) else 0
    if not isinstance(prompt, list) or depth == 0:
        return 0
    return sum([1 if isinstance(each, int) else _tokens_of(each, depth - 1) for each in prompt])


def _strict(body: bytes) -> dict[str, Any]:
    """The one JSON object in `body`. Raises Refusal 400."""
    if body.count(b"{") > MAX_OBJECTS:  # braces in a text count too: a prompt may be a program
        text = f"The body has more than {MAX_OBJECTS} objects (or braces); send fewer."
        raise Refusal(400, "bad_request", text)
    try:
        document = _DECODER.decode(body.decode())
    except (ValueError, RecursionError) as error:
        cause = str(error) if isinstance(error, _NotStrict) else "it is not JSON in UTF-8"
        raise Refusal(
            400, "bad_request", f"The body cannot be read: {cause}. Send one JSON object."
        ) from error
    if not isinstance(document, dict):
        raise Refusal(400, "bad_request", "The body is not a JSON object.")
    return document


class _NotStrict(ValueError):
    """JSON that two readers might understand differently, or that costs too much to read."""


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise _NotStrict("a key is given twice")
    return document


def _no_constant(name: str) -> NoReturn:
    raise _NotStrict(f"{name} is not a JSON number")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_each_key_once, parse_constant=_no_constant)

"""The three kinds of request: every parameter of the official client is honoured or refused by its name.

Each route has one table of the fields it reads; `inference.api.route_fields` says what becomes of the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from inference.api.fields import (
    Reader,
    array,
    bad,
    boolean,
    integer,
    mapping,
    one_of,
    string,
    token_ids,
    unsupported,
)
from inference.api.grammar.structure import STRUCTURE_FIELDS, Lark, Structure, structure_of
from inference.api.request.messages import read_messages
from inference.api.request.prediction import read_prediction
from inference.api.request.sampling import MAX_TOKENS, SAMPLING_FIELDS, Sampling
from inference.api.request.stream_options import StreamOptions, read_stream_options
from inference.api.request.tools import ToolUse, read_tool_choice, read_tools, tool_use
from inference.api.route_fields import REFUSED, read_fields
from inference.engine.orders.asked import MAX_PRIORITY

MAX_CHOICES = 4
"""`n`: each choice is a whole generation, and clients that want more can ask again."""
MAX_PROMPTS = 32
"""Prompts in one completions request; with `n` at most 128 generations from one body."""
MAX_PROMPT_TOKENS = 1_000_000
"""Token ids in one prompt: a body of 1 MiB cannot hold more."""
MAX_PROMPT_CHARS = 1024 * 1024
"""Characters in one prompt: no more than the body has bytes."""
MAX_INPUTS = 2_048
"""OpenAI's own bound on one embeddings request."""
MAX_DIMENSIONS = 65_536
"""Above any model's width; the model's own is checked where it is known."""
MAX_TOP_LOGPROBS = 20
"""OpenAI's own bound for chat."""
MAX_LEGACY_LOGPROBS = 5
"""OpenAI's own bound for completions."""
MAX_LABEL_CHARS = 512
"""`user`, `safety_identifier`, `prompt_cache_key` and each metadata value, as OpenAI bounds them."""
MAX_MODEL_CHARS = 194
"""org/name@preview: 64 + 1 + 96 + 1 + 32 characters (contract of the model name)."""
DEFAULT_COMPLETION_TOKENS = 16
"""OpenAI's own default of `max_tokens` for the legacy route."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """How the answer is to be handed over. `logprobs` is the number of alternatives per token, None for none.

    `priority` is 0 or more: who has more lets others go first.
    """

    num_choices: int = 1
    stream: bool = False
    include_usage: bool = False
    logprobs: int | None = None
    priority: int = 0
    continuous_usage: bool = False


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """`messages` are plain dicts that the model's chat template may read; `template_kwargs` go to it as well."""

    model: str
    messages: tuple[dict[str, Any], ...]
    sampling: Sampling
    delivery: Delivery
    template_kwargs: dict[str, Any]
    add_generation_prompt: bool = True
    structure: Structure | None = None
    tools: ToolUse | None = None
    reasoning_effort: str | None = None
    prediction: str | None = None


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """One or more prompts, each a text or its token ids. `echo` puts the prompt's text before each answer."""

    model: str
    prompts: tuple[str | tuple[int, ...], ...]
    sampling: Sampling
    delivery: Delivery
    echo: bool = False
    structure: Structure | None = None


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """One or more inputs, each a text or its token ids. `base64` is how the vectors are written."""

    model: str
    inputs: tuple[str | tuple[int, ...], ...]
    base64: bool = False
    dimensions: int | None = None


_label = string(MAX_LABEL_CHARS)
_model = string(MAX_MODEL_CHARS, 1)
_prompt_text = string(MAX_PROMPT_CHARS)
_prompt_ids = token_ids(MAX_PROMPT_TOKENS)


def _metadata(value: Any, param: str) -> None:
    """Labels for stored answers; nothing is stored here, so a checked value asks for nothing."""
    if len(mapping(value, param)) > 16:
        raise bad(param, f"{param!r} must have at most 16 entries.")
    for key, label in value.items():
        _label(label, f"{param}.{key[:64]}")


def _template_kwargs(value: Any, param: str) -> dict[str, Any]:
    """Arguments of the template's own; what the request has a field for would be overruled, or get past its checks."""
    for name in mapping(value, param).keys() & {"messages", "tools"}:
        raise bad(f"{param}.{name}", f"{param!r} may not have {name!r}: give {name!r} itself.")
    return mapping(value, param)


_SHARED: dict[str, Reader[Any]] = {
    "model": _model,
    "n": integer(1, MAX_CHOICES),
    "stream": boolean,
    "stream_options": read_stream_options,
    "user": _label,
    "priority": integer(0, MAX_PRIORITY),
    **{field: reader for field, (_, reader) in SAMPLING_FIELDS.items()},
    **STRUCTURE_FIELDS,
}
_CHAT: dict[str, Reader[Any]] = {
    **_SHARED,
    "messages": read_messages,
    "max_completion_tokens": integer(1, MAX_TOKENS),
    "logprobs": boolean,
    "top_logprobs": integer(0, MAX_TOP_LOGPROBS),
    "metadata": _metadata,
    "safety_identifier": _label,
    "prompt_cache_key": _label,
    "chat_template_kwargs": _template_kwargs,
    "add_generation_prompt": boolean,
    "tools": read_tools,
    "tool_choice": read_tool_choice,
    "parallel_tool_calls": boolean,
    "reasoning_effort": one_of("none", "minimal", "low", "medium", "high", "xhigh", "max"),
    "prediction": read_prediction,
}
_COMPLETION: dict[str, Reader[Any]] = {
    **_SHARED,
    "prompt": lambda value, param: _texts(value, param, MAX_PROMPTS),
    "best_of": integer(1, MAX_CHOICES),
    "echo": boolean,
    "logprobs": integer(0, MAX_LEGACY_LOGPROBS),
}
_EMBEDDING: dict[str, Reader[Any]] = {
    "model": _model,
    "input": lambda value, param: _texts(value, param, MAX_INPUTS),
    "encoding_format": one_of("float", "base64"),
    "dimensions": integer(1, MAX_DIMENSIONS),
    "user": _label,
}


def read_chat(body: dict[str, Any]) -> ChatRequest:
    """A body of `/v1/chat/completions`. Raises Refusal (400, `param` set)."""
    found = read_fields(body, _CHAT, ("model", "messages"))
    wanted = found.get("max_completion_tokens")
    if wanted is not None and found.get("max_tokens", wanted) != wanted:
        raise bad("max_tokens", "'max_tokens' and 'max_completion_tokens' differ; give one of them.")
    if wanted is not None:
        found["max_tokens"] = wanted
    structure, tools = structure_of(found), tool_use(found)
    if isinstance(structure, Lark) and tools is not None:
        raise bad(
            structure.param, f"{structure.param!r} is a whole grammar: it has no place for calls of 'tools'."
        )
    _check_tools(found, tools)
    return ChatRequest(
        model=found["model"],
        messages=found["messages"],
        sampling=_sampling(found),
        delivery=_delivery(found, _chat_logprobs(found)),
        template_kwargs=found.get("chat_template_kwargs", {}),
        add_generation_prompt=found.get("add_generation_prompt", True),
        structure=structure,
        tools=tools,
        reasoning_effort=found.get("reasoning_effort"),
        prediction=found.get("prediction"),
    )


def _check_tools(found: dict[str, Any], tools: ToolUse | None) -> None:
    """A call that is demanded is held by a grammar, which ends the answer."""
    if tools is None or not tools.must:
        return
    for field in ("ignore_eos", "min_tokens"):
        if found.get(field):
            raise bad(
                field, f"{field!r} would go on after the call that 'tool_choice' demands; leave it out."
            )


def read_completion(body: dict[str, Any]) -> CompletionRequest:
    """A body of `/v1/completions`. Raises Refusal (400, `param` set)."""
    found = read_fields(body, _COMPLETION, ("model", "prompt"))
    if found.get("best_of", found.get("n", 1)) != found.get("n", 1):
        raise unsupported("best_of", "every choice that is made is returned; give 'n' alone.")
    if found.get("echo") and "logprobs" in found:
        raise unsupported("logprobs", "with 'echo' it would need the prompt's own probabilities.")
    found.setdefault("max_tokens", DEFAULT_COMPLETION_TOKENS)
    return CompletionRequest(
        model=found["model"],
        prompts=found["prompt"],
        sampling=_sampling(found),
        delivery=_delivery(found, found.get("logprobs")),
        echo=found.get("echo", False),
        structure=structure_of(found),
    )


def read_embedding(body: dict[str, Any]) -> EmbeddingRequest:
    """A body of `/v1/embeddings`. Raises Refusal (400, `param` set)."""
    found = read_fields(body, _EMBEDDING, ("model", "input"))
    return EmbeddingRequest(
        model=found["model"],
        inputs=found["input"],
        base64=found.get("encoding_format") == "base64",
        dimensions=found.get("dimensions"),
    )


def _sampling(found: dict[str, Any]) -> Sampling:
    values = {name: found[field] for field, (name, _) in SAMPLING_FIELDS.items() if field in found}
    sampling = Sampling(**values)
    if sampling.max_tokens is not None and sampling.min_tokens > sampling.max_tokens:
        raise bad("min_tokens", "'min_tokens' is above 'max_tokens'.")
    return sampling


def _delivery(found: dict[str, Any], logprobs: int | None) -> Delivery:
    stream = found.get("stream", False)
    if "stream_options" in found and not stream:
        raise bad("stream_options", "'stream_options' needs 'stream': true.")
    options = found.get("stream_options", StreamOptions())
    return Delivery(
        num_choices=found.get("n", 1),
        stream=stream,
        include_usage=options.include_usage,
        logprobs=logprobs,
        priority=found.get("priority", 0),
        continuous_usage=options.continuous_usage,
    )


def _chat_logprobs(found: dict[str, Any]) -> int | None:
    top: int | None = found.get("top_logprobs")
    if found.get("logprobs"):
        return top or 0
    if top is not None:
        raise bad("top_logprobs", "'top_logprobs' needs 'logprobs': true.")
    return None


def _texts(value: Any, param: str, most: int) -> tuple[str | tuple[int, ...], ...]:
    """A text, a list of texts, a list of token ids, or a list of such lists."""
    if type(value) is str:
        return (_prompt_text(value, param),)
    if type(value) is not list or not value:
        raise bad(param, f"{param!r} must be a string, an array of strings, or (an array of) token ids.")
    if type(value[0]) is int:
        return (_prompt_ids(value, param),)
    each: Reader[Any] = _prompt_text if type(value[0]) is str else _prompt_ids
    return array(each, most, 1)(value, param)


CHAT_FIELDS, COMPLETION_FIELDS, EMBEDDING_FIELDS = (
    frozenset((*fields, *REFUSED)) for fields in (_CHAT, _COMPLETION, _EMBEDDING)
)
"""Every parameter that these routes know, those they refuse included."""

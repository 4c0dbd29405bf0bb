"""OpenAI's `/v1/responses`: its body as a chat. A translation: the chat path does the work, and nothing is stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inference.api.fields import (
    array,
    bad,
    boolean,
    integer,
    mapping,
    number,
    one_of,
    only,
    string,
    unsupported,
)
from inference.api.request.kinds import MAX_LABEL_CHARS, MAX_MODEL_CHARS, ChatRequest, read_chat
from inference.api.request.messages import MAX_CONTENT_CHARS, MAX_PARTS
from inference.api.request.sampling import MAX_TOKENS
from inference.api.request.tools import read_name
from inference.api.request.wording import wording
from inference.api.responses.tools import read_choice, read_tools
from inference.api.route_fields import read_fields, without_idle

if TYPE_CHECKING:
    from inference.api.fields import Reader
    from inference.api.route_fields import Refused

MAX_ITEMS = 1_024
"""Of `input`: each message, call and result is one."""
_text = string(MAX_CONTENT_CHARS)
_label = string(MAX_LABEL_CHARS)


@dataclass(frozen=True, slots=True)
class ResponseRequest:
    """The chat it asks for, and what the answer repeats of the request."""

    chat: ChatRequest
    echoed: dict[str, Any]


def read_response(body: dict[str, Any]) -> ResponseRequest:
    """A body of `/v1/responses`. Raises Refusal (400, `param` set)."""
    found = read_fields(body, _FIELDS, ("model", "input"), REFUSED)
    instructions = found.get("instructions")
    system = [] if instructions is None else [{"role": "system", "content": instructions}]
    chat: dict[str, Any] = {"messages": [*system, *found["input"]], "model": found["model"]}
    for field, name in _SAME.items():
        if field in found:
            chat[name] = found[field]
    for field in ("text", "reasoning"):
        chat |= found.get(field, {})
    if chat.get("stream_options") == {}:
        del chat["stream_options"]
    with wording(NAMES):
        asked = read_chat(chat)
    return ResponseRequest(asked, {field: body[field] for field in ECHOED if body.get(field) is not None})


def read_count_body(body: dict[str, Any]) -> ChatRequest:
    """A body of `/v1/responses/input_tokens` as the chat whose prompt is counted. Raises Refusal (400, `param` set)."""
    counted = {field: reader for field, reader in _FIELDS.items() if field in COUNTED}
    found = read_fields(body, counted, ("model", "input"), REFUSED)
    return read_response({field: body[field] for field in found}).chat


def _input(value: Any, param: str) -> list[dict[str, Any]]:
    """The items as chat messages; calls and thoughts belong to the assistant's message that they stand beside."""
    if type(value) is str:
        return [{"role": "user", "content": _text(value, param)}]
    made: list[dict[str, Any]] = []
    for number_, item in enumerate(array(mapping, MAX_ITEMS, 1)(value, param)):
        at, kind = f"{param}[{number_}]", item.get("type", "message")
        if type(kind) is not str or kind not in _ITEMS:
            raise unsupported(f"{at}.type", f"items are {', '.join(_ITEMS)}.")
        _ITEMS[kind](item, at, made)
    return made


def _message(item: dict[str, Any], param: str, made: list[dict[str, Any]]) -> None:
    only(item, {"type", "role", "content", "id", "status"}, param)
    role = one_of("user", "assistant", "system", "developer")(item.get("role"), f"{param}.role")
    content = item.get("content")
    text = _text(content, f"{param}.content") if type(content) is str else _parts(content, f"{param}.content")
    if role == "assistant":
        _assistant(made)["content"] += text
    else:
        made.append({"role": role, "content": text})


def _parts(value: Any, param: str) -> str:
    texts = []
    for number_, part in enumerate(array(mapping, MAX_PARTS, 1)(value, param)):
        at = f"{param}[{number_}]"
        if part.get("type") not in ("input_text", "output_text"):
            raise unsupported(f"{at}.type", "messages carry text only ('type': 'input_text').")
        only(part, {"type", "text", "annotations", "logprobs"}, at)
        texts.append(_text(part.get("text"), f"{at}.text"))
    return "\n".join(texts)


def _assistant(made: list[dict[str, Any]]) -> dict[str, Any]:
    if not made or made[-1]["role"] != "assistant":
        made.append({"role": "assistant", "content": ""})
    return made[-1]


def _call(item: dict[str, Any], param: str, made: list[dict[str, Any]]) -> None:
    only(item, {"type", "id", "call_id", "name", "arguments", "status"}, param)
    function = {
        "name": read_name(item.get("name"), f"{param}.name"),
        "arguments": _text(item.get("arguments"), f"{param}.arguments"),
    }
    call = {"id": _label(item.get("call_id"), f"{param}.call_id"), "type": "function", "function": function}
    _assistant(made).setdefault("tool_calls", []).append(call)


def _output(item: dict[str, Any], param: str, made: list[dict[str, Any]]) -> None:
    only(item, {"type", "id", "call_id", "output", "status"}, param)
    output = item.get("output")
    text = _text(output, f"{param}.output") if type(output) is str else _parts(output, f"{param}.output")
    made.append(
        {"role": "tool", "tool_call_id": _label(item.get("call_id"), f"{param}.call_id"), "content": text}
    )


def _reasoning_item(item: dict[str, Any], param: str, made: list[dict[str, Any]]) -> None:
    only(item, {"type", "id", "summary", "content", "status"}, param)
    texts = []
    for number_, part in enumerate(array(mapping, MAX_PARTS)(item.get("content") or [], f"{param}.content")):
        texts.append(_text(part.get("text"), f"{param}.content[{number_}].text"))
    if texts:
        made.append({"role": "assistant", "content": "", "reasoning_content": "\n".join(texts)})


_ITEMS = {
    "message": _message,
    "function_call": _call,
    "function_call_output": _output,
    "reasoning": _reasoning_item,
}


def _text_options(value: Any, param: str) -> dict[str, Any]:
    found = mapping(value, param)
    if found.get("verbosity") is not None:
        raise unsupported(f"{param}.verbosity", "the models served here have no such setting.")
    only(found, {"format", "verbosity"}, param)
    wanted = found.get("format")
    if wanted is None:
        return {}
    kind = one_of("text", "json_object", "json_schema")(
        mapping(wanted, f"{param}.format").get("type"), f"{param}.format.type"
    )
    if kind != "json_schema":
        only(wanted, {"type"}, f"{param}.format")
        return {"response_format": {"type": kind}}
    named = {key: one for key, one in wanted.items() if key != "type"}
    return {"response_format": {"type": kind, "json_schema": named}}


def _reasoning(value: Any, param: str) -> dict[str, Any]:
    found = without_idle(mapping(value, param), _REASONING, param)
    only(found, {"effort", "summary", "generate_summary"}, param)
    for field in ("summary", "generate_summary"):
        if found.get(field) is not None:
            raise unsupported(f"{param}.{field}", "thoughts come whole, not as a summary.")
    return {} if found.get("effort") is None else {"reasoning_effort": found["effort"]}


def _metadata(value: Any, param: str) -> None:
    if len(mapping(value, param)) > 16:
        raise bad(param, f"{param!r} must have at most 16 entries.")
    for key, label in value.items():
        _label(label, f"{param}.{key[:64]}")


def _stream_options(value: Any, param: str) -> dict[str, Any]:
    only(mapping(value, param), {"include_obfuscation"}, param)
    if value.get("include_obfuscation"):
        raise unsupported(f"{param}.include_obfuscation", "streams are not padded.")
    return {}


_SAME = {
    "stream": "stream",
    "temperature": "temperature",
    "top_p": "top_p",
    "max_output_tokens": "max_tokens",
    "tools": "tools",
    "tool_choice": "tool_choice",
    "parallel_tool_calls": "parallel_tool_calls",
}
_FIELDS: dict[str, Reader[Any]] = {
    "model": string(MAX_MODEL_CHARS, 1),
    "input": _input,
    "instructions": _text,
    "stream": boolean,
    "stream_options": _stream_options,
    "temperature": number(0, 2),
    "top_p": number(0, 1),
    "max_output_tokens": integer(1, MAX_TOKENS),
    "tools": read_tools,
    "tool_choice": read_choice,
    "parallel_tool_calls": boolean,
    "text": _text_options,
    "reasoning": _reasoning,
    "metadata": _metadata,
    "user": _label,
    "safety_identifier": _label,
    "prompt_cache_key": _label,
}
COUNTED = (
    *("model", "input", "instructions", "parallel_tool_calls", "reasoning", "text", "tool_choice", "tools"),
)
"""The fields that a count may have."""
ECHOED = (
    *(
        "instructions",
        "max_output_tokens",
        "metadata",
        "parallel_tool_calls",
        "prompt_cache_key",
        "reasoning",
    ),
    *("safety_identifier", "temperature", "text", "tool_choice", "tools", "top_p", "user"),
)
"""What an answer repeats of its request, as it was given."""
_NOT_STORED = "answers are not stored; send the whole conversation as 'input'."
_NOT_KEPT = "how long prompts are kept is not the request's to say."
_REASONING: Refused = {
    "context": (("auto",), "thoughts that are sent are what the model sees of them."),
    "mode": (("standard",), "there is one mode."),
}
"""Fields of `reasoning` -> (values that ask for nothing, why not)."""
REFUSED: Refused = {
    "access_programs": ((), "there are no such programs."),
    "background": ((False,), _NOT_STORED),
    "background_options": ((), _NOT_STORED),
    "context_management": (([],), "nothing of a conversation is left out."),
    "conversation": ((), _NOT_STORED),
    "image": ((), "models answer in text only."),
    "include": (([],), "an answer has all there is; for probabilities use /v1/chat/completions."),
    "personality": ((), "the models served here have no such setting."),
    "max_tool_calls": ((), "no tools are run here, so none are counted."),
    "moderation": ((), "no moderation model runs beside the answer."),
    "previous_response_id": ((), _NOT_STORED),
    "prompt": ((), "there are no stored prompts."),
    "prompt_cache_options": ((), _NOT_KEPT),
    "prompt_cache_retention": ((), _NOT_KEPT),
    "service_tier": (("auto", "default"), "there is one tier."),
    "store": ((False,), "answers are not stored."),
    "top_logprobs": ((0,), "for probabilities use /v1/chat/completions."),
    "truncation": (("disabled",), "a conversation that is too long is refused, never cut."),
}
"""The route's fields that are not honoured -> (values that ask for nothing, why not)."""

NAMES = (
    (r"messages.*", "input"),
    (r"max_tokens", "max_output_tokens"),
    (r"response_format(?:\.json_schema)?(.*)", r"text.format\1"),
    (r"reasoning_effort", "reasoning.effort"),
    (r"tools(\[\d+\])\.function(.*)", r"tools\1\2"),
    (r"tool_choice\.(?:allowed_tools|function)(.*)", r"tool_choice\1"),
)
"""What the chat path calls a parameter -> what this route does (`wording.Names`)."""
RESPONSE_FIELDS = frozenset((*_FIELDS, *REFUSED))
"""Every parameter that this route knows, those it refuses included."""

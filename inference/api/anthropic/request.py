"""Anthropic's `/v1/messages`: its body as a chat. A translation: the chat path does the work.

Each parameter of Anthropic's own client (2.14) is honoured, or refused with 400 and its name.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from inference.api.anthropic.tools import read_choice, read_tools
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
from inference.api.request.messages import MAX_CONTENT_CHARS, MAX_MESSAGES, MAX_PARTS
from inference.api.request.sampling import MAX_STOP_CHARS, MAX_STOPS, MAX_TOKENS, MAX_TOP_K
from inference.api.request.tools import read_name
from inference.api.request.wording import wording
from inference.api.route_fields import read_fields, without_idle
from wire.dialect import THREADLESS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inference.api.fields import Reader
    from inference.api.request.wording import Names
    from inference.api.route_fields import Refused

_text = string(MAX_CONTENT_CHARS)
_label = string(MAX_LABEL_CHARS)
_blocks = array(mapping, MAX_PARTS)


def read_messages_body(body: dict[str, Any]) -> ChatRequest:
    """A body of `/v1/messages` as the chat it asks for. Raises Refusal (400, `param` set)."""
    check_unthreaded(body)
    found = read_fields(body, _FIELDS, ("model", "max_tokens", "messages"), REFUSED)
    chat: dict[str, Any] = {"messages": [*found.get("system", []), *found["messages"]]}
    for field in ("model", "max_tokens", "stream", "temperature", "top_p", "top_k", "tools"):
        if field in found:
            chat[field] = found[field]
    if "stop_sequences" in found:
        chat["stop"] = found["stop_sequences"]
    chat |= found.get("tool_choice", {}) | found.get("output_config", {}) | found.get("thinking", {})
    with wording(NAMES):
        return read_chat(chat)


def read_count_body(body: dict[str, Any]) -> ChatRequest:
    """A body of `/v1/messages/count_tokens` as the chat whose prompt is counted. Raises Refusal (400, `param` set)."""
    counted = {field: reader for field, reader in _FIELDS.items() if field in COUNTED}
    read_fields(body, counted, ("model", "messages"), REFUSED)
    return read_messages_body(body | {"max_tokens": 1})


def _system(value: Any, param: str) -> list[dict[str, Any]]:
    return [{"role": "system", "content": _words(value, param)}]


def _words(value: Any, param: str) -> str:
    """A text, or text blocks joined by a line end."""
    if type(value) is str:
        return _text(value, param)
    texts = []
    for number_, block in enumerate(_blocks(value, param)):
        at = f"{param}[{number_}]"
        if block.get("type") != "text":
            raise unsupported(f"{at}.type", "messages carry text only ('type': 'text').")
        only(block, {"type", "text", "cache_control"}, at)
        texts.append(_text(block.get("text"), f"{at}.text"))
    return "\n".join(texts)


def _messages(value: Any, param: str) -> list[dict[str, Any]]:
    """The turns as OpenAI's messages: one of a user with tool results gives one message for each result."""
    return [message for turn in array(_turn, MAX_MESSAGES, 1)(value, param) for message in turn]


def _turn(value: Any, param: str) -> list[dict[str, Any]]:
    found = mapping(value, param)
    role = one_of("user", "assistant", "system")(found.get("role"), f"{param}.role")
    only(found, {"role", "content"}, param)
    content = found.get("content")
    if role == "system":
        return _system(content, f"{param}.content")
    if type(content) is str:
        return [{"role": role, "content": content}]
    made: list[dict[str, Any]] = [] if role == "user" else [{"role": role, "content": ""}]
    for number_, block in enumerate(_blocks(content, f"{param}.content")):
        at, kind = f"{param}.content[{number_}]", block.get("type")
        if type(kind) is not str or kind not in _BLOCKS[role]:
            raise unsupported(f"{at}.type", f"a turn of {role!r} carries {', '.join(_BLOCKS[role])} only.")
        _BLOCKS[role][kind](block, at, made)
    if not made:
        raise bad(f"{param}.content", f"'{param}.content' is empty.")
    return made


def _said(block: dict[str, Any], param: str, made: list[dict[str, Any]]) -> None:
    """A text block: goes on from the text before it, or begins a user's message."""
    only(block, {"type", "text", "cache_control", "citations"}, param)
    text = _text(block.get("text"), f"{param}.text")
    if made and made[-1]["role"] != "tool":
        made[-1]["content"] = "\n".join(filter(None, (made[-1]["content"], text)))
    else:
        made.append({"role": "user", "content": text})


def _result(block: dict[str, Any], param: str, made: list[dict[str, Any]]) -> None:
    only(block, {"type", "tool_use_id", "content", "is_error", "cache_control"}, param)
    content = block.get("content")
    text = "" if content is None else _words(content, f"{param}.content")
    failed = block.get("is_error") is not None and boolean(block["is_error"], f"{param}.is_error")
    used = _label(block.get("tool_use_id"), f"{param}.tool_use_id")
    made.append({"role": "tool", "tool_call_id": used, "content": f"Error: {text}" if failed else text})


def _use(block: dict[str, Any], param: str, made: list[dict[str, Any]]) -> None:
    only(block, {"type", "id", "name", "input", "cache_control", "caller"}, param)
    function = {
        "name": read_name(block.get("name"), f"{param}.name"),
        "arguments": json.dumps(mapping(block.get("input"), f"{param}.input"), ensure_ascii=False),
    }
    call = {"id": _label(block.get("id"), f"{param}.id"), "type": "function", "function": function}
    made[-1].setdefault("tool_calls", []).append(call)


def _thought(block: dict[str, Any], param: str, made: list[dict[str, Any]]) -> None:
    only(block, {"type", "thinking", "signature"}, param)
    made[-1]["reasoning_content"] = _text(block.get("thinking"), f"{param}.thinking")


_BLOCKS: dict[str, dict[str, Any]] = {
    "user": {"text": _said, "tool_result": _result},
    "assistant": {"text": _said, "tool_use": _use, "thinking": _thought},
}


def _thinking(value: Any, param: str) -> dict[str, Any]:
    found = mapping(value, param)
    kind = one_of("disabled", "adaptive", "enabled")(found.get("type"), f"{param}.type")
    if kind == "enabled":
        raise unsupported(f"{param}.budget_tokens", "models have no such budget; use 'adaptive'.")
    only(without_idle(found, _SHOWN, param), {"type"}, param)
    return {"reasoning_effort": "none"} if kind == "disabled" else {}


def _output_config(value: Any, param: str) -> dict[str, Any]:
    found = mapping(value, param)
    only(found, {"effort", "format"}, param)
    chat: dict[str, Any] = {}
    if found.get("effort") is not None:
        chat["reasoning_effort"] = one_of("low", "medium", "high", "xhigh", "max")(
            found["effort"], f"{param}.effort"
        )
    if found.get("format") is not None:
        wanted = mapping(found["format"], f"{param}.format")
        one_of("json_schema")(wanted.get("type"), f"{param}.format.type")
        only(wanted, {"type", "schema"}, f"{param}.format")
        schema = mapping(wanted.get("schema"), f"{param}.format.schema")
        chat["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    return chat


def check_unthreaded(body: Mapping[str, Any]) -> None:
    """Anthropic's own runner of tools asks for a thread first; by this code it knows to do without.

    Raises:
        Refusal: 400 naming `thread`.
    """
    if body.get("thread") is not None:
        raise bad("thread", f"'thread' is not supported here: {_NOT_HELD}", THREADLESS)


def _metadata(value: Any, param: str) -> None:
    found = mapping(value, param)
    only(found, {"user_id"}, param)
    if found.get("user_id") is not None:
        _label(found["user_id"], f"{param}.user_id")


def _cache_control(value: Any, param: str) -> None:
    one_of("ephemeral")(mapping(value, param).get("type"), f"{param}.type")


_FIELDS: dict[str, Reader[Any]] = {
    "model": string(MAX_MODEL_CHARS, 1),
    "max_tokens": integer(1, MAX_TOKENS),
    "messages": _messages,
    "system": _system,
    "stream": boolean,
    "temperature": number(0, 1),
    "top_p": number(0, 1),
    "top_k": integer(0, MAX_TOP_K),
    "stop_sequences": lambda value, param: list(array(string(MAX_STOP_CHARS, 1), MAX_STOPS)(value, param)),
    "tools": read_tools,
    "tool_choice": read_choice,
    "thinking": _thinking,
    "output_config": _output_config,
    "metadata": _metadata,
    "cache_control": _cache_control,
}
COUNTED = (
    "model",
    "messages",
    "system",
    "tools",
    "tool_choice",
    "thinking",
    "output_config",
    "cache_control",
)
"""The fields that a count may have."""
_NOT_HELD = "conversations are not held here; send all of its 'messages' each time."
_SHOWN: Refused = {"display": (("summarized",), "thoughts come as they are made.")}
"""Fields of `thinking` -> (values that ask for nothing, why not)."""
_BETA: Refused = {
    "billing_policy": ((), "a key belongs to one tenant, who pays."),
    "compaction": ((), _NOT_HELD),
    "context_management": (({"edits": []},), "nothing of a conversation is left out."),
    "fallback_credit_token": ((), "no other model takes a request over."),
    "fallbacks": (([],), "no other model takes a request over."),
    "mcp_servers": (([],), "no request reaches the network."),
    "thread": ((), _NOT_HELD),
}
"""What its beta has beside; unknown to external engines too."""
REFUSED: Refused = {
    **_BETA,
    "container": ((), "no code is run for a request."),
    "diagnostics": ((), "no diagnostics are returned."),
    "inference_geo": ((), "where a model is served is said when it is pushed."),
    "service_tier": (("auto", "standard_only"), "there is one tier."),
    "speed": (("standard",), "there is one speed."),
    "user_profile_id": ((), "there are no user profiles."),
    "workspace_id": ((), "a key belongs to one tenant."),
}
"""Anthropic's fields that are not honoured, its beta's too -> (values that ask for nothing, why not)."""

NAMES = (
    (r"messages.*", "messages"),
    (r"stop(\[.*)?", r"stop_sequences\1"),
    (r"response_format(?:\.json_schema)?(.*)", r"output_config.format\1"),
    (r"reasoning_effort", "output_config.effort"),
    (r"tools(\[\d+\])\.function\.parameters(.*)", r"tools\1.input_schema\2"),
    (r"tools(\[\d+\])\.function(.*)", r"tools\1\2"),
    (r"tool_choice\.function(.*)", r"tool_choice\1"),
    (r"parallel_tool_calls", "tool_choice.disable_parallel_tool_use"),
)
"""What the chat path calls a parameter -> what this route does (`wording.Names`)."""
NAMES_UNTHINKING = (("reasoning_effort", "thinking"), *NAMES)
"""Where the effort is `none`, which `thinking` alone can say."""


def names_of(chat: ChatRequest) -> Names:
    """The names for what is wrong with this chat."""
    return NAMES_UNTHINKING if chat.reasoning_effort == "none" else NAMES


MESSAGE_FIELDS = frozenset((*_FIELDS, *REFUSED)) - _BETA.keys()
"""Every parameter that this route knows, those it refuses included, but for its beta's."""

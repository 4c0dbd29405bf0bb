"""Chat messages: checked, and made into the plain dicts that chat templates know."""

from __future__ import annotations

import json
from typing import Any

from inference.api.fields import array, bad, mapping, one_of, only, string, unsupported

MAX_MESSAGES = 512
"""Longer conversations do not fit a context; each message costs template time."""
MAX_CONTENT_CHARS = 1024 * 1024
"""Characters in one message: no more than the body has bytes."""
MAX_PARTS = 256
"""Parts of one message's content."""
MAX_NAME_CHARS = 64
"""OpenAI's own bound on a participant's name."""

MAX_CALLS = 128
"""Calls in one message; as many as tools may be offered."""
MAX_ID_CHARS = 256
"""Of a call; ours have 29."""

_ROLES = ("system", "developer", "user", "assistant", "tool")
_EMPTY = ("refusal", "audio", "function_call", "annotations")
"""What clients echo back from an earlier answer; allowed while it holds nothing."""

_OWN = {"assistant": ("tool_calls", "reasoning_content", "parsed"), "tool": ("tool_call_id",)}
"""What only some roles have; `parsed` is what OpenAI's helper made of the content."""
_CALL_KEYS = {"id", "type", "function", "index"}
_FUNCTION_KEYS = {"name", "arguments", "parsed_arguments"}
"""Beside what is read: a streamed call's `index`, and what OpenAI's helper made of the arguments."""

_read_role = one_of(*_ROLES, "function")
_read_id = string(MAX_ID_CHARS, 1)
_read_text = string(MAX_CONTENT_CHARS)
_read_name = string(MAX_NAME_CHARS, 1)


def read_messages(value: Any, param: str) -> tuple[dict[str, Any], ...]:
    """The messages of a chat as {"role", "content"[, "name"]}; `developer` becomes `system`, its older name.

    Of calls, the arguments become the object that they are the text of, which is what templates read.

    Raises:
        Refusal: 400 naming the message and the field.
    """
    return array(_message, MAX_MESSAGES, 1)(value, param)


def _message(value: Any, param: str) -> dict[str, Any]:
    found = mapping(value, param)
    role = _read_role(found.get("role"), f"{param}.role")
    if role not in _ROLES:
        raise unsupported(f"{param}.role", "the role of a call's result is 'tool'.")
    _check_keys(found, param, _OWN.get(role, ()))
    message = {"role": "system" if role == "developer" else role, **_calls(found, param)}
    has_calls = "tool_calls" in message
    message["content"] = "" if has_calls and not found.get("content") else _content(found, f"{param}.content")
    if role == "tool":
        message["tool_call_id"] = _read_id(found.get("tool_call_id"), f"{param}.tool_call_id")
    if found.get("reasoning_content") is not None:
        message["reasoning_content"] = _read_text(found["reasoning_content"], f"{param}.reasoning_content")
    if found.get("name") is not None:
        message["name"] = _read_name(found["name"], f"{param}.name")
    return message


def _calls(found: dict[str, Any], param: str) -> dict[str, Any]:
    if found.get("tool_calls") in (None, []):
        return {}
    return {"tool_calls": list(array(_call, MAX_CALLS)(found["tool_calls"], f"{param}.tool_calls"))}


def _call(value: Any, param: str) -> dict[str, Any]:
    found = mapping(value, param)
    if found.get("type") != "function":
        raise unsupported(f"{param}.type", "calls are of functions ('type': 'function').")
    inner = mapping(found.get("function"), f"{param}.function")
    only(found, _CALL_KEYS, param)
    only(inner, _FUNCTION_KEYS, f"{param}.function")
    arguments = _read_text(inner.get("arguments"), f"{param}.function.arguments")
    function = {
        "name": _read_name(inner.get("name"), f"{param}.function.name"),
        "arguments": _object_or_text(arguments),
    }
    return {"id": _read_id(found.get("id"), f"{param}.id"), "type": "function", "function": function}


def _object_or_text(arguments: str) -> dict[str, Any] | str:
    """A model may have written arguments that are no JSON; the template gets them as they are."""
    try:
        value = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments


def _check_keys(found: dict[str, Any], param: str, own: tuple[str, ...]) -> None:
    for key, value in found.items():
        if key in {"role", "content", "name", *own}:
            continue
        if key not in {*_EMPTY, "tool_calls", "tool_call_id", "reasoning_content"}:
            raise bad(f"{param}.{key[:64]}", f"Unknown field {key[:64]!r} in {param!r}.", "unknown_parameter")
        if value not in (None, []):
            raise unsupported(f"{param}.{key}", "messages carry text only.")


def _content(message: dict[str, Any], param: str) -> str:
    """The text; parts are joined by a line end, as other servers do for templates that read strings."""
    value = message.get("content")
    if value is None:
        raise bad(
            param, f"{param!r} must be a string or an array of text parts.", "missing_required_parameter"
        )
    if type(value) is list:
        return "\n".join(array(_part, MAX_PARTS, 1)(value, param))
    return _read_text(value, param)


def _part(value: Any, param: str) -> str:
    found = mapping(value, param)
    if found.get("type") != "text":
        raise unsupported(f"{param}.type", "messages carry text only ('type': 'text').")
    only(found, {"type", "text"}, param)
    return _read_text(found.get("text"), f"{param}.text")

"""Chat messages: checked, and made into the plain dicts that chat templates know."""

from __future__ import annotations

from typing import Any

from inference.api.fields import array, bad, mapping, one_of, string, unsupported

MAX_MESSAGES = 512
"""Longer conversations do not fit a context; each message costs template time."""
MAX_CONTENT_CHARS = 1024 * 1024
"""Characters in one message: no more than the body has bytes."""
MAX_PARTS = 256
"""Parts of one message's content."""
MAX_NAME_CHARS = 64
"""OpenAI's own bound on a participant's name."""

_ROLES = ("system", "developer", "user", "assistant")
_EMPTY = ("refusal", "audio", "function_call", "tool_calls", "annotations", "tool_call_id")
"""What clients echo back from an earlier answer; allowed while it holds nothing."""

_read_role = one_of(*_ROLES, "tool", "function")
_read_text = string(MAX_CONTENT_CHARS)
_read_name = string(MAX_NAME_CHARS, 1)


def read_messages(value: Any, param: str) -> tuple[dict[str, Any], ...]:
    """The messages of a chat as {"role", "content"[, "name"]}; `developer` becomes `system`, its older name.

    Raises:
        Refusal: 400 naming the message and the field.
    """
    return array(_message, MAX_MESSAGES, 1)(value, param)


def _message(value: Any, param: str) -> dict[str, Any]:
    found = mapping(value, param)
    role = _read_role(found.get("role"), f"{param}.role")
    if role not in _ROLES:
        raise unsupported(f"{param}.role", "tool calls are not offered yet; put results into a user message.")
    _check_keys(found, param)
    message = {
        "role": "system" if role == "developer" else role,
        "content": _content(found, f"{param}.content"),
    }
    if found.get("name") is not None:
        message["name"] = _read_name(found["name"], f"{param}.name")
    return message


def _check_keys(found: dict[str, Any], param: str) -> None:
    for key, value in found.items():
        if key in {"role", "content", "name"}:
            continue
        if key not in _EMPTY:
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
    for key in found:
        if key not in {"type", "text"}:
            raise bad(f"{param}.{key[:64]}", f"Unknown field {key[:64]!r} in {param!r}.", "unknown_parameter")
    return _read_text(found.get("text"), f"{param}.text")

"""`prediction`: what the caller expects of the answer (OpenAI's predicted outputs), for an engine to guess by."""

from __future__ import annotations

from typing import Any

from inference.api.fields import array, bad, mapping, string

MAX_CHARS = 1024 * 1024
"""No more than a body has bytes."""
MAX_PARTS = 256
_text = string(MAX_CHARS)


def read_prediction(value: Any, param: str) -> str:
    """The text of `{"type": "content", "content": a text or parts of one}`. Raises Refusal (400)."""
    found = mapping(value, param)
    _only(found, ("type", "content"), param)
    if found.get("type") != "content":
        raise bad(f"{param}.type", f"'{param}.type' must be 'content'.")
    content, where = found.get("content"), f"{param}.content"
    if isinstance(content, str):
        return _text(content, where)
    return "".join(array(_part, MAX_PARTS)(content, where))


def _part(value: Any, param: str) -> str:
    found = mapping(value, param)
    _only(found, ("type", "text"), param)
    if found.get("type") != "text":
        raise bad(f"{param}.type", f"'{param}.type' must be 'text'.")
    return _text(found.get("text"), f"{param}.text")


def _only(found: dict[str, Any], names: tuple[str, ...], param: str) -> None:
    for name in found:
        if name not in names:
            raise bad(
                f"{param}.{name[:64]}", f"Unknown parameter: '{param}.{name[:64]}'.", "unknown_parameter"
            )

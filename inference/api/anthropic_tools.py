"""Tools as Anthropic writes them, as the chat path reads them; and how this route reads an object's fields."""

from __future__ import annotations

from typing import Any

from inference.api.fields import array, bad, boolean, mapping, one_of, string, unsupported
from inference.api.messages import MAX_CONTENT_CHARS
from inference.api.tools import MAX_TOOLS, read_name

Refused = dict[str, tuple[tuple[Any, ...], str]]
_text = string(MAX_CONTENT_CHARS)
_IDLE: Refused = {
    "allowed_callers": ((["direct"],), "tools are called by the answer alone."),
    "defer_loading": ((False,), "every tool is shown to the model at once."),
    "eager_input_streaming": ((True,), "arguments are streamed as they are made."),
    "input_examples": (
        ([],),
        "chat templates show a function's schema only; put examples in its description.",
    ),
}
"""Fields of a tool -> (values that ask for nothing, why not). Arguments come eagerly in any case."""


def only(found: dict[str, Any], known: set[str], param: str) -> None:
    """Raises Refusal (400) for a field that is not known, and is not null."""
    for key, value in found.items():
        if key not in known and value is not None:
            raise bad(f"{param}.{key[:64]}", f"Unknown field {key[:64]!r} in {param!r}.", "unknown_parameter")


def without_idle(found: dict[str, Any], refused: Refused, param: str) -> dict[str, Any]:
    """An object without its fields that ask for nothing. Raises Refusal (400) for such a field that asks for more."""
    for field, (neutral, why) in refused.items():
        value = found.get(field)
        if value is not None and not any(type(value) is type(idle) and value == idle for idle in neutral):
            raise unsupported(f"{param}.{field}", why)
    return {field: value for field, value in found.items() if field not in refused}


def read_tools(value: Any, param: str) -> list[dict[str, Any]]:
    """Anthropic's `tools` as OpenAI's. Raises Refusal (400)."""
    return list(array(_tool, MAX_TOOLS)(value, param))


def _tool(value: Any, param: str) -> dict[str, Any]:
    found = mapping(value, param)
    if found.get("type") not in (None, "custom"):
        raise unsupported(f"{param}.type", "tools are functions that the client runs ('type': 'custom').")
    known = {"type", "name", "description", "input_schema", "strict", "cache_control"}
    only(without_idle(found, _IDLE, param), known, param)
    function = {
        "name": read_name(found.get("name"), f"{param}.name"),
        "description": None
        if found.get("description") is None
        else _text(found["description"], f"{param}.description"),
        "parameters": mapping(found.get("input_schema"), f"{param}.input_schema"),
        "strict": None if found.get("strict") is None else boolean(found["strict"], f"{param}.strict"),
    }
    return {"type": "function", "function": function}


def read_choice(value: Any, param: str) -> dict[str, Any]:
    """Anthropic's `tool_choice` as the fields of a chat that say it. Raises Refusal (400)."""
    found = mapping(value, param)
    kind = one_of("auto", "any", "tool", "none")(found.get("type"), f"{param}.type")
    only(found, {"type", "name", "disable_parallel_tool_use"}, param)
    choice: Any = {"any": "required"}.get(kind, kind)
    if kind == "tool":
        choice = {"type": "function", "function": {"name": read_name(found.get("name"), f"{param}.name")}}
    alone = found.get("disable_parallel_tool_use")
    single = alone is not None and boolean(alone, f"{param}.disable_parallel_tool_use")
    return {"tool_choice": choice} | ({"parallel_tool_calls": False} if single else {})

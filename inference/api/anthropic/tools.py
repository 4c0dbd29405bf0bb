"""Tools as Anthropic writes them, as the chat path reads them."""

from __future__ import annotations

from typing import Any

from inference.api.fields import array, boolean, mapping, one_of, only, string, unsupported
from inference.api.request.messages import MAX_CONTENT_CHARS
from inference.api.request.tools import MAX_TOOLS, read_name
from inference.api.route_fields import Refused, without_idle

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

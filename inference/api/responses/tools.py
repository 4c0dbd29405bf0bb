"""Tools as OpenAI's Responses have them, as the chat path reads them."""

from __future__ import annotations

from typing import Any

from inference.api.fields import array, mapping, one_of, only, unsupported
from inference.api.request.tools import MAX_TOOLS, read_name
from inference.api.route_fields import Refused, without_idle

_IDLE: Refused = {
    "allowed_callers": ((["direct"],), "tools are called by the answer alone."),
    "async": ((False,), "a call is answered by the next request."),
    "defer_loading": ((False,), "every tool is shown to the model at once."),
    "output_schema": ((), "results are not checked; say in the description what they are."),
}
"""Fields of a tool -> (values that ask for nothing, why not)."""


def read_tools(value: Any, param: str) -> list[dict[str, Any]]:
    """The `tools` of Responses as those of a chat. Raises Refusal (400)."""
    return list(array(_tool, MAX_TOOLS)(value, param))


def _tool(value: Any, param: str) -> dict[str, Any]:
    found = mapping(value, param)
    if found.get("type") != "function":
        raise unsupported(f"{param}.type", "tools are functions that the client runs ('type': 'function').")
    told = without_idle(found, _IDLE, param)
    only(told, {"type", "name", "description", "parameters", "strict"}, param)
    return {"type": "function", "function": {key: one for key, one in told.items() if key != "type"}}


def read_choice(value: Any, param: str) -> Any:
    """The `tool_choice` of Responses as that of a chat. Raises Refusal (400)."""
    if type(value) is str:
        return one_of("none", "auto", "required")(value, param)
    found = mapping(value, param)
    if one_of("function", "allowed_tools")(found.get("type"), f"{param}.type") == "function":
        only(found, {"type", "name"}, param)
        return {"type": "function", "function": {"name": read_name(found.get("name"), f"{param}.name")}}
    only(found, {"type", "mode", "tools"}, param)
    named = array(_named_tool, MAX_TOOLS, 1)(found.get("tools"), f"{param}.tools")
    return {"type": "allowed_tools", "allowed_tools": {"mode": found.get("mode"), "tools": list(named)}}


def _named_tool(value: Any, param: str) -> dict[str, Any]:
    found = mapping(value, param)
    only(found, {"type", "name"}, param)
    return {"type": found.get("type"), "function": {"name": read_name(found.get("name"), f"{param}.name")}}

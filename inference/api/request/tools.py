"""Tools of a chat: what a request offers and wants, and how its model writes calls."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from inference.api.fields import array, bad, boolean, mapping, one_of, only, string, unsupported
from inference.api.text.toolcalls import THINK_CLOSE, Markers
from wire.refused.refusal import Refusal

MAX_TOOLS = 128
"""OpenAI's own bound."""
MAX_DESCRIPTION_CHARS = 64 * 1024
"""All tools are in one body of a MiB."""
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
"""OpenAI's own form of a function's name."""
FORMATS = (
    Markers("mistral", "[TOOL_CALLS]", "", is_list=True),
    Markers("hermes", "<tool_call>", "</tool_call>"),
    Markers("llama", "<|python_tag|>", "", "parameters", bare=True),
)
"""The formats that are read, the most telling first; a template that names a format's opening writes it."""
LLAMA_SIGN = '"parameters": dictionary of argument name'
"""What Llama 3's templates say; only those of 3.1 name the tag too."""
OTHER_SIGNS = ("<function=", "[ARGS]", "<|tool_calls_section_begin|>", "<|channel|>")
"""Templates whose calls are written otherwise: not read, so refused."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function as the template is shown it; `parameters` is its schema."""

    name: str
    parameters: dict[str, Any]
    strict: bool
    shown: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools that may be called. `must`: at least one call and nothing else; `is_single`: at most one call."""

    tools: tuple[Tool, ...]
    must: bool = False
    is_single: bool = False


def read_tools(value: Any, param: str) -> tuple[Tool, ...]:
    """OpenAI's `tools`. Raises Refusal (400)."""
    tools = array(_tool, MAX_TOOLS)(value, param)
    names = [tool.name for tool in tools]
    if len(set(names)) != len(names):
        raise bad(param, f"{param!r} has two functions of one name.")
    return tools


def _tool(value: Any, param: str) -> Tool:
    found = mapping(value, param)
    if found.get("type") != "function":
        raise unsupported(f"{param}.type", "tools are functions that the client runs ('type': 'function').")
    only(found, {"type", "function"}, param)
    inner = mapping(found.get("function"), f"{param}.function")
    only(inner, {"name", "description", "parameters", "strict"}, f"{param}.function")
    name = read_name(inner.get("name"), f"{param}.function.name")
    parameters = inner.get("parameters")
    schema = {} if parameters is None else mapping(parameters, f"{param}.function.parameters")
    shown: dict[str, Any] = {"name": name}
    if inner.get("description") is not None:
        read = string(MAX_DESCRIPTION_CHARS)
        shown["description"] = read(inner["description"], f"{param}.function.description")
    shown["parameters"] = schema or {"type": "object", "properties": {}}
    strict = inner.get("strict") is not None and boolean(inner["strict"], f"{param}.function.strict")
    return Tool(name, schema, strict, {"type": "function", "function": shown})


def read_name(value: Any, param: str) -> str:
    """A function's name."""
    name = string(64, 1)(value, param)
    if not NAME.match(name):
        raise bad(param, f"{param!r} may have letters, digits, '_' and '-' only.")
    return name


def read_tool_choice(value: Any, param: str) -> dict[str, Any]:
    """OpenAI's `tool_choice` as {"mode", "names" or None}: `auto`, `none` or `required` of these functions."""
    if type(value) is str:
        return {"mode": one_of("none", "auto", "required")(value, param), "names": None}
    found = mapping(value, param)
    kind = one_of("function", "allowed_tools")(found.get("type"), f"{param}.type")
    only(found, {"type", kind}, param)
    inner = mapping(found.get(kind), f"{param}.{kind}")
    if kind == "function":
        only(inner, {"name"}, f"{param}.function")
        return {"mode": "required", "names": (read_name(inner.get("name"), f"{param}.function.name"),)}
    only(inner, {"mode", "tools"}, f"{param}.allowed_tools")
    allowed = array(_allowed_name, MAX_TOOLS, 1)(inner.get("tools"), f"{param}.allowed_tools.tools")
    mode = one_of("auto", "required")(inner.get("mode"), f"{param}.allowed_tools.mode")
    return {"mode": mode, "names": allowed}


def _allowed_name(value: Any, param: str) -> str:
    found = mapping(value, param)
    if found.get("type") != "function":
        raise unsupported(f"{param}.type", "tools are functions ('type': 'function').")
    return read_name(
        mapping(found.get("function"), f"{param}.function").get("name"), f"{param}.function.name"
    )


def tool_use(found: dict[str, Any]) -> ToolUse | None:
    """What a chat's fields say together; None when no tool may be called. Raises Refusal (400)."""
    tools: tuple[Tool, ...] = found.get("tools") or ()
    choice = found.get("tool_choice", {"mode": "auto", "names": None})
    if not tools:
        if choice["mode"] == "required" or choice["names"] is not None:
            raise bad("tool_choice", "'tool_choice' needs 'tools'.")
        if found.get("parallel_tool_calls") is False and choice["mode"] != "none":
            raise bad("parallel_tool_calls", "'parallel_tool_calls' needs 'tools'.")
        return None
    if choice["names"] is not None:
        known = {tool.name: tool for tool in tools}
        unknown = [name for name in choice["names"] if name not in known]
        if unknown:
            raise bad("tool_choice", f"'tool_choice' names {unknown[0]!r}, which is not in 'tools'.")
        tools = tuple(known[name] for name in dict.fromkeys(choice["names"]))
    if choice["mode"] == "none":
        return None
    must = choice["mode"] == "required"
    named_one = isinstance(choice["names"], tuple) and len(choice["names"]) == 1 and must
    return ToolUse(tools, must, found.get("parallel_tool_calls") is False or named_one)


def markers_of(template: str) -> Markers | None:
    """How a model with this chat template writes calls; None when it does not, or in no way that is read here."""
    if "tools" not in template or any(sign in template for sign in OTHER_SIGNS):
        return None
    named = [markers for markers in FORMATS if markers.opening in template]
    if named:
        return named[0]
    return FORMATS[-1] if LLAMA_SIGN in template else None


def thinks(template: str) -> bool:
    """Whether a model with this chat template marks its thoughts."""
    return THINK_CLOSE in template


def no_tools(model: str) -> Refusal:
    """For a model that was not made to call tools, or does so in a format that is not read here."""
    message = (
        f"{model} has no chat template that offers tools in a format that is read here "
        f"({', '.join(markers.name for markers in FORMATS)}). Describe the tools in a message instead."
    )
    return Refusal(400, "unsupported_parameter", message, param="tools")

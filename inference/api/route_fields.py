"""A route's body by the table of the fields that it reads, and OpenAI's fields that no route honours.

A field that is OpenAI's but not ours is refused unless its value asks for nothing (`tools: null`, `store: false`);
anything else is unknown, and refused with a suggestion.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from inference.api.fields import Reader, bad, unsupported

if TYPE_CHECKING:
    from collections.abc import Mapping

_TOOLS = "functions are called by 'tools' and 'tool_choice', which took this one's place."
_REASONING = (
    "the models served here have no such setting; use chat_template_kwargs if the model's template has."
)
_LEGACY = "this route answers in plain text; use /v1/chat/completions."
Refused = dict[str, tuple[tuple[Any, ...], str]]
"""Fields that are not honoured -> (values that ask for nothing, why not)."""
REFUSED: Refused = {
    "tools": (([],), _LEGACY),
    "tool_choice": (("none",), _LEGACY),
    "parallel_tool_calls": ((), _LEGACY),
    "functions": (([],), _TOOLS),
    "function_call": (("none",), _TOOLS),
    "store": ((False,), "answers are not kept."),
    "service_tier": (("auto", "default"), "there is one tier."),
    "modalities": ((["text"],), "models answer in text only."),
    "audio": ((), "models answer in text only."),
    "prediction": ((), _LEGACY),
    "reasoning_effort": (("none",), _LEGACY),
    "verbosity": ((), _REASONING),
    "web_search_options": ((), "no request reaches the network."),
    "moderation": ((), "no moderation model runs beside the answer."),
    "prompt_cache_retention": ((), "prompts are not kept between requests."),
    "prompt_cache_options": ((), "prompts are not kept between requests."),
    "continue_final_message": ((False,), "use /v1/completions with the rendered prompt."),
    "suffix": (("",), "the model writes on from the prompt only."),
}
"""OpenAI's."""


def read_fields(
    body: dict[str, Any],
    table: dict[str, Reader[Any]],
    required: tuple[str, ...],
    refused: Mapping[str, tuple[tuple[Any, ...], str]] = REFUSED,
) -> dict[str, Any]:
    """The fields that are there and not null, each one read; null is what the client sends for 'not given'."""
    found: dict[str, Any] = {}
    for field, value in body.items():
        if field in table:
            if value is not None:
                found[field] = table[field](value, field)
        else:
            _check_neutral(field, value, table, refused)
    for field in required:
        if field not in found:
            raise bad(field, f"Missing required parameter: {field!r}.", "missing_required_parameter")
    return found


def _check_neutral(
    field: str,
    value: Any,
    table: dict[str, Reader[Any]],
    refused: Mapping[str, tuple[tuple[Any, ...], str]],
) -> None:
    if field in refused:
        neutral, why = refused[field]
        if not _is_idle(value, neutral):
            raise unsupported(field, why)
        return
    shown = field[:64]
    close = difflib.get_close_matches(shown, table, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise bad(shown, f"Unknown parameter: {shown!r}.{hint}", "unknown_parameter")


def _is_idle(value: Any, neutral: tuple[Any, ...]) -> bool:
    return value is None or any(type(value) is type(idle) and value == idle for idle in neutral)


def without_idle(found: dict[str, Any], refused: Refused, param: str) -> dict[str, Any]:
    """An object without its fields that ask for nothing. Raises Refusal (400) for such a field that asks for more."""
    for field, (neutral, why) in refused.items():
        if not _is_idle(found.get(field), neutral):
            raise unsupported(f"{param}.{field}", why)
    return {field: value for field, value in found.items() if field not in refused}

"""What an external engine answers, made into what our users get: names, counts and errors. Pure.

Rule 1: the model's name is ours, everywhere it stands; the engine's own paths are never shown.
Rule 2: an error has one shape, ours, whatever shape it came in; its status says whose fault it is.
Rule 3: token counts are the engine's own; of a stream they are asked for even where the user did not.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wire.refused.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_MESSAGE_CHARS = 1_000
_CONTEXT = re.compile(
    r"context|max(imum)?[ _]*(model|sequence|input|prompt)?[ _-]*len|too long|too many tokens", re.IGNORECASE
)
_PARAMETER = re.compile(r"[a-z_]{1,64}(?:\[\d+\])?\Z")
_THEIRS = {400: 400, 409: 400, 413: 413, 415: 400, 422: 400, 429: 429, 503: 503}
"""Statuses that say something of the request or of the moment; any other is the engine's own fault."""
_KINDS = {429: "rate_limit_error", 503: "server_error", 502: "server_error", 404: "invalid_request_error"}
_CODES = {400: "bad_request", 404: "not_found", 413: "body_too_large", 429: "overloaded", 503: "overloaded"}
ENGINE_FAILED = "engine_failed"


@dataclass(frozen=True, slots=True)
class Counts:
    """Tokens of one answer, as the engine counted them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


def counts_of(value: Mapping[str, Any]) -> Counts | None:
    """The usage in an answer or an event, of chats, completions, Responses or Messages; None if there is none."""
    inner = value.get("response") or value.get("message")
    usage = value.get("usage") or (inner.get("usage") if isinstance(inner, dict) else None)
    if not isinstance(usage, dict):
        return None
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
    cached = (
        details.get("cached_tokens") if isinstance(details, dict) else usage.get("cache_read_input_tokens")
    )
    numbers = (
        usage.get("prompt_tokens", usage.get("input_tokens")),
        usage.get("completion_tokens", usage.get("output_tokens")),
        cached,
    )
    return Counts(*(number if type(number) is int and number >= 0 else 0 for number in numbers))


def renamed(value: dict[str, Any], model: str) -> dict[str, Any]:
    """The same answer with our name of the model, where it has one."""
    for key in ("response", "message"):
        if isinstance(value.get(key), dict):
            value[key] = renamed(value[key], model)
    return value | {"model": model} if "model" in value else value


def refusal_of(status: int, body: bytes, model: str, folder: str) -> Refusal:
    """An answer that is none, as a refusal; `folder` is where the model lies for the engine."""
    message, param, code = _said(body)
    message = shown(message.replace(folder, model)) or f"The engine answered with status {status}."
    if status == 404:
        return Refusal(
            404, "not_found", f"The engine of {model} does not serve this route or model: {message}"
        )
    ours = _THEIRS.get(status, 502)
    if ours == 502:
        return failed(f"The engine of {model} failed at this request (status {status}): {message}")
    if ours == 400 and _CONTEXT.search(f"{code} {message}"):
        return Refusal(400, "context_length_exceeded", message, param=param)
    kind = _KINDS.get(ours, "invalid_request_error")
    return Refusal(ours, _CODES[ours], message, kind, param, 1.0 if ours in {429, 503} else None)


def failed(message: str) -> Refusal:
    """The engine did not do what an engine does."""
    return Refusal(502, ENGINE_FAILED, shown(message), "server_error")


def error_in(value: Mapping[str, Any], model: str, folder: str) -> Refusal | None:
    """The error that an event carries instead of an answer, if it does."""
    if value.get("error") in (None, "", {}, []) and value.get("type") != "error":
        return None
    message, param, code = _said(json.dumps(value).encode())
    status = 400 if _CONTEXT.search(f"{code} {message}") else 502
    if status == 400:
        return Refusal(400, "context_length_exceeded", shown(message.replace(folder, model)), param=param)
    return failed(f"The engine of {model} failed: {message.replace(folder, model)}")


def shown(text: str) -> str:
    """Words from outside as an error may hold them: bounded, no control characters."""
    return "".join(mark if mark.isprintable() else " " for mark in text[:MAX_MESSAGE_CHARS]).strip()


def _said(body: bytes) -> tuple[str, str | None, str]:
    """(message, parameter, code) in any of the shapes that servers have; FastAPI's list of faults is one."""
    try:
        value: Any = json.loads(body)
    except (ValueError, RecursionError):
        return body[:MAX_MESSAGE_CHARS].decode("utf-8", "replace"), None, ""
    for _ in range(4):
        if isinstance(value, list):
            value = value[0] if value else ""
        if not isinstance(value, dict):
            break
        inner = next((value[key] for key in ("error", "detail", "message", "msg") if value.get(key)), "")
        if isinstance(inner, str):
            return inner, _param(value), str(value.get("code") or "")
        value = inner
    return str(value), None, ""


def _param(value: Mapping[str, Any]) -> str | None:
    """The parameter at fault: named, or the end of FastAPI's `loc`."""
    place = value.get("loc")
    named = value.get("param") or (place[-1] if isinstance(place, list) and place else None)
    return named if isinstance(named, str) and _PARAMETER.match(named) else None

"""Readers of single request fields: a JSON value in, a checked value out, or a 400 that names the field."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

from wire.refused.refusal import Refusal

T = TypeVar("T")
Reader = Callable[[Any, str], T]


def bad(param: str, message: str, code: str = "invalid_value") -> Refusal:
    """The 400 for one field; `param` is its path as OpenAI writes it (`messages[2].content`)."""
    return Refusal(400, code, message, param=param)


def unsupported(param: str, why: str) -> Refusal:
    """The 400 for a field that is OpenAI's but that this platform does not honour."""
    return bad(param, f"{param!r} is not supported here: {why}", "unsupported_parameter")


def number(least: float, most: float) -> Reader[float]:
    """Reads a finite number (an int is one) in [least, most]."""

    def read(value: Any, param: str) -> float:
        if type(value) not in (int, float) or not math.isfinite(value):
            raise bad(param, f"{param!r} must be a number.", "invalid_type")
        if not least <= value <= most:
            raise bad(param, f"{param!r} must be between {least:g} and {most:g}; it is {value:g}.")
        return float(value)

    return read


def integer(least: int, most: int) -> Reader[int]:
    """Reads an integer in [least, most]; true and 1.0 are not integers."""

    def read(value: Any, param: str) -> int:
        if type(value) is not int:
            raise bad(param, f"{param!r} must be an integer.", "invalid_type")
        if not least <= value <= most:
            raise bad(param, f"{param!r} must be between {least} and {most}; it is {value}.")
        return value

    return read


def boolean(value: Any, param: str) -> bool:
    """Reads true or false."""
    if type(value) is not bool:
        raise bad(param, f"{param!r} must be true or false.", "invalid_type")
    return value


def string(most_chars: int, least_chars: int = 0) -> Reader[str]:
    """Reads a string of bounded length (characters)."""

    def read(value: Any, param: str) -> str:
        if type(value) is not str:
            raise bad(param, f"{param!r} must be a string.", "invalid_type")
        if not least_chars <= len(value) <= most_chars:
            raise bad(
                param,
                f"{param!r} must have {least_chars} to {most_chars:,} characters; it has {len(value):,}.",
            )
        return value

    return read


def one_of(*words: str) -> Reader[str]:
    """Reads one of a few words."""

    def read(value: Any, param: str) -> str:
        if type(value) is not str or value not in words:
            raise bad(param, f"{param!r} must be one of {', '.join(words)}.")
        return value

    return read


def array(of: Reader[T], most: int, least: int = 0) -> Reader[tuple[T, ...]]:
    """Reads a list of bounded length, each item by `of`."""

    def read(value: Any, param: str) -> tuple[T, ...]:
        if type(value) is not list:
            raise bad(param, f"{param!r} must be an array.", "invalid_type")
        if not least <= len(value) <= most:
            raise bad(param, f"{param!r} must have {least} to {most:,} items; it has {len(value):,}.")
        return tuple(of(item, f"{param}[{index}]") for index, item in enumerate(value))

    return read


def mapping(value: Any, param: str) -> dict[str, Any]:
    """Reads an object, its values unread."""
    if type(value) is not dict:
        raise bad(param, f"{param!r} must be an object.", "invalid_type")
    return value


def only(found: dict[str, Any], known: set[str], param: str) -> None:
    """Refuse, by its name, a field of an object that is neither known nor null."""
    for key, value in found.items():
        if key not in known and value is not None:
            raise bad(f"{param}.{key[:64]}", f"Unknown field {key[:64]!r} in {param!r}.", "unknown_parameter")


def token_ids(most: int) -> Reader[tuple[int, ...]]:
    """Reads a non-empty list of token ids (0 or more) without a call per item."""

    def read(value: Any, param: str) -> tuple[int, ...]:
        if type(value) is not list or not value or len(value) > most:
            raise bad(param, f"{param!r} must be an array of 1 to {most:,} token ids.")
        if any(type(item) is not int or item < 0 for item in value):
            raise bad(param, f"{param!r} must hold token ids only: integers of 0 or more.", "invalid_type")
        return tuple(value)

    return read

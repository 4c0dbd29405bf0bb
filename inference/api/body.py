"""Request bodies: bytes in, one strict JSON object out.

`json.loads` alone takes NaN, duplicate keys (last wins) and any nesting it can stand, and lets lone
surrogates through that no tokenizer can read; all of these are refused here, once, for every route.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from wire.refused.refusal import Refusal

MAX_BODY_BYTES = 1024 * 1024
"""The edge buffers at most as much; a million bytes of text is more than any context we serve."""
MAX_DEPTH = 32
"""Chat bodies nest about 6 deep; tool schemas of real clients about 12."""
MAX_INT_DIGITS = 20
"""64-bit integers have 19; Python would parse thousands in quadratic time."""


def read_object(data: bytes, max_bytes: int = MAX_BODY_BYTES) -> dict[str, Any]:
    """The JSON object in `data`.

    Raises:
        Refusal: 413 over `max_bytes`; 400 when it is not UTF-8, not strict JSON, not an object, deeper than
            `MAX_DEPTH`, names a key twice, or holds NaN, Infinity or half a surrogate pair.
    """
    if len(data) > max_bytes:
        raise Refusal(
            413, "body_too_large", f"The body has {len(data):,} bytes; at most {max_bytes:,} are read."
        )
    value = _parse(data)
    if not isinstance(value, dict):
        raise _bad("it is not an object")
    _check_depth(value)
    if b"\\ud" in data or b"\\uD" in data:
        _check_surrogates(value)
    return value


def _bad(why: str) -> Refusal:
    return Refusal(400, "bad_request", f"The body is not the JSON this route reads: {why}.")


def _parse(data: bytes) -> object:
    try:
        return json.loads(
            data.decode(), object_pairs_hook=_unique, parse_constant=_no_constant, parse_int=_bounded_int
        )
    except UnicodeDecodeError as cause:
        raise _bad(f"byte {cause.start} is not UTF-8") from cause
    except RecursionError as cause:
        raise _bad(f"it nests deeper than {MAX_DEPTH}") from cause
    except ValueError as cause:
        raise _bad(str(cause)) from cause


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise _bad("an object names a key twice")
    return value


def _no_constant(name: str) -> NoReturn:
    raise _bad(f"{name} is not a JSON number")


def _bounded_int(digits: str) -> int:
    if len(digits) > MAX_INT_DIGITS:
        raise _bad(f"an integer has more than {MAX_INT_DIGITS} digits")
    return int(digits)


def _check_depth(value: object) -> None:
    """Level by level, touching containers only: a megabyte of small lists costs milliseconds."""
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for holder in level
            for item in (holder.values() if type(holder) is dict else holder)
            if type(item) in (dict, list)
        ]
        if not level:
            return
    raise _bad(f"it nests deeper than {MAX_DEPTH}")


def _check_surrogates(value: object) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as cause:
        raise _bad("a string holds half of a surrogate pair") from cause

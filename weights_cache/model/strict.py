"""JSON from outside, read strictly: one value or one sentence that says what is wrong with it.

`json.loads` takes duplicate keys (last wins), NaN, integers of thousands of digits and nesting that overflows
the stack. A `Table` names the fields of an object and how each one is read; nothing else may be there.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

Reader = Callable[[object, str], Any]
Table = Mapping[str, Reader]

MAX_INT = 2**53 - 1  # what every JSON reader keeps exactly; 8 PiB as bytes
MAX_INT_DIGITS = 16  # of MAX_INT; Python refuses long integers only after 4,300 digits
_HEX = re.compile(r"[0-9a-f]+\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


class StrictError(ValueError):
    """The bytes or the value are not what the table says. The message names the place."""


def parse(data: bytes, max_bytes: int) -> object:
    """The value of UTF-8 JSON `data` (at most `max_bytes`). Raises StrictError, never anything else."""
    if len(data) > max_bytes:
        raise StrictError(f"{len(data):,} bytes of JSON, at most {max_bytes:,} are read")
    try:
        return json.loads(
            data.decode(),
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_int=_bounded_int,
        )
    except StrictError:
        raise
    except UnicodeDecodeError as error:
        raise StrictError(f"not UTF-8 at byte {error.start}") from error
    except RecursionError as error:
        raise StrictError("nested too deeply") from error
    except ValueError as error:
        raise StrictError(f"not JSON: {error}") from error


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise StrictError("an object names a key twice")
    return value


def _no_constant(text: str) -> object:
    raise StrictError(f"{text} is not a JSON number")


def _bounded_int(text: str) -> int:
    if len(text.lstrip("-")) > MAX_INT_DIGITS:
        raise StrictError("an integer is longer than 16 digits")
    return int(text)


def fields(value: object, table: Table, where: str) -> dict[str, Any]:
    """The fields of an object whose keys are exactly those of `table`, each one read by its reader."""
    if not isinstance(value, dict):
        raise StrictError(f"{where} is not an object")
    for key in value:
        if key not in table:
            raise StrictError(f"{where} has an unknown field {str(key)[:80]!r}")
    for key in table:
        if key not in value:
            raise StrictError(f"{where} lacks the field {key!r}")
    return {key: read(value[key], f"{where}.{key}") for key, read in table.items()}


def integer(least: int = 0, most: int = MAX_INT) -> Reader:
    """A reader of integers (no bool, no 1.0) within bounds."""

    def read(value: object, where: str) -> int:
        if type(value) is not int or not least <= value <= most:
            raise StrictError(f"{where} is not an integer from {least} to {most}")
        return value

    return read


def number(least: float, most: float) -> Reader:
    """A reader of finite numbers within bounds, given back as float."""

    def read(value: object, where: str) -> float:
        if type(value) not in {int, float} or not least <= value <= most:  # type: ignore[operator]
            raise StrictError(f"{where} is not a number from {least} to {most}")
        return float(value)  # type: ignore[arg-type]

    return read


def boolean(value: object, where: str) -> bool:
    """True or false, nothing that merely looks like it."""
    if type(value) is not bool:
        raise StrictError(f"{where} is not true or false")
    return value


def text(max_chars: int, pattern: str | None = None, shape_in_words: str = "") -> Reader:
    """A reader of strings without control characters or lone surrogates, of 0 to `max_chars` characters.

    `shape_in_words` is what people read in the place of a pattern that says them nothing.
    """
    shape = re.compile(pattern) if pattern else None

    def read(value: object, where: str) -> str:
        if not isinstance(value, str) or len(value) > max_chars or _CONTROL.search(value):
            raise StrictError(f"{where} is not a plain text of at most {max_chars} characters")
        if shape and not shape.fullmatch(value):
            raise StrictError(
                f"{where} is not {shape_in_words}" if shape_in_words else f"{where} does not match {pattern}"
            )
        return value

    return read


def hexadecimal(num_chars: int) -> Reader:
    """A reader of lower-case hex strings of one length."""

    def read(value: object, where: str) -> str:
        if not isinstance(value, str) or len(value) != num_chars or not _HEX.match(value):
            raise StrictError(f"{where} is not {num_chars} hex digits")
        return value

    return read


def one_of(*choices: str | None) -> Reader:
    """A reader of a closed list of strings (or null)."""

    def read(value: object, where: str) -> str | None:
        if value is not None and not isinstance(value, str):
            raise StrictError(f"{where} is not a text")
        if value not in choices:
            raise StrictError(f"{where} is not one of {', '.join(map(str, choices))}")
        return value

    return read


def optional(read: Reader) -> Reader:
    """The same reader, and null stays None."""

    def read_or_none(value: object, where: str) -> Any:
        return None if value is None else read(value, where)

    return read_or_none


def several(read: Reader, most: int) -> Reader:
    """A reader of lists of at most `most` items, given back as a tuple."""

    def read_all(value: object, where: str) -> tuple[Any, ...]:
        if not isinstance(value, list) or len(value) > most:
            raise StrictError(f"{where} is not a list of at most {most} items")
        return tuple(read(item, f"{where}[{index}]") for index, item in enumerate(value))

    return read_all

"""How the fields of a row are read: an object holds what its table says, no more and no less."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from regions.map.names import BadNameError, ModelName, is_digest, region_name
from regions.map.policy import MAX_PLACES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Reader = Callable[[Any], Any]

NONE: Final[Mapping[str, Reader]] = MappingProxyType({})
MAX_TEXT: Final = 1024  # characters in any one string of a row: messages are for people, and short
MAX_COUNT: Final = 1 << 53  # JSON numbers are exact up to here


class RowRefused(Exception):
    """One line that is not taken.

    `code` is one of: empty, oversized, not_json, not_canonical, unsigned, bad_signature, unknown_field,
    missing_field, bad_value, unknown_region, wrong_region, older, future, gap.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


def read(
    table: Mapping[str, Reader], value: object, where: str, later: Mapping[str, Reader] = NONE
) -> dict[str, Any]:
    """`value` through one reader a field; exactly the fields of `table`, and of `later` (see LATER) any."""
    if not isinstance(value, dict):
        raise RowRefused("bad_value", f"{where} is no object")
    if value.keys() != table.keys():
        _refuse_strange(table, value, where, later)
        table = {**table, **{name: each for name, each in later.items() if name in value}}
    return {name: _one(read, value[name], where, name) for name, read in table.items()}


def _refuse_strange(
    table: Mapping[str, Reader], value: dict[str, Any], where: str, later: Mapping[str, Reader]
) -> None:
    unknown = sorted(value.keys() - table.keys() - later.keys())
    missing = sorted(table.keys() - value.keys())
    if unknown or missing:
        code = "unknown_field" if unknown else "missing_field"
        raise RowRefused(code, f"{where}: {(unknown or missing)[0][:64]!r}")


def _one(read: Reader, value: object, where: str, name: str) -> Any:
    try:
        return read(value)
    except ValueError as error:
        raise RowRefused("bad_value", f"{where}: {name}: {error}") from error


def text_of(value: object) -> str:
    """A string of at most MAX_TEXT characters. Raises: ValueError, as all of these do."""
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise ValueError(f"not a string of at most {MAX_TEXT} characters")
    return value


def count_of(value: object) -> int:
    """A whole number from 0 to MAX_COUNT."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_COUNT:
        raise ValueError("not a count")
    return value


def amount_of(value: object) -> float:
    """A number from 0 to MAX_COUNT."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_COUNT:
        raise ValueError("not an amount of zero or more")
    return value


def flag_of(value: object) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError("not true or false")  # noqa: TRY004 - one kind of refusal for every field
    return value


def one_of(*names: str) -> Reader:
    """The reader of one of these words."""

    def read(value: object) -> str:
        if value not in names or not isinstance(value, str):
            raise ValueError(f"not one of {', '.join(names)}")
        return value

    return read


def revision_of(value: object) -> str:
    """A revision's id, or nothing."""
    text = text_of(value)
    if text and not is_digest(text):
        raise ValueError("neither empty nor 64 hex digits")
    return text


def anything(value: object) -> object:
    """Whatever it is: others read it."""
    return value


def or_null(read: Reader) -> Reader:
    """The reader of what may be null."""
    return lambda value: None if value is None else read(value)


def model_name(text: str) -> str:
    """A model's name as rows write it."""
    try:
        return str(ModelName.parse(text))
    except BadNameError as error:
        raise ValueError(f"{text[:64]!r} names no model") from error


def place_of(value: object) -> str:
    """The name of a region or an area."""
    try:
        return region_name(text_of(value))
    except BadNameError as error:
        raise ValueError("not the name of a region or an area") from error


def places_of(value: object) -> tuple[str, ...]:
    """One place or several."""
    if not isinstance(value, list) or not 0 < len(value) <= MAX_PLACES:
        raise ValueError(f"not a list of 1 to {MAX_PLACES} places")
    return tuple(place_of(each) for each in value)


def any_places(value: object) -> tuple[str, ...]:
    """Places, maybe none."""
    return () if value == [] else places_of(value)


def table_of(most: int, key: Reader, each: Reader) -> Reader:
    """The reader of an object of at most `most` names."""

    def read_all(value: object) -> Mapping[str, Any]:
        if not isinstance(value, dict) or len(value) > most:
            raise ValueError(f"not an object of at most {most} names")
        return MappingProxyType({key(name): each(one) for name, one in value.items()})

    return read_all


def matching(pattern: str, what: str) -> Reader:
    """The reader of a string of that form, `what` in words."""
    shape = re.compile(pattern)

    def read(value: object) -> str:
        text = text_of(value)
        if shape.fullmatch(text) is None:
            raise ValueError(f"{text[:64]!r} is no {what}")
        return text

    return read


ENVELOPE: Final[Mapping[str, Reader]] = {
    "kind": one_of("region", "policy", "change"),
    "id": text_of,
    "epoch": count_of,
    "seq": count_of,
    "body": anything,
}

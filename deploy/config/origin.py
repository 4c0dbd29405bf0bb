"""Every setting that holds, and where it comes from: a line of the file, or the default. Pure."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from deploy.config.shape import SHAPES, Form, Shape, default_of, is_required

DEFAULT = "default"
_PART = r'(?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|\'[^\']*\')'
_DOTTED = rf"{_PART}(?:\s*\.\s*{_PART})*"
_TABLE = re.compile(rf"\s*(\[\[?)\s*({_DOTTED})\s*\]\]?\s*(?:#.*)?")
_KEY = re.compile(rf"\s*({_DOTTED})\s*=")

Key = tuple[str | int, ...]


class Setting(NamedTuple):
    """One key with the value that holds; `line` is its own in the file, 0: it is not written there."""

    key: Key
    value: Any
    line: int

    @property
    def name(self) -> str:
        """The key with dots, as errors name it."""
        first, *rest = self.key
        return str(first) + "".join(f"[{each}]" if isinstance(each, int) else f".{each}" for each in rest)

    def origin(self, path: Path) -> str:
        """For people: `nearfield.toml:12`, or `default`."""
        return f"{path.name}:{self.line}" if self.line else DEFAULT


def lines(text: str) -> dict[Key, int]:
    """The line of every table and key, from 1. A line inside a string may look like one: look it up in the tree."""
    found: dict[Key, int] = {}
    counts: dict[Key, int] = {}
    above: Key = ()
    for number, line in enumerate(text.splitlines(), 1):
        if table := _TABLE.fullmatch(line):
            above = _parts(table[2])
            if table[1] == "[[":
                counts[above] = counts.get(above, -1) + 1
                above = (*above, counts[above])
            found.setdefault(above, number)
        elif key := _KEY.match(line):
            found.setdefault((*above, *_parts(key[1])), number)
    return found


def _parts(dotted: str) -> Key:
    return tuple(part.strip("\"'") for part in re.findall(_PART, dotted))


def settings(tree: Mapping[str, Any], text: str) -> Iterator[Setting]:
    """Of a tree that was read without fault and the text that it was read from, in the order of the sections."""
    where = lines(text)
    for section, shape in SHAPES.items():
        if section in tree:
            yield from _section((section,), shape, tree[section], where)


def _section(key: Key, shape: Shape, raw: Any, where: Mapping[Key, int]) -> Iterator[Setting]:
    if shape.form is Form.TABLE:
        yield from _table(key, shape, raw, where)
        return
    for name, table in enumerate(raw) if shape.form is Form.LIST else raw.items():
        yield from _table((*key, name), shape, table, where)


def _table(key: Key, shape: Shape, raw: Mapping[str, Any], where: Mapping[Key, int]) -> Iterator[Setting]:
    for spec in shape.own_fields():
        own = (*key, spec.name)
        if spec.name in raw:
            yield from _value(own, raw[spec.name], where, where.get(own, where.get(key, 0)))
        elif not is_required(spec):
            yield Setting(own, _plain(default_of(spec)), 0)
    for name, inner in shape.inner.items():
        if name in raw:
            yield from _section((*key, name), inner, raw[name], where)


def _value(key: Key, value: Any, where: Mapping[Key, int], line: int) -> Iterator[Setting]:
    """A table inside (pins, patience) is shown key by key."""
    if not isinstance(value, dict):
        yield Setting(key, value, where.get(key, line))
        return
    for name, each in value.items():
        yield from _value((*key, name), each, where, where.get((*key, name), line))


def _plain(value: Any) -> Any:
    """A default as TOML would have it."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value

"""The syntax of our files, read once for all walls that look at it."""

import ast
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

HOUSE = Path(__file__).resolve().parent.parent
ROOMS = ("wire", "storage", "weights_cache", "regions", "inference", "edge", "deploy", "bench")


@cache
def files(room: str) -> tuple[Path, ...]:
    """The Python files of a room."""
    return tuple(sorted((HOUSE / room).rglob("*.py")))


@cache
def tree_of(path: Path) -> ast.Module:
    """What is written there."""
    return parsed(path.read_text("utf-8"), str(path))


def parsed(text: str, name: str = "<text>") -> ast.Module:
    """A module's text. Without the collector, which may run what parses too: CPython 3.11 then says that its count of
    nested nodes is wrong (SystemError, python/cpython#106905; seen once in 9,000 tests)."""
    with _uncollected():
        return ast.parse(text, name)


@cache
def nodes_of(path: Path) -> tuple[ast.AST, ...]:
    """Everything that stands there, an outer thing before what is in it."""
    with _uncollected():
        return tuple(ast.walk(tree_of(path)))


@contextmanager
def _uncollected() -> Iterator[None]:
    """Half a million nodes that stay: the collector would walk them again and again, for three times as long."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()

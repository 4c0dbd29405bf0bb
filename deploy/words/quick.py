"""Commands that start without pydantic: typer makes every value with it, and loading it takes longer than `ls` does.

A value that has its type already, as every default has, is what it would become; a path is checked by typer's own
rules, which need nothing more. Whatever else was typed (numbers, choices) goes typer's way, with typer's words for what
is wrong. Where a later typer keeps these things elsewhere, a test of what `ls` loads says so.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from typer._coercion import build_runtime_param
from typer._param_types import coerce_cli_path
from typer.core import TyperCommand, TyperGroup


class QuickCommand(TyperCommand):
    """A typer command, but for how its values are made."""

    def get_params(self, ctx: Any) -> list[Any]:
        """As typer's, each with our way to its value."""
        return _quick(super().get_params(ctx))


class QuickGroup(TyperGroup):
    """The same for commands that have commands: `--help` is a value too."""

    def get_params(self, ctx: Any) -> list[Any]:
        """As typer's, each with our way to its value."""
        return _quick(super().get_params(ctx))


class Quick:
    """What typer asks for the value of one parameter."""

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """The value in the parameter's type.

        Raises:
            typer.BadParameter: it is none, in typer's words.
        """
        kind = param.type_descriptor
        is_multiple = param.multiple or param.nargs == -1
        if not is_multiple and (value is None or (type(value) is kind.annotation and not kind.is_path)):
            return value
        if kind.annotation is Path and isinstance(value, str | Path):
            return coerce_cli_path(Path(value), kind.parameter_info, path_type=Path, param=param, ctx=ctx)
        return build_runtime_param(kind).coerce(value, param, ctx)


def _quick(params: Sequence[Any]) -> list[Any]:
    for param in params:
        if param._runtime_param is None:  # noqa: SLF001 - typer has no other place for it
            param._runtime_param = Quick()  # noqa: SLF001
    return list(params)

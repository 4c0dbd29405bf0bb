"""How figures and tables are printed: one place for units, colours and the rule that pipes get plain text.

rich is loaded when something is drawn, not before.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console
    from rich.table import Table

UNITS = ("B", "kB", "MB", "GB", "TB")


PIPE_COLUMNS = 160
"""Off a terminal nothing is folded for a screen that is not there."""


def console(*, quiet: bool = False) -> Console:
    """Where people read: honours NO_COLOR; lines stay whole, so that commands can be pasted."""
    from rich.console import Console  # noqa: PLC0415 - said on top

    width = None if sys.stdout.isatty() else PIPE_COLUMNS
    return Console(highlight=False, soft_wrap=True, width=width, quiet=quiet)


def problems() -> Console:
    """Where errors go."""
    from rich.console import Console  # noqa: PLC0415 - said on top

    width = None if sys.stderr.isatty() else PIPE_COLUMNS
    return Console(stderr=True, highlight=False, soft_wrap=True, width=width)


def emit_json(value: object) -> None:
    """One JSON document on standard output, for programs."""
    sys.stdout.write(json.dumps(value, indent=2, sort_keys=True, default=str) + "\n")


def size(num_bytes: float) -> str:
    """Bytes for people: 86.7 MB, in thousands as links and disks are sold."""
    value = float(num_bytes)
    for unit in UNITS:
        if value < 1000 or unit == UNITS[-1]:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError("unreachable: the last unit always returns")


def count(num: int) -> str:
    """A number of things for people: 512, 12k, 3.4M."""
    if num < 10_000:
        return f"{num}"
    return f"{num / 1e3:.0f}k" if num < 1_000_000 else f"{num / 1e6:.1f}M"


def millis(ms: float | None) -> str:
    """A duration for people: 0.4 ms, 35 ms, 1.24 s."""
    if ms is None:
        return "-"
    if ms < 10:
        return f"{ms:.1f} ms"
    return f"{ms:.0f} ms" if ms < 1000 else f"{ms / 1000:.2f} s"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A quiet table: a header, no box."""
    from rich.table import Table  # noqa: PLC0415 - said on top

    result = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in columns:
        result.add_column(name, overflow="fold")
    for row in rows:
        result.add_row(*row)
    return result

"""How figures and tables are printed: one place for units, colours and the rule that pipes get plain text."""

import json
import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

UNITS = ("B", "kB", "MB", "GB", "TB")


PIPE_COLUMNS = 160
"""Off a terminal nothing is folded for a screen that is not there."""


def console() -> Console:
    """Where people read: honours NO_COLOR; lines stay whole, so that commands can be pasted."""
    width = None if sys.stdout.isatty() else PIPE_COLUMNS
    return Console(highlight=False, soft_wrap=True, width=width)


def problems() -> Console:
    """Where errors go."""
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


def millis(ms: float | None) -> str:
    """A duration for people: 0.4 ms, 35 ms, 1.24 s."""
    if ms is None:
        return "-"
    if ms < 10:
        return f"{ms:.1f} ms"
    return f"{ms:.0f} ms" if ms < 1000 else f"{ms / 1000:.2f} s"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A quiet table: a header, no box."""
    result = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in columns:
        result.add_column(name, overflow="fold")
    for row in rows:
        result.add_row(*row)
    return result

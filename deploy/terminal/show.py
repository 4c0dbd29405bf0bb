"""How figures and tables are printed: one place for units, colours and the rule that pipes get plain text.

rich is loaded when something is drawn, not before.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from deploy.terminal import fitting

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console, ConsoleOptions, RenderResult
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


def span(low_ms: float, high_ms: float) -> str:
    """Between which durations, for people, both in the unit of the longer one."""
    if high_ms < 1000:
        return f"{low_ms:.0f}\u2013{high_ms:.0f} ms"
    low, high = (f"{each / 1000:.{1 if each < 100_000 else 0}f}" for each in (low_ms, high_ms))
    return f"{low}\u2013{high} s"


def age(seconds: float | None) -> str:
    """How long something has been so, for people: 45 s, 12 min, 5 h, 3 d."""
    if seconds is None:
        return "-"
    for unit, length, most in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172_800)):
        if seconds < most:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


class Quiet:
    """A table without a box, for rich; on a terminal that is too narrow for it, a paragraph for each row."""

    def __init__(self, columns: Sequence[str], rows: Sequence[Sequence[str]], num_heads: int) -> None:
        self._columns, self._rows, self._num_heads = columns, rows, num_heads

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """(rich) As there is room."""
        from rich.text import Text  # noqa: PLC0415 - said on top

        plain = [[Text.from_markup(cell).plain for cell in row] for row in self._rows]
        widths = fitting.widths(self._columns, plain, options.max_width)
        if widths is not None or not console.is_terminal:
            yield self._table(widths or [None] * len(self._columns))
        else:
            for row in plain:
                lines = fitting.paragraph(self._columns, row, options.max_width, self._num_heads)
                yield Text.assemble((lines.head, "bold"), " " * fitting.GAP, lines.below(len(lines.head)))

    def _table(self, widths: Sequence[int | None]) -> Table:
        from rich.table import Table  # noqa: PLC0415 - said on top

        result = Table(box=None, pad_edge=False, padding=(0, fitting.GAP, 0, 0), header_style="bold")
        for name, width in zip(self._columns, widths, strict=True):
            result.add_column(name, overflow="fold", width=width)
        for row in self._rows:
            result.add_row(*row)
        return result


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, num_heads: int = 1) -> Quiet:
    """A quiet table: a header, no box; the first `num_heads` columns say what a row is of."""
    return Quiet(columns, list(rows), num_heads)

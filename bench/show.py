"""An outcome as a table for a person."""

from rich.console import Console
from rich.table import Table

from bench.rows import Outcome, Row


def show(outcome: Outcome, console: Console) -> None:
    """Print the rows, the notes and the machine."""
    table = Table(title=f"bench {outcome.bench}", caption=_machine_line(outcome), title_justify="left")
    for name, justify in (
        ("what", "left"),
        ("ours", "right"),
        ("peer", "right"),
        ("unit", "left"),
        ("ratio", "right"),
        ("target", "right"),
        ("holds", "left"),
    ):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for row in outcome.rows:
        table.add_row(*_cells(row))
    console.print(table)
    for note in outcome.notes:
        console.print(f"- {note}", highlight=False)


def _cells(row: Row) -> tuple[str, ...]:
    target = "" if row.target is None else f"{row.target:g}x"
    holds = "" if row.target is None else ("yes" if row.holds else "NO")
    return row.what, f"{row.ours:,.4g}", f"{row.peer:,.4g}", row.unit, f"{row.ratio:.3g}x", target, holds


def _machine_line(outcome: Outcome) -> str:
    return ", ".join(f"{name} {value}" for name, value in outcome.machine.items())

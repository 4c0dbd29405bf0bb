"""A table in plain text, for commands that a shell calls often: rich takes longer to load than they take to answer."""

import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from deploy.terminal import fitting

CODES = {"": "", "bold": "1", "green": "32", "red": "31"}
GAP = "  "


class Cell(NamedTuple):
    """A text, and how it is painted where there are colours."""

    text: str
    style: str = ""

    def drawn(self, width: int, *, colours: bool) -> str:
        """Padded; the colour ends before the padding."""
        code = CODES[self.style]
        text = f"\x1b[{code}m{self.text}\x1b[0m" if colours and code else self.text
        return text + " " * (width - len(self.text))


def has_colours() -> bool:
    """On a terminal that can, unless NO_COLOR is set; FORCE_COLOR makes a pipe one. As rich has it."""
    if os.environ.get("NO_COLOR"):
        return False
    is_capable = sys.stdout.isatty() and os.environ.get("TERM") not in {"dumb", "unknown"}
    return bool(os.environ.get("FORCE_COLOR")) or is_capable


def room() -> int | None:
    """Columns of the terminal; None off one, where nothing is too wide."""
    return os.get_terminal_size(sys.stdout.fileno()).columns or None if sys.stdout.isatty() else None


def table(
    head: Sequence[str], rows: Sequence[Sequence[Cell]], *, colours: bool, width: int | None = None
) -> str:
    """One line each, columns as wide as their widest cell; a paragraph each where that is wider than `width`.

    Nothing is cut and no word broken.
    """
    lines = [[Cell(name, "bold") for name in head], *rows]
    widths = [max(len(line[at].text) for line in lines) for at in range(len(head))]
    if width is not None and sum(widths) + len(GAP) * (len(widths) - 1) > width:
        return "".join(_paragraph(head, row, colours=colours, width=width) for row in rows)
    drawn = (
        GAP.join(cell.drawn(width, colours=colours) for cell, width in zip(line, widths, strict=True))
        for line in lines
    )
    return "".join(f"{line.rstrip()}\n" for line in drawn)


def _paragraph(head: Sequence[str], row: Sequence[Cell], *, colours: bool, width: int) -> str:
    said = fitting.paragraph(head, [cell.text for cell in row], width)
    first = Cell(said.head, "bold").drawn(len(said.head), colours=colours)
    return f"{first}{GAP}{said.below(len(said.head))}\n"

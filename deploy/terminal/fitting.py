"""Columns for the width that there is: where words or short figures would be broken, each row becomes a paragraph.

Pure. A paragraph has the row's first cells as they are, and of the others those that say something, each with its
column's name; it breaks between them and hangs below its beginning.
"""

from collections.abc import Iterator, Sequence
from textwrap import wrap
from typing import NamedTuple

GAP = 2
WHOLE_CHARS = 12
"""A cell up to this is a figure or a name, and stays on one line; in a longer one lines break between words."""
LONG_WORD_CHARS = 24
"""A path or an address: may be broken anywhere."""
NOTHING = frozenset({"", "-", "never", "not yet"})
SEPARATOR = " · "


class Lines(NamedTuple):
    """A row as a paragraph: its head, and the lines behind and below it."""

    head: str
    rest: tuple[str, ...]

    def below(self, num_chars: int) -> str:
        """The lines, each but the first below a head of so many characters."""
        return f"\n{' ' * (num_chars + GAP)}".join(self.rest)


def widths(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[int] | None:
    """Of each column, where all of it stands within `width`; None where it does not. The first is never broken."""
    told = list(zip(columns, *rows, strict=True))
    whole = [max(len(cell) for cell in cells) for cells in told]
    found = [max(_least(cell) for cell in cells) for cells in told]
    found[0] = whole[0]
    room = width - GAP * len(found) - sum(found)  # rich pads the last one too
    if room < 0:
        return None
    for at in sorted(
        range(len(found)), key=lambda at: whole[at] - found[at]
    ):  # those that need least are whole first
        more = min(room, whole[at] - found[at])
        found[at], room = found[at] + more, room - more
    return found


def paragraph(columns: Sequence[str], row: Sequence[str], width: int, num_heads: int = 1) -> Lines:
    """One row, whose first `num_heads` cells are its head; lines are `width` wide at most, as far as words allow."""
    head = " ".join(row[:num_heads])
    named = zip(columns[num_heads:], row[num_heads:], strict=True)
    said = [f"{name} {cell}" for name, cell in named if cell not in NOTHING]
    return Lines(head, tuple(_packed(said, width - len(head) - GAP)))


def _least(cell: str) -> int:
    if len(cell) <= WHOLE_CHARS:
        return len(cell)
    return min(max(len(word) for word in cell.split()), LONG_WORD_CHARS)


def _packed(items: Sequence[str], width: int) -> Iterator[str]:
    """As many items on a line as it takes; one that is longer has lines of its own."""
    line = ""
    for item in items:
        if line and len(line) + len(SEPARATOR) + len(item) > width:
            yield from _wrapped(line, width)
            line = item
        else:
            line = f"{line}{SEPARATOR}{item}" if line else item
    if line:
        yield from _wrapped(line, width)


def _wrapped(line: str, width: int) -> Sequence[str]:
    return wrap(line, max(width, 1), break_long_words=False, break_on_hyphens=False)

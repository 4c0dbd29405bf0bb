"""Tables for the width there is: no word and no figure is broken, and nothing that says something is left out."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from deploy.terminal import columns, fitting, show
from deploy.terminal.columns import Cell

COLUMNS = ("id", "tenant", "models", "made", "note")
ROWS = (
    ("8479e3ea2c4e", "default", "acme/chat resident, acme/embed resident", "2026-11-26 22:46", "-"),
    ("c4c558aa82e8", "ops", "*", "2026-11-26 22:46", "ends within a day and has a long word: " + "x" * 20),
)


def drawn(width, *, is_terminal=True):
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=is_terminal, color_system=None, soft_wrap=True)
    console.print(show.table(COLUMNS, ROWS))
    return file.getvalue()


def test_where_there_is_room_there_are_columns():
    head, *rest = drawn(160).splitlines()
    assert head.split() == list(COLUMNS)
    assert len(rest) == 2


@pytest.mark.parametrize("width", [48, 60, 80])
def test_where_there_is_none_each_row_is_a_paragraph_of_whole_words(width):
    told = drawn(width)
    assert all(len(line) <= width for line in told.splitlines())
    for word in ("8479e3ea2c4e", "acme/embed", "2026-11-26", "22:46", "x" * 20):
        assert word in told
    assert "note -" not in told, "what says nothing is left out"


def test_off_a_terminal_there_are_columns_at_any_width():
    assert drawn(60, is_terminal=False).splitlines()[0].split() == list(COLUMNS)


@pytest.mark.parametrize("width", [None, 200, 60])
def test_plain_tables_do_the_same(width):
    rows = [[Cell(text, "green") for text in row] for row in ROWS]
    told = columns.table(COLUMNS, rows, colours=False, width=width)
    is_table = width != 60
    assert (told.splitlines()[0].split() == list(COLUMNS)) is is_table
    assert is_table or all(len(line) <= 60 for line in told.splitlines())
    assert "\x1b[1m8479e3ea2c4e\x1b[0m" in columns.table(COLUMNS, rows, colours=True, width=60)


CELL = st.text(alphabet="ab -/.", max_size=40)


@given(st.lists(st.tuples(CELL, CELL, CELL), min_size=1, max_size=4), st.integers(10, 120))
def test_a_paragraph_says_every_word_once_and_breaks_none(rows, width):
    for row in rows:
        lines = fitting.paragraph(("one", "two", "three"), row, width)
        named = zip(("two", "three"), row[1:], strict=True)
        wanted = " ".join(f"{name} {cell}" for name, cell in named if cell not in fitting.NOTHING)
        said = " ".join(lines.rest).replace(fitting.SEPARATOR, " ")
        assert said.split() == wanted.split()
        longest = max((len(word) for word in wanted.split()), default=0)
        assert all(len(line) <= max(width - len(row[0]) - fitting.GAP, longest) for line in lines.rest)

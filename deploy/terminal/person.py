"""The person at the terminal: a question, and what Ctrl-C leaves behind."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from deploy.faults import NotConfirmed
from deploy.terminal.exits import Exit

SHOW_CURSOR = "\x1b[?25h"


def agrees(question: str, *, default: bool = False) -> bool:
    """Whether the answer was yes. The question goes to standard error: an answer for programs may be under way.

    Raises:
        typer.Exit: the answer was Ctrl-C.
        NotConfirmed: the end of input, as in a script.
    """
    try:
        return typer.confirm(question, default=default, err=True)
    except typer.Abort as end:
        if isinstance(end.__context__, KeyboardInterrupt):
            raise typer.Exit(Exit.INTERRUPTED) from end
        sys.stderr.write("\n")
        raise NotConfirmed("nobody was there to say yes, so nothing was done") from end


@contextmanager
def ctrl_c_says(words: str) -> Iterator[None]:
    """What a command that is ended inside the block leaves behind, on standard error: nothing else would say it."""
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write(f"\n{words}\n")
        raise


def give_cursor_back() -> None:
    """Ctrl-C may come while bars are being put up or taken down, when nobody is there yet to show the cursor again."""
    if sys.stdout.isatty():
        sys.stdout.write(SHOW_CURSOR)
        sys.stdout.flush()

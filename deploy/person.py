"""The person at the terminal: a question, and what Ctrl-C leaves behind."""

import sys

import typer

from deploy.exits import Exit

SHOW_CURSOR = "\x1b[?25h"


def agrees(question: str, *, default: bool = False) -> bool:
    """Whether the answer was yes; raises typer.Exit where it was Ctrl-C, and typer.Abort at the end of input."""
    try:
        return typer.confirm(question, default=default)
    except typer.Abort as end:
        if isinstance(end.__context__, KeyboardInterrupt):
            raise typer.Exit(Exit.INTERRUPTED) from end
        raise


def give_cursor_back() -> None:
    """Ctrl-C may come while bars are being put up or taken down, when nobody is there yet to show the cursor again."""
    if sys.stdout.isatty():
        sys.stdout.write(SHOW_CURSOR)
        sys.stdout.flush()

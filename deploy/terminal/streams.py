"""The standard streams as a command finds them: closed, on a full disk, or without a letter for half of our signs.

A write that fails is the caller's to mend, so it ends in one line and not in a traceback. A pipe that nobody reads any
more is not worth a word: `nearfield ls | head -1` has all that it asked for.
"""

import codecs
import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from deploy.terminal.exits import Exit

STANDARD = (0, 1, 2)
PLAIN = {"✓": "+", "✗": "x", "→": ">", "·": "-", "─": "-", "—": "-", "\u2013": "-", "\u00d7": "x", "…": "."}
"""What stands for our signs, place for place, where a terminal lacks them; `?` for any other."""
DRIVES = {number: "\ufffd" for number in (*range(0x20), *range(0x7F, 0xA0)) if chr(number) not in "\n\t"}
"""Characters by which a terminal is driven: its title, its colours, what is on the clipboard."""


class OutputLost(OSError):
    """Standard output takes no more: its disk is full, or the terminal is gone."""


class Outlet(io.FileIO):
    """Standard output, whose own errors can be told from those of any other file."""

    def write(self, data: Any, /) -> int:
        """Raises OutputLost, and BrokenPipeError where nobody reads."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            raise OutputLost(error.errno, error.strerror) from error


def harmless(words: str) -> str:
    """What somebody else's model says: on a terminal only words, elsewhere all that it said."""
    return words.translate(DRIVES) if sys.stdout.isatty() else words


@contextmanager
def ready() -> Iterator[None]:
    """Have streams that a command can write to. Raises SystemExit where standard output is lost."""
    _open_closed()
    if (given := sys.__stdout__) is not None and sys.stdout is given:  # not one of a test's
        sys.stdout = _outlet(given)
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OutputLost as lost:
        _forget()
        sys.stderr.write(f"output_lost: standard output cannot be written: {lost.strerror}\n")
        sys.stderr.write("next: the same command again, with its output where there is room\n")
        sys.exit(Exit.FAILED)
    except BrokenPipeError:
        _forget()
        sys.exit(Exit.FAILED)


def _open_closed() -> None:
    """Put nothing where a stream is closed: else the next file or socket would get its number, and our words."""
    for number in STANDARD:
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False, errors="backslashreplace")


def _outlet(given: Any) -> io.TextIOWrapper:
    """In the letters that whoever reads it has, and as soon as Python was told to write (PYTHONUNBUFFERED)."""
    codecs.register_error("plain", _plainly)
    raw: Any = Outlet(1, "w", closefd=False)
    buffer = raw if given.write_through else io.BufferedWriter(raw)
    soon = {"line_buffering": given.line_buffering, "write_through": given.write_through}
    return io.TextIOWrapper(buffer, given.encoding, "plain", **soon)


def _plainly(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(PLAIN.get(sign, "?") for sign in lacking), error.end


def _forget() -> None:
    """What is left in the buffer is written at the very end, and must not fail again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)

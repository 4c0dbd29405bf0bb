"""A pseudo-terminal of a given size, and a command of ours on it: what a person at a screen would get."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time

from tests.e2e.platform import ROOT

CONTROLS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLOURS = re.compile(r"\x1b\[(?:[0-9]+;)*(?:3[0-8]|9[0-7]|4[0-8])(?:;[0-9]+)*m")
HIDDEN, SHOWN = "\x1b[?25l", "\x1b[?25h"
WAIT_S = 60.0
PATIENCE_S = 10.0


class Terminal:
    """`text` is all that came; `lines` what is seen of it, frame after frame."""

    def __init__(self, state, *words, columns=80, rows=24, **environment):
        self.text = ""
        self._pid, self._fd = pty.fork()
        if self._pid == 0:
            kept = {k: v for k, v in os.environ.items() if k not in {"COLUMNS", "LINES", "NO_COLOR"}}
            own = {"NEARFIELD_STATE": str(state), "TERM": "xterm-256color", "PYTHONPATH": str(ROOT)}
            os.chdir(ROOT)
            signal.signal(
                signal.SIGINT, signal.SIG_DFL
            )  # what runs the tests may ignore it: a shell's child does not
            os.execve(sys.executable, [sys.executable, "-m", "deploy", *words], kept | own | environment)
        self.resize(columns, rows)

    def resize(self, columns, rows=24):
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def until(self, pattern):
        """Read until it was said. Fails if the command ends before."""
        end = time.monotonic() + WAIT_S
        while not re.search(pattern, CONTROLS.sub("", self.text)):
            assert time.monotonic() < end, f"never {pattern}:\n{self.text[-2000:]!r}"
            assert self._read(), f"it ended without {pattern}:\n{self.text[-2000:]!r}"

    def press(self, keys):
        os.write(self._fd, keys.encode())

    def end(self, again=""):
        """Read to the end; the exit status, below zero for a signal.

        `again` is pressed each PATIENCE_S: what asks may have said so and not yet wait, and Python sees a signal that
        comes between the two only when it is done waiting.
        """
        limit, pressed = time.monotonic() + WAIT_S, time.monotonic()
        try:
            while self._read():
                if again and time.monotonic() - pressed > PATIENCE_S:
                    self.press(again)
                    pressed = time.monotonic()
                assert time.monotonic() < limit, f"it does not end:\n{self.text[-2000:]}"
        except AssertionError:
            os.kill(self._pid, signal.SIGKILL)
            raise
        finally:
            _, status = os.waitpid(self._pid, 0)
            os.close(self._fd)
        return os.waitstatus_to_exitcode(status)

    @property
    def lines(self):
        return [line for line in re.split(r"[\r\n]+", CONTROLS.sub("", self.text)) if line]

    @property
    def has_cursor(self):
        """Whether the cursor is seen at the end."""
        return self.text.rfind(SHOWN) >= self.text.rfind(HIDDEN)

    def _read(self):
        ready, _, _ = select.select([self._fd], [], [], 0.2)
        if not ready:
            return True
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # the other side is closed
            return False
        self.text += data.decode(errors="replace")
        return bool(data)

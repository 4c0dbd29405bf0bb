"""What a command with many short steps is at: said whenever it has been silent for a moment.

No one step need be long. On a busy machine twenty of a second each are as silent as one that hangs, and so are the
modules that are read before the first. Words go to standard error, as in `deploy.terminal.patience`.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

from deploy.terminal.patience import say

SILENT_S = 1.5


class Looking:
    """The step under way; `look` is called now and then, by one thread."""

    def __init__(
        self, what: str, *, say: Callable[[str], None] = say, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._what, self._said = what, ""
        self._say, self._clock = say, clock
        self._since = clock()

    def turn_to(self, what: str) -> None:
        """The next step begins."""
        self._what = what

    def look(self) -> float:
        """Seconds until the next look; says the step that is under way, once, if nothing was said for SILENT_S."""
        left_s = self._since + SILENT_S - self._clock()
        if left_s > 0:
            return left_s
        if self._what != self._said:
            self._said = self._what
            self._say(f"looking at {self._what} …")
            self._since = self._clock()
        return SILENT_S


@contextmanager
def looking(what: str) -> Iterator[Looking]:
    """Says what the block is at, from a thread of its own; it begins with `what`."""
    one, is_over = Looking(what), Event()
    Thread(target=_look_on, args=(one, is_over), daemon=True).start()
    try:
        yield one
    finally:
        is_over.set()


def _look_on(one: Looking, is_over: Event) -> None:
    while not is_over.wait(one.look()):
        pass

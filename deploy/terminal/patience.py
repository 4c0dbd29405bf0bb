"""What a command waits for: said once it has been silent for some seconds, and given up by a time that is said too.

Words go to standard error, so that `--json` stays one document. A process that is stopped takes connections and answers
nothing, as does a host that is gone without a word: without this, a command says nothing for minutes, either.
"""

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from threading import Event, Thread
from typing import Any, TypeVar

from deploy.faults import Silent

T = TypeVar("T")

SAY_AFTER_S = 3.0
GIVE_UP_S = 30.0
"""Longer than a store takes to start again, shorter than anybody would wait for a list of keys."""


class Silence:
    """How long `who` has not been heard; `look` is called now and then, by one thread at a time."""

    def __init__(
        self,
        who: str,
        give_up_s: float = GIVE_UP_S,
        *,
        tell: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._who, self._give_up_s = who, give_up_s
        self._say, self._clock = tell or say, clock
        self._is_said = False
        self._since = clock()

    def heard(self) -> None:
        """There was a sign of life: it is waited for anew."""
        self._since = self._clock()

    def turn_to(self, who: str) -> None:
        """Somebody else is asked from now on."""
        self._who, self._is_said = who, False
        self.heard()

    def look(self) -> float:
        """Seconds until the next look; says once what is waited for. Raises Silent when it is over."""
        silent_s = self._clock() - self._since
        if silent_s >= self._give_up_s:
            raise Silent(f"{self._who} does not answer: nothing was heard for {silent_s:.0f} s")
        if silent_s < SAY_AFTER_S:
            return min(SAY_AFTER_S, self._give_up_s) - silent_s
        if not self._is_said:
            self._is_said = True
            self._say(notice(self._who, silent_s, self._give_up_s - silent_s))
        return self._give_up_s - silent_s


def notice(who: str, silent_s: float, left_s: float) -> str:
    """What a person reads who waits; on a busy machine it may be this process that is late, so nobody is accused."""
    until = time.strftime("%H:%M:%S", time.localtime(time.time() + left_s))
    hint = "`nearfield doctor` looks every role over"
    return f"nothing heard from {who} for {silent_s:.0f} s; trying until {until} ({hint})"


def say(line: str) -> None:
    """A line on standard error, at once."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


_current: ContextVar[Silence | None] = ContextVar("silence", default=None)


def heard() -> None:
    """Of a long work under `ask`: something came of it just now."""
    silence = _current.get()
    if silence is not None:
        silence.heard()


def turn_to(who: str) -> None:
    """Of a long work under `ask`: `who` is asked from now on."""
    silence = _current.get()
    if silence is not None:
        silence.turn_to(who)


def ask(work: Coroutine[Any, Any, T], who: str, give_up_s: float = GIVE_UP_S) -> T:
    """What `work` returns, which asks `who`. Raises Silent, and what `work` raises."""
    return asyncio.run(_watched(work, Silence(who, give_up_s)))


async def _watched(work: Coroutine[Any, Any, T], silence: Silence) -> T:
    _current.set(silence)
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=silence.look())
        return task.result()
    finally:
        if task.cancel():
            await asyncio.wait({task}, timeout=1.0)


@contextmanager
def told(who: str, give_up_s: float) -> Iterator[Silence]:
    """Says what the block waits for, from a thread of its own; the block itself gives up."""
    silence, is_over = Silence(who, give_up_s), Event()
    Thread(target=_look_on, args=(silence, is_over), daemon=True).start()
    try:
        yield silence
    finally:
        is_over.set()


def _look_on(silence: Silence, is_over: Event) -> None:
    with suppress(Silent):
        while not is_over.wait(silence.look()):
            pass

"""The short way of a request whose head came before: judged once, and passed without a task.

Clients that keep connections send one head again and again, but for the body's length; our own hops also vary a few
lines at its end. A handler that has answered such a request may leave a Lane with the connection. It is offered every
later message that came whole, and takes those that begin with the very bytes that were judged: what follows from the
head alone (its grammar, its path, whose key it shows) then holds without another look. Connections of one listener
share a lane (`known.py`), so it knows nothing of who is at their ends.

Rule 1: a lane refuses nothing and repairs nothing. What is not usual is left to the handler, before a byte was sent.
Rule 2: what turns unusual on its way (a failing upstream, an odd answer, a slow reader, silence for LATE_S) is handed
over: it becomes an exchange like any other, with the connection on which it was sent, and the handler goes on.
"""

import re
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from wire.http.heads import RequestHead

LATE_S: Final = 1.0  # silence after which a passage is handed over: from there on deadlines are the handler's
MAX_HEAD_BYTES: Final = 4096  # of a head that is kept with a connection; clients send a tenth of it
LENGTH: Final = re.compile(rb"([0-9]{1,15})")
LENGTH_LINE: Final = re.compile(rb"\r\n[Cc]ontent-[Ll]ength:[\t ]*([0-9]{1,15})(?=[\t ]*\r\n)")


class Familiar:
    """A judged head, as what its repetitions begin with, what may vary in the middle, and how they end.

    The last group of `varying` is the body's length.
    """

    __slots__ = (
        "_after",
        "_before",
        "_last",
        "_match",
        "_num",
        "_num_after",
        "_num_before",
        "_said",
        "head",
    )

    def __init__(self, head: RequestHead, before: bytes, varying: re.Pattern[bytes], after: bytes) -> None:
        self.head = head
        self._before, self._num_before = before, len(before)
        self._match, self._last = varying.match, varying.groups
        self._after, self._num_after = after, len(after)
        self._said, self._num = before, 0  # the last one's whole head, and how long head and body were

    @property
    def around_length(self) -> tuple[bytes, bytes] | None:
        """What stands before and after the body's length, where nothing else varies."""
        return (self._before, self._after) if self._match == LENGTH.match else None

    def body(self, data: bytes) -> bytes | None:
        """The body of a message that is `whole`; as many bytes behind the same head again are one."""
        if len(data) == self._num and data.startswith(self._said):
            return data[len(self._said) :]
        found = self.whole(data)
        if found is None:
            return None
        body = found[1]
        self._said, self._num = data[: len(data) - len(body)], len(data)
        return body

    def whole(self, data: bytes) -> tuple[re.Match[bytes], bytes] | None:
        """What varies and the body, if `data` is this head again with the whole body and nothing after it."""
        if not data.startswith(self._before):
            return None
        found = self._match(data, self._num_before)
        if found is None:
            return None
        end = found.end()
        if not data.startswith(self._after, end):
            return None
        body = data[end + self._num_after :]
        return (found, body) if int(found[self._last]) == len(body) else None


def familiar(raw: bytes, head: RequestHead, ending: re.Pattern[bytes] | None = None) -> Familiar | None:
    """The bytes of `head` as they came, cut at its length; None where a lane has nothing to say about such requests.

    With `ending`, lines that vary from request to request, the head must end in those, and is cut there.
    """
    usual = head.keep_alive and head.minor == 1 and not (head.chunked or head.expect_continue)
    found = (ending or LENGTH_LINE).search(raw) if usual and len(raw) <= MAX_HEAD_BYTES else None
    if found is None or (ending is not None and raw[found.end() :] != b"\r\n\r\n"):
        return None
    if ending is not None:
        return Familiar(head, raw[: found.start()], ending, raw[found.end() :])
    return Familiar(head, raw[: found.start(1)], LENGTH, raw[found.end(1) :])


class Handed(Protocol):
    """What an exchange takes over from a passage."""

    @property
    def head(self) -> RequestHead:
        """The request's."""

    @property
    def started(self) -> float:
        """perf_counter seconds when it was complete."""

    @property
    def streams(self) -> bool:
        """The client has the head of a chunked 200 and whole chunks."""


class Listener(Protocol):
    """What the connections of one listener have in common: fields, as each answer looks at them."""

    @property
    def draining(self) -> bool:
        """Each connection closes after its answer, whatever the client wants."""

    @property
    def date(self) -> str:
        """Now, as HTTP writes it, at most a sweep old."""


class LaneLine(Protocol):
    """What a passage needs of the client's connection."""

    @property
    def roster(self) -> Listener:
        """Its listener's."""

    @property
    def is_behind(self) -> bool:
        """The peer reads slower than it is written to."""

    def say(self, data: bytes) -> None:
        """Bytes for the peer, at once where that can be. One that is gone is told nothing: `cancel` says it is."""

    def passed(self, now: float) -> None:
        """The answer is whole, `now` in loop time: take the next request."""

    def go_on(self, passage: Handed, handler: Callable[[Any], Awaitable[None]]) -> None:
        """The passage is an exchange from here on, for `handler`."""


class Passage(Protocol):
    """One request on a lane, until its answer is whole or it is handed over."""

    def cancel(self) -> None:
        """The client is gone."""

    def check(self, now: float) -> None:
        """(The sweep, `now` in loop time) hand over if nothing was heard for LATE_S."""


class Taker(Protocol):
    """Who passes an answer on without reading it."""

    def take(self, data: bytes) -> bool:
        """Bytes of the answer; False hands it over, these bytes included."""

    def hand_over(self) -> None:
        """The connection failed: whoever goes on hears why."""


class Lane(Protocol):
    """What a handler leaves with connections."""

    @property
    def familiar(self) -> Familiar:
        """The head that it is for."""

    def take(self, data: bytes, line: LaneLine) -> Passage | None:
        """Begin on the request in `data` from `line`, if it is usual; else None, and nothing was done."""

"""Why connections end that were good for something still: each is counted by its cause, and told in the log.

A client sees only a connection that closes, whoever closed it and why. What ends between two requests, after its time,
is no loss and is not told.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable
from enum import StrEnum

from wire.refused.sparing import Sparing

log = logging.getLogger("nearfield.wire")


class Cause(StrEnum):
    """What ended a connection; the values are a metric's labels."""

    ANSWER_BROKE = "answer_broke"  # its end cannot be told any more, so that it is cut
    ANSWER_STALLED = "answer_stalled"  # the client does not take it
    CANCELLED = "cancelled"  # the handler was, and nobody had gone: a fault of ours
    CLIENT_LEFT = "client_left"
    CLOSE_SAID = "close_said"  # a request came behind an answer that said `Connection: close`
    DRAINED = "drained"
    FAULT = "fault"  # of ours
    FLOODED = "flooded"  # far above a cap: not even a refusal is worth what it costs
    HEAD_LATE = "head_late"  # begun, and not whole in time: 408
    MALFORMED = "malformed"  # what came is no request: 4xx
    SHUT_DOWN = "shut_down"  # a drain took too long, or there was none
    STRANGER = "stranger"  # a process of another user, on a Unix socket
    TLS_FAILED = "tls_failed"  # in the handshake
    TLS_FAULT = "tls_fault"  # after it
    TLS_LATE = "tls_late"  # no handshake in time
    TOO_LONG = "too_long"  # one request and its answer, all in all
    TOO_MANY = "too_many"  # above a cap: 503
    UNUSED = "unused"  # nothing was sent in the time of a head


class Stage(StrEnum):
    """How far the connection was."""

    HANDSHAKE = "in its handshake"
    NEW = "before a byte"
    HEAD = "within a head"
    REQUEST = "with a request unanswered"
    ANSWER = "within an answer"
    BETWEEN = "between requests"


_OURS = frozenset({Cause.CANCELLED, Cause.FAULT})
_NEEDLESS = frozenset({Stage.HANDSHAKE, Stage.NEW})  # probes and spare connections come and go so


class Endings:
    """Of one listener, whose name is in each line.

    Attributes:
        num: by cause.
    """

    def __init__(
        self,
        listener: str = "",
        level: int = logging.DEBUG,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`level`: of lines about what is no fault of ours; that is a warning."""
        self.num: Counter[Cause] = Counter()
        self._listener, self._level, self._sparing = listener or "a listener", level, Sparing(now)

    def note(self, cause: Cause, stage: Stage, why: str = "") -> None:
        """One connection ended; `why` is whatever else is known."""
        if stage is Stage.BETWEEN and cause not in _OURS:
            return
        self.num[cause] += 1
        level = self._level_of(cause, stage)
        if not log.isEnabledFor(level) or (silent := self._sparing.num_silent()) is None:
            return
        log.log(
            level,
            "%s: a connection ended %s: %s%s%s",
            *(self._listener, stage, cause, f" ({why})" if why else ""),
            f"; {silent} more before it were not said" if silent else "",
        )

    def _level_of(self, cause: Cause, stage: Stage) -> int:
        if cause in _OURS:
            return logging.WARNING
        return logging.DEBUG if cause is Cause.CLIENT_LEFT and stage in _NEEDLESS else self._level

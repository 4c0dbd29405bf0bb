"""One request on a lane, as every hop carries it: its answer is passed on by the call that brought it, or handed over.

What a hop makes of a whole answer and of events is its own (`edge/relay/passing.py`, `regions/gateway/passing.py`).
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final, Protocol

from wire.http.framing import LAST_CHUNK
from wire.http.heads import RequestHead, ResponseHead
from wire.lanes import usual
from wire.lanes.shape import HOLE, Grounds, Shape

if TYPE_CHECKING:
    import re

    from wire.dial import Pool
    from wire.lanes.lane import Familiar, LaneLine
    from wire.lanes.repeat import Repeat
    from wire.listener.exchange import Exchange
    from wire.timing import Spans
    from wire.upstreams.upstream import Upstream

MAX_HELD_BYTES: Final = 64 << 10  # of an answer that comes in parts; the handler takes larger ones
EVENTS: Final = "text/event-stream"
_WHOLE: Final = b"HTTP/1.1 200 OK\r%b\n%bcontent-length: %d\r\nserver-timing: %b\r\n\r\n%b"
_BEGUN: Final = b"HTTP/1.1 200 OK\r%b\n%btransfer-encoding: chunked\r\n\r\n"
_EVENTS: Final = EVENTS.encode()
_BEGUN_HEAD: Final = ResponseHead(200, (("content-type", EVENTS),), None, chunked=True, keep_alive=True)


class Kept(Protocol):
    """Its lane, as it has to do with it."""

    @property
    def familiar(self) -> Familiar:
        """The request's head."""

    @property
    def repeat(self) -> Repeat:
        """The answers before on this lane."""


class Carry(ABC):
    """See the file's docstring. It is `lane.Taker` and `lane.Passage`.

    Attributes:
        chosen_at: perf_counter seconds when it was known where it goes.
        dropped: lines of the answer's head that end here.
        first_at: perf_counter seconds when its answer began, 0 until then.
        heard: loop time of what came last.
        held: of an answer that cannot be passed on yet.
        number: the request's id.
        read_at: perf_counter seconds when it was known what is asked for.
        streams: the client has the head of a stream, and whole events.
        upstream: the connection that it was sent on, of `pool`.
    """

    __slots__ = (
        "chosen_at",
        "first_at",
        "heard",
        "held",
        "line",
        "number",
        "pool",
        "read_at",
        "started",
        "streams",
        "upstream",
    )
    dropped: re.Pattern[bytes]
    lane: Kept

    def _set_out(self, line: LaneLine, number: bytes, started: float, now: float) -> None:
        """(A hop's `__init__`) what all hops have of it: a base's own `__init__` would be looked up each time."""
        self.line = line
        self.number = number
        self.started = started  # perf_counter seconds
        self.heard = now
        self.read_at: float
        self.chosen_at: float
        self.first_at = 0.0
        self.streams = False
        self.held = b""
        self.pool: Pool
        self.upstream: Upstream

    @property
    def head(self) -> RequestHead:
        """The client's, but for what varies."""
        return self.lane.familiar.head

    @abstractmethod
    def whole(self, shape: Shape, kept: bytes, timing: bytes, data: bytes, start: int) -> bool:
        """Pass on the whole answer `data`, whose body begins at `start`; False: it is the handler's.

        `kept` are the lines of its head that go on, `timing` is what it says of its time.
        """

    @abstractmethod
    def grounds(self) -> Grounds:
        """What `ours` is made of, but for the answer's head and `number`."""

    @abstractmethod
    def ours(self, lines: bytes, told: dict[bytes, bytes], number: bytes) -> bytes:
        """The lines that this hop adds to any answer, that of the request `number`."""

    @abstractmethod
    def begin(self, said: bytes, data: bytes, start: int) -> bool:
        """Begin the client's answer: the head `said`, and the events from `start` on. False: the handler does."""

    @abstractmethod
    def more(self, data: bytes) -> bool:
        """Pass on events; False: the handler goes on."""

    @abstractmethod
    def leave(self, now: float) -> None:
        """Give back what it holds, `now` in loop time."""

    @abstractmethod
    async def go_on(self, exchange: Exchange) -> None:
        """(The handler) answer `exchange` from here on."""

    # lane.Taker -----------------------------------------------------------------------------------------

    def take(self, data: bytes) -> bool:
        """The answer's bytes, from their first to their last."""
        passes = self.more(data) if self.streams else self._first(self.held + data if self.held else data)
        if not passes:
            self.hand_over()
        return passes

    def hand_over(self) -> None:
        """The handler goes on with it."""
        if self.streams:
            self.upstream.go_on_chunked(_BEGUN_HEAD)
        else:
            self.upstream.take_back(whole=False)
        if self.held:
            self.upstream.data_received(self.held)
        self.line.go_on(self, self.go_on)

    # lane.Passage -------------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """The client is gone: the upstream sees it at once."""
        self.upstream.take_back(whole=False)
        self.upstream.abort()
        self.pool.forget(self.upstream)
        self.leave(self.upstream.now())

    @abstractmethod
    def check(self, now: float) -> None:
        """Silence is the handler's, and so is the deadline."""

    # for hops -----------------------------------------------------------------------------------------------

    def hold(self, data: bytes) -> bool:
        """Wait for more of it, unless it is too much."""
        if len(data) <= MAX_HELD_BYTES:
            self.held = data
        return self.held is data

    def say_whole(self, shape: Shape, kept: bytes, timing: bytes, body: bytes) -> None:
        """A whole answer to the client, with what this hop adds; `timing` is all hops' by now."""
        grounds = self.grounds()
        if shape.grounds != grounds:
            shape.own = self.ours(shape.lines, shape.told, HOLE).split(HOLE)
        shape.grounds = grounds  # equal ones too: those of the next request are the same objects
        self.line.say(_WHOLE % (kept, self.number.join(shape.own), len(body), timing, body))

    def end(self, events: bytes, receipt: bytes) -> None:
        """The last events of a stream, our receipt, and the last chunk."""
        self.line.say(b"%b%x\r\n%b\r\n%b" % (events, len(receipt), receipt, LAST_CHUNK))
        self.over()

    def over(self) -> None:
        """The answer is whole: its connection may serve another request, and the client's too."""
        upstream = self.upstream
        clock = upstream.now
        now = clock()
        upstream.take_back(whole=True)
        self.pool.keep(upstream, now)
        self.leave(now)
        self.line.passed(now)

    def spans(self) -> Spans:
        """In milliseconds, up to now: all; until it was read, it was chosen, its answer began; and since."""
        now, started = time.perf_counter(), self.started
        read, chosen, first = self.read_at, self.chosen_at, self.first_at or now
        return (
            (now - started) * 1e3,
            (read - started) * 1e3,
            (chosen - read) * 1e3,
            (first - chosen) * 1e3,
            (now - first) * 1e3,
        )

    # inside -------------------------------------------------------------------------------------------------

    def _first(self, data: bytes) -> bool:
        """All that came so far: a whole answer, the beginning of a stream, or something to hold."""
        if self.line.roster.draining:  # the handler says that this is the last answer
            return False
        repeat = self.lane.repeat
        for shape in repeat.shapes:
            if (whole := shape.whole(data)) is not None:
                kept, timing, start = whole
                return self.whole(shape, kept, timing, data, start)
        known = repeat.of(data, self.number, self.grounds()) if repeat.is_kept else None
        if known is not None:
            return self._begin(*known, data)
        return self._first_so(data)

    def _first_so(self, data: bytes) -> bool:
        """The same of a head that came in no such form before."""
        found = usual.read(data)
        if found is None:
            return False
        lines, told, start = found
        length, num_here = usual.whole_length(told), len(data) - start
        if length == num_here:
            shape = Shape(lines, told, self.dropped)
            self.lane.repeat.learn(shape)
            whole = shape.whole(data)
            return whole is not None and self.whole(shape, whole[0], whole[1], data, start)
        is_stream = told.get(b"content-type", b"").startswith(_EVENTS)
        if not is_stream or length >= 0:
            return not is_stream and length > num_here and self.hold(data)
        said = _BEGUN % (self.dropped.sub(b"", lines), self.ours(lines, told, self.number))
        self.lane.repeat.keep(data[:start], said, self.number, self.grounds())
        return self._begin(said, start, data)

    def _begin(self, said: bytes, start: int, data: bytes) -> bool:
        return self.begin(said, data, start) if len(data) > start else self.hold(data)

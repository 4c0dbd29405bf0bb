"""One request on an edge's lane: sent in one write, its answer passed on by one call, its books kept afterwards.

It passes an answer that is 200 and whole, and a stream of whole events whose first is no error, chunk by chunk as it
came. Its end, events with ids, errors, parts of events and everything else are the relay's, which goes on from there.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Final

from edge.journey import OWN
from edge.sse import CONTENT_TYPE, error_code, first_event
from regions.health import Outcome
from regions.map import ASK, DEADLINE_MS, REGION, REQUEST_ID, ROUTE
from wire import usual
from wire.dialect import THEIR_REQUEST_ID
from wire.exchange import Disconnected
from wire.heads import ResponseHead
from wire.lane import LATE_S
from wire.timing import Phases

if TYPE_CHECKING:
    from edge.lane import EdgeLane
    from edge.route import Decision
    from regions.ask import Ask
    from wire.exchange import Exchange
    from wire.http1 import RequestHead
    from wire.upstream import Upstream

MAX_HELD_BYTES: Final = 64 << 10  # of an answer that comes in parts; the relay takes larger ones
_DROPPED: Final = usual.dropping(OWN)
_STREAM: Final = CONTENT_TYPE.encode()
_STREAM_HEAD: Final = ResponseHead(
    200, (("content-type", CONTENT_TYPE),), None, chunked=True, keep_alive=True
)
_EVENT_END: Final = b"\n\n\r\n"  # of a chunk whose data ends a whole event
_SENT: Final = f"{REQUEST_ID}: %b\r\n{ASK}: %b\r\n{DEADLINE_MS}: %d\r\ncontent-length: %d\r\n\r\n%b".encode()
_WHOLE: Final = b"HTTP/1.1 200 OK\r%b\n%bcontent-length: %d\r\nserver-timing: %b\r\n\r\n%b"
_BEGUN: Final = b"HTTP/1.1 200 OK\r%b\n%btransfer-encoding: chunked\r\n\r\n%b"


class Passing:
    """`heard` is the loop time of what came last; the other times are of perf_counter."""

    __slots__ = (
        "_committed",
        "_held",
        "_read",
        "_routed",
        "ask",
        "body",
        "deadline",
        "decision",
        "entered",
        "heard",
        "lane",
        "passed_on",
        "patience",
        "reach",
        "request_id",
        "started",
        "upstream",
    )

    def __init__(
        self,
        lane: EdgeLane,
        ask: Ask,
        body: bytes,
        decision: Decision,
        started: float,
        read: float,
        now: float,
    ) -> None:
        door = lane.door
        self.lane = lane
        self.ask = ask
        self.body = body
        self.decision = decision
        self.reach = door.relay.reaches[decision.choices[0].region]
        self.patience = door.patiences.of(ask, lane.familiar.head.path)
        self.started = started
        self.heard = self.entered = now
        self.deadline = now + self.patience.total_s
        self.request_id = f"req_{os.urandom(16).hex()}"
        self.passed_on: bytes | None = None  # the last events that were sent, once some were
        self.upstream: Upstream
        self._held = b""  # of an answer that cannot be passed on yet
        self._read = read
        self._routed = self._committed = time.perf_counter()

    @property
    def head(self) -> RequestHead:
        """The client's, but for its content-length."""
        return self.lane.familiar.head

    @property
    def streams(self) -> bool:
        """The client has events."""
        return self.passed_on is not None

    def send(self, upstream: Upstream, constant: bytes) -> None:
        """The request's bytes, in one write; then what nobody waits for."""
        self.upstream = upstream
        ask, body, most_ms = self.ask.header().encode(), self.body, self.patience.total_s * 1000
        head = constant + _SENT % (self.request_id.encode(), ask, most_ms, len(body), body)
        upstream.lend(self)
        upstream.begin("POST", head, whole=True)
        self.lane.door.wake_near(self.decision, self.ask.model, self.heard)
        self.lane.terms(self.decision)

    # upstream.Taker -----------------------------------------------------------------------------------------

    def take(self, data: bytes) -> bool:
        """The answer's bytes, from their first to their last."""
        passes = self._first(self._held + data) if self.passed_on is None else self._more(data)
        if not passes:
            self.hand_over()
        return passes

    def hand_over(self) -> None:
        """The relay goes on with it."""
        if self.streams:
            self.upstream.go_on_chunked(_STREAM_HEAD)
        else:
            self.upstream.take_back(whole=False)
        if self._held:
            self.upstream.data_received(self._held)
        self.lane.line.go_on(self, self._go_on)

    # lane.Passage -------------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """The client is gone: the region sees it at once."""
        self.upstream.take_back(whole=False)
        self.upstream.abort()
        self.reach.pool.forget(self.upstream)
        self.leave()

    def check(self, now: float) -> None:
        """Silence is the relay's, and so is the deadline."""
        if now - self.heard > min(LATE_S, self.patience.first_byte_s) or now >= self.deadline:
            self.hand_over()

    # inside -------------------------------------------------------------------------------------------------

    async def _go_on(self, exchange: Exchange) -> None:
        await self.lane.door.go_on(exchange, self)

    def leave(self) -> None:
        """Its room is free."""
        self.lane.door.room.leave(len(self.body), asyncio.get_running_loop().time() - self.entered)

    def phases(self) -> Phases:
        """The stopwatch of the relay, as far as it has come."""
        phases = Phases("edge", started=self.started)
        phases.add("read", (self._read - self.started) * 1e3)
        phases.add("route", (self._routed - self._read) * 1e3)
        if self.streams:
            phases.add("first_byte", (self._committed - self._routed) * 1e3)
        phases.go_on(self._committed)
        return phases

    def _first(self, data: bytes) -> bool:
        """All that came so far: a whole answer, the beginning of a stream, or something to hold."""
        found = usual.read(data)
        if found is None:
            return False
        lines, told, start = found
        length, num_here = usual.whole_length(told), len(data) - start
        streams = told.get(b"content-type", b"").startswith(_STREAM)
        if length == num_here:
            return self._whole(lines, told, data[start:])
        if (length > num_here and not streams) or (streams and length < 0 and not num_here):
            if len(data) <= MAX_HELD_BYTES:
                self._held = data
            return self._held is data
        return streams and length < 0 and self._commit(lines, told, data, start)

    def _whole(self, lines: bytes, told: dict[bytes, bytes], body: bytes) -> bool:
        if told.get(b"content-type") != b"application/json" or body[:1] != b"{" or body[-1:] != b"}":
            return False  # whether it is whole is the relay's to say
        phases = self.phases()
        phases.mark("first_byte")
        phases.mark("stream")
        said = [usual.timing(lines)] if b"server-timing" in told else []
        timing = b", ".join([*said, phases.header().encode()])
        self._send(_WHOLE % (_DROPPED.sub(b"", lines), self._ours(told), len(body), timing, body))
        self.upstream.take_back(whole=True)
        self.reach.pool.keep(self.upstream)
        self.reach.saw(Outcome.SUCCEEDED)
        self.leave()
        self.lane.line.passed()
        return True

    def _commit(self, lines: bytes, told: dict[bytes, bytes], data: bytes, start: int) -> bool:
        """Begin the client's answer with its first event, unless there is none yet, or it may be replayed."""
        event = first_event(usual.first_chunk(data, start))
        if event is None or error_code(event) is not None or not _is_plain(data, start):
            return False
        self._committed, self._held = time.perf_counter(), b""
        self._pass_on(data[start:], _BEGUN % (_DROPPED.sub(b"", lines), self._ours(told), data[start:]))
        return True

    def _more(self, data: bytes) -> bool:
        """Whole events, chunk by chunk as they came."""
        if not _is_plain(data, 0):
            return False
        self._pass_on(data, data)
        return True

    def _pass_on(self, events: bytes, said: bytes) -> None:
        self._send(said)
        if self.passed_on is None or b"data:" in events:
            self.passed_on = events
        self.heard = asyncio.get_running_loop().time()
        if self.lane.line.is_behind:
            self.hand_over()

    def _ours(self, told: dict[bytes, bytes]) -> bytes:
        """The lines that the edge adds to any answer."""
        lane, number = self.lane, self.request_id
        date = "" if b"date" in told else f"date: {lane.line.date()}\r\n"
        their = f"{THEIR_REQUEST_ID}: {number}\r\n" if lane.has_own_name else ""
        ours = f"{date}{lane.says}{their}{REQUEST_ID}: {number}\r\n{REGION}: {self.reach.name}\r\n{ROUTE}: "
        return b"%b%b\r\n" % (ours.encode(), lane.terms(self.decision))

    def _send(self, data: bytes) -> None:
        try:
            self.lane.line.send(data)
        except Disconnected:  # said to us by `cancel` at once
            return


def _is_plain(data: bytes, start: int) -> bool:
    """Whether there are whole chunks of whole events from `start` on, of which none is the last or has an id."""
    ends_whole = data.endswith(_EVENT_END) and usual.whole_chunks(data, start) == len(data)
    return ends_whole and b"[DONE]" not in data and b"\nid:" not in data

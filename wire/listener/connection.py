"""One client connection: the gate's events on one side, exchanges and their handlers on the other.

Requests of one connection are served one after another; the bytes of a pipelined one wait in the gate. The
deadlines are checked by the server's sweep, so an ordinary request starts no timer.
"""

import asyncio
import logging
import os
import ssl
import time
from collections.abc import Callable
from typing import cast

from wire.flow import Flow
from wire.http.http1 import (
    Body,
    End,
    Events,
    Message,
    RequestGate,
    RequestHead,
    check_host,
    response_head_bytes,
)
from wire.lanes.lane import Handed, Lane, Passage
from wire.listener import descriptors, filesend
from wire.listener.dropping import LINGER_S, Dropping
from wire.listener.endings import Cause, Stage
from wire.listener.exchange import Exchange
from wire.listener.handling import handle
from wire.listener.roster import Handler, Roster
from wire.listener.writing import Writing
from wire.refused.refusal import Refusal
from wire.secured.secure import promptly

FULL_S = 0.5  # how long one too many may stay to hear that it is
FULL = "Too many connections; try again shortly."
SLOW_HEAD = "The request head took too long to arrive."
SLOW_BODY = "The request body arrives too slowly."

log = logging.getLogger("nearfield.wire")


class Connection(Writing):
    """See the file's docstring. Implements `line.Line`.

    Attributes:
        roster: what it has in common with the others of its listener.
    """

    def __init__(self, roster: Roster) -> None:
        super().__init__(roster.limits, carries_descriptors=roster.only_uid is not None)
        self.roster = roster
        self._gate = RequestGate(roster.limits)
        self._held = self._gate.held  # looked at for each message: a call costs as much as five looks
        self._address = ""
        self._exchange: Exchange | None = None
        self._flow: Flow | None = None
        self._lane: Lane | None = None
        self._passage: Passage | None = None  # the request that is under way on the lane
        self._raw_head = b""  # of the message that is begun just now, if it came whole
        self._deadline = 0.0  # loop time; for the head, the idle time or the lingering close
        self._in_head = True
        self._dropping: Dropping | None = None
        self._at_end: list[Callable[[], None]] = []
        self._num_unread_bytes = 0
        self._reading = True
        self._lent = False  # paused, and somebody else reads
        self._is_told = False  # why it ends

    # asyncio.Protocol --------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Admit the peer, or answer 503 before a byte is parsed."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        self._transport.set_write_buffer_limits(self._limits.write_buffer_bytes)
        peername = transport.get_extra_info("peername")
        self._address = str(peername[0]) if peername else ""
        self._deadline = self._loop.time() + self._limits.head_s
        admitted = self.roster.admit(self, self._address)
        if self._is_stranger():
            self.cut(Cause.STRANGER)
        elif not admitted and self.roster.is_flooded(self._address):
            self.cut(Cause.FLOODED)
        elif not admitted:
            self._tell(Cause.TOO_MANY)
            self._refuse(Refusal(503, "overloaded", FULL, "server_error", retry_after_s=1))
            self._deadline = self._loop.time() + FULL_S
        elif self.roster.met is not None:
            self.roster.met(self._transport, self._address)

    def data_received(self, data: bytes) -> None:
        """Bytes of a head, of a body, or of a request that must wait; most often of one that a lane takes."""
        try:
            self._received(data)
        except OSError:  # an event loop takes it for the socket's own, and would close without a word
            log.exception("a connection failed on what it received")
            self.cut(Cause.FAULT)

    def _received(self, data: bytes) -> None:
        if self._passage is not None:  # they come behind one
            self._gate.hold(data)
            self._watch_input()
            return
        is_free = self._exchange is None and not self._held.data and self._dropping is None
        if is_free and not self.roster.draining and not self._transport.is_closing():
            lane = self._lane
            self._passage = (None if lane is None else lane.take(data, self)) or self._on_others_lane(data)
            if self._passage is not None:
                return
        self._read(data)

    def eof_received(self) -> bool:
        """A client that stops sending before it has its answer is gone: it will not read it either."""
        if self._passage is not None or (self._exchange is not None and not self._exchange.finished):
            self._tell(Cause.CLIENT_LEFT)
            self._gone()
            self._transport.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the handler, and wake whoever waits."""
        self._tell(Cause.TLS_FAULT if isinstance(exc, ssl.SSLError) else Cause.CLIENT_LEFT, str(exc or ""))
        self.roster.leave(self, self._address)
        self._gone()

    # line.Line ---------------------------------------------------------------------------------------------

    def at_end(self, act: Callable[[], None]) -> None:
        """Call `act` once this connection is over; at once if it is."""
        if self._lost:
            act()
        else:
            self._at_end.append(act)

    def raw_head(self) -> bytes:
        """The head that is being handled right now, if its message came whole."""
        return self._raw_head

    def leave(self, lane: Lane) -> None:
        """Offer later messages to `lane`, and those of other connections that begin with the same head."""
        self._take_up(lane)
        self.roster.lanes.keep(lane)

    # lane.LaneLine ------------------------------------------------------------------------------------------

    def passed(self, now: float) -> None:
        """The passage's answer is whole."""
        self._passage = None
        if self._reading and not self._held.data and not self.roster.draining:
            self._deadline = now + self._limits.idle_s  # nearly always
        elif self.roster.draining:
            self._end_kept()
        else:
            self._await_next()

    def go_on(self, passage: Handed, handler: Handler) -> None:
        """It is an exchange from here on, for `handler`."""
        self._passage, self._in_head = None, False
        exchange = self._exchange = Exchange(passage.head, self._address, self, b"")
        exchange.went_on(passage.started, streaming=passage.streams)
        self._flow = Flow(handle(exchange, handler, self))
        self._flow.resume()

    # handling.Server ----------------------------------------------------------------------------------------

    def handled(self, exchange: Exchange) -> None:
        """The handler has ended, and the exchange if its body did too: take the next request, or close."""
        self._flow = None
        if self._lost:
            return
        if not exchange.keep_alive or self.roster.draining:
            if exchange.body_complete:
                self._end_kept()
            else:
                self._linger()
        elif exchange.body_complete:
            self._exchange = self._dropping = None
            self._num_unread_bytes = 0
            self._await_next()
        else:
            self._drop(only_message=True)

    # line.Line: bodies --------------------------------------------------------------------------------------

    def body_taken(self, num_bytes: int) -> None:
        """Read on once the handler has caught up to half."""
        self._num_unread_bytes -= num_bytes
        caught_up = self._num_unread_bytes <= self._limits.read_buffer_bytes // 2
        if caught_up and not self._reading and not self._lent:
            self._read_on()

    @property
    def peer_is_ahead(self) -> bool:
        """More of a body was sent than the handler has taken, and the rest may be read without us."""
        plain = self._gate.num_body_bytes_left > 0 and filesend.is_plain(self._transport)
        return plain and not self._reading and not self._lost

    def lend(self) -> tuple[int, int]:
        """A descriptor to read the body's rest from, the caller's to close; how many bytes that is. Raises OSError."""
        sock_fd = os.dup(self._transport.get_extra_info("socket").fileno())
        self._lent = True
        return sock_fd, self._gate.num_body_bytes_left

    def take_back(self, num_bytes: int) -> None:
        """Read on, `num_bytes` of the body later."""
        self._lent = False
        self._dispatch(self._gate.pass_by(num_bytes))
        self.body_taken(0)

    def cut(self, cause: Cause = Cause.ANSWER_BROKE) -> None:
        """Reset the connection."""
        self._tell(cause)
        if self._exchange is not None and self._exchange.would_look_whole:
            self._reset_on_close()
        self._gone()
        self._transport.abort()

    # the server ---------------------------------------------------------------------------------------------

    def check(self, now: float) -> None:
        """(The sweep, `now` in loop time) enforce whichever deadline applies."""
        exchange = self._exchange
        if self._transport.is_closing():
            if now >= self._deadline:
                self._cut_untaken()
        elif self._stall is not None and self._is_stalled(now):
            self._cut_untaken()
        elif self._passage is not None:
            self._passage.check(now)
        elif exchange is not None and self._dropping is None:
            if exchange.body_rate_missed(self._limits.body_bytes_per_s, self._limits.body_grace_s):
                exchange.feed_end(Refusal(408, "bad_request", SLOW_BODY))
            elif self._limits.total_s is not None and exchange.age_s() > self._limits.total_s:
                self.cut(Cause.TOO_LONG)
        elif now >= self._deadline:
            self._end_idle()

    def close_if_idle(self) -> None:
        """(Drain) a connection without a request ends now; the others after their answer."""
        if self._exchange is None and self._passage is None and self._dropping is None:
            self._tell(Cause.DRAINED)
            self._close()

    @property
    def task(self) -> asyncio.Task[None] | None:
        """The running handler's task, if it runs in one."""
        return None if self._flow is None else self._flow.task

    # inside -------------------------------------------------------------------------------------------------

    def _read(self, data: bytes) -> None:
        """What no lane takes."""
        if self._dropping is not None:
            if not self._dropping.bears(len(data)):
                self.cut()
            if not self._dropping.only_message:
                return
        heard_at = time.perf_counter()
        is_first = not self._held.data
        try:
            events = self._gate.receive(data)
        except Refusal as refusal:
            self._gate_refused(refusal)
            return
        if is_first and events and isinstance(events[0], Message):
            self._raw_head = data[: len(data) - len(events[0].body)]
        self._dispatch(events, heard_at)
        self._raw_head = b""

    def _on_others_lane(self, data: bytes) -> Passage | None:
        """Its passage, if the head came before on another connection of the listener, and its Host is served still."""
        lane = self.roster.lanes.of(data)
        if lane is None or lane is self._lane:
            return None
        try:
            check_host(lane.familiar.head.get("host") or "", self._limits)
        except Refusal:
            return None
        self._take_up(lane)
        return lane.take(data, self)

    def _take_up(self, lane: Lane) -> None:
        self._lane, self._in_head = lane, False
        self._say_now = self._say_now or promptly(self._transport)

    def _dispatch(self, events: Events, heard_at: float | None = None) -> None:
        """`heard_at`: when their bytes came, if that was just now; a request's clock begins there."""
        begun: Exchange | None = None
        for event in events:
            if isinstance(event, Message):
                begun = Exchange(event.head, self._address, self, event.body)
                self._num_unread_bytes = len(event.body)
            elif isinstance(event, RequestHead):
                begun = self._exchange = Exchange(event, self._address, self)
            elif self._exchange is not None:
                self._pass_on(self._exchange, event)
        if begun is None or not begun.body_complete:
            self._watch_input()
        if begun is not None and heard_at is not None:
            begun.started = heard_at
        if begun is not None:  # last: the handler runs now, with all that is here already fed to it
            self._in_head, self._exchange = False, begun
            self._flow = Flow(handle(begun, self.roster.handler, self))
            self._flow.resume()

    def _watch_input(self) -> None:
        """More is to come: start the clock of a head, and stop reading what the handler does not take."""
        num_waiting = len(self._held.data)
        if self._exchange is None and self._passage is None:
            if not self._in_head and num_waiting:
                self._in_head = True
                self._deadline = self._loop.time() + self._limits.head_s
        elif self._reading and self._num_unread_bytes + num_waiting > self._limits.read_buffer_bytes:
            self._reading = False
            self._transport.pause_reading()

    def _pass_on(self, exchange: Exchange, event: Body | End) -> None:
        skips = self._dropping is not None and self._dropping.only_message
        if isinstance(event, End):
            exchange.feed_end()
            if skips:
                self.handled(exchange)
        elif not skips:
            self._num_unread_bytes += len(event.data)
            exchange.feed(event.data)

    def _end_kept(self) -> None:
        """No further request is taken."""
        if self._held.data:
            self._exchange = None  # answered; what is held is the next
            self._tell(Cause.DRAINED if self.roster.draining else Cause.CLOSE_SAID)
            self._linger()
        else:
            self._is_told = True
            self._close()

    def _await_next(self) -> None:
        """The next request, from here on or at once."""
        self._deadline = self._loop.time() + self._limits.idle_s
        if not self._reading:
            self._read_on()
        if self._held.data:
            self._loop.call_soon(
                self._next_request
            )  # not from here: a thousand of them would be a deep stack
        else:
            self._gate.next_message()

    def _next_request(self) -> None:
        if self._exchange is not None or self._passage is not None or self._lost:
            return
        try:
            events = self._gate.next_message()
        except Refusal as refusal:
            self._gate_refused(refusal)
            return
        self._dispatch(events)

    def _gate_refused(self, refusal: Refusal) -> None:
        if self._exchange is None:
            self._tell(Cause.MALFORMED, f"{refusal.status} {refusal.code}", Stage.HEAD)
            self._refuse(refusal)
        else:
            self._exchange.keep_alive = False
            self._exchange.feed_end(refusal)

    def _refuse(self, refusal: Refusal) -> None:
        """Answer without a handler, and close."""
        self._say(refusal)
        self._linger()

    def _say(self, refusal: Refusal) -> None:
        headers, body = self.roster.speak(refusal)
        framing = (("content-length", str(len(body))), ("connection", "close"))
        self._transport.write(response_head_bytes(refusal.status, (*headers, *framing)) + body)

    def _linger(self) -> None:
        """Close so that the answer arrives."""
        self._drop(only_message=False)
        if self._transport.can_write_eof():
            self._transport.write_eof()

    def _drop(self, *, only_message: bool) -> None:
        self._dropping = Dropping(only_message=only_message)
        self._deadline = self._loop.time() + LINGER_S
        self._read_on()

    def _close(self) -> None:
        """Close once the peer has what is queued; it has as long as for any write."""
        self._deadline = self._loop.time() + self._limits.write_stall_s
        self._transport.close()

    def _read_on(self) -> None:
        if not self._reading and not self._transport.is_closing():
            self._reading = True
            self._transport.resume_reading()

    def _cut_untaken(self) -> None:
        """Cut a peer that does not take its answer, and what the kernel holds of it too, which may be some MB."""
        if self._transport.get_write_buffer_size():
            self._reset_on_close()
        self.cut(Cause.ANSWER_STALLED)

    def _end_idle(self) -> None:
        """Its time for a head, for the next request or for lingering is over."""
        if self._dropping is not None:
            self.cut()
        elif self._held.data:
            self._tell(Cause.HEAD_LATE)
            self._refuse(Refusal(408, "bad_request", SLOW_HEAD))
        else:
            self._tell(Cause.UNUSED)
            self._close()

    @property
    def _stage(self) -> Stage:
        """How far it is."""
        exchange = self._exchange
        if self._passage is not None:
            return Stage.REQUEST
        if exchange is not None and not exchange.finished:
            return Stage.ANSWER if exchange.status else Stage.REQUEST
        if self._held.data and exchange is None:
            return Stage.HEAD
        return Stage.NEW if self._in_head and exchange is None else Stage.BETWEEN

    def _tell(self, cause: Cause, why: str = "", stage: Stage | None = None) -> None:
        """Once, and before anything of it is forgotten."""
        if not self._is_told:
            self._is_told = True
            self.roster.endings.note(cause, stage or self._stage, why)

    def _is_stranger(self) -> bool:
        only = self.roster.only_uid
        return only is not None and descriptors.peer_uid(self._transport) != only

    def _gone(self) -> None:
        """The peer is gone or was cut: said once to the exchange and its handler."""
        if self._lost:
            return
        self._lost = True
        self.resume_writing()
        acts, self._at_end = self._at_end, []
        for act in acts:
            act()
        passage, self._passage = self._passage, None
        if passage is not None:
            passage.cancel()
        exchange, flow = self._exchange, self._flow
        if exchange is None:
            return
        exchange.disconnected = True
        if flow is not None and not exchange.finished:
            flow.cancel()

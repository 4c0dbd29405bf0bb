"""One connection to an upstream: bytes out with back-pressure, one answer in, deadlines by one lazy timer."""

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, cast

from wire.alarm import Alarm
from wire.flow import Signal
from wire.http.http1 import Body, End, ResponseError, ResponseHead, ResponseReader
from wire.lanes.lane import Taker
from wire.secured.secure import promptly
from wire.upstreams.failure import DialError, Phase

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

READ_BUFFER_BYTES = 256 * 1024  # answer bytes held for a slow reader before the upstream is made to wait
WRITE_BUFFER_BYTES = 256 * 1024
JOIN_BYTES = 64 * 1024  # small pieces that wait together are handed over together


class Upstream(asyncio.Protocol):
    """One connection. `begin` a request, `send` it, then take `head` and pieces; one request at a time."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time
        self._transport: asyncio.Transport
        self._reader = ResponseReader()
        self._alarm = Alarm(self._timed_out)
        self._phase: Phase = "send"
        self._head: ResponseHead | None = None
        self._pieces: deque[bytes] = deque()
        self._num_held_bytes = 0
        self._ended = False
        self._sent = False
        self._received = 0
        self._failure: DialError | None = None
        self._news = Signal()
        self._quiet_s: float | None = None  # of silence before the head; None: only `answer`'s deadline holds
        self._head_until = 0.0  # loop time
        self._drain: asyncio.Future[None] | None = None
        self._reading = True
        self._taker: Taker | None = None
        self._say_now: Callable[[bytes], None] | None = None  # once something was sent
        self.lent_at = 0.0  # loop time
        self.sent_at = 0.0  # perf_counter, just before the first bytes of a request that was begun left
        self.heard_at = 0.0  # perf_counter, when bytes of the answer came last
        self.sock: socket.socket | None = None  # what carries it, where that is TCP
        self.closed = False
        self.given_up = False  # by us, with a request on it: sending it again is not the dialler's choice
        self.opened_at = 0.0  # loop time, before its server can have known of it
        self.idle_since = 0.0  # loop time, kept by the pool

    # asyncio.Protocol --------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The pool connected."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        self._transport.set_write_buffer_limits(WRITE_BUFFER_BYTES)

    def data_received(self, data: bytes) -> None:
        """Bytes of the answer; a byte that nobody asked for ends the connection."""
        if self._ended or self.closed:
            self.abort()
            return
        self._received += len(data)
        if self._taker is not None and self._taker.take(data):
            return
        self.heard_at = time.perf_counter()
        try:
            events = self._reader.receive(data)
        except ResponseError as error:
            self._fail(str(error))
            return
        self._take(events)
        if self._head is None and self._quiet_s is not None and self._reader.num_interim:
            self._be_quiet_at_most(self._quiet_s)
        if self._num_held_bytes > READ_BUFFER_BYTES and self._reading:
            self._reading = False
            self._transport.pause_reading()
        self._news.set()

    def eof_received(self) -> bool:
        """The upstream sends no more: the end of an answer framed so, else a fault."""
        self._upstream_closed("the upstream closed the connection", is_clean=True)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The same, less politely."""
        self.closed = True
        reason = f"the connection broke: {exc}" if exc else "the connection was closed"
        self._upstream_closed(reason, is_clean=exc is None)
        self._alarm.stop()
        self.resume_writing()
        self._tell()

    def pause_writing(self) -> None:
        """The upstream reads slower than we send."""
        self._drain = self._loop.create_future()

    def resume_writing(self) -> None:
        """It caught up."""
        drain, self._drain = self._drain, None
        if drain is not None and not drain.done():
            drain.set_result(None)

    # for the pool -------------------------------------------------------------------------------------------

    def is_usable(self) -> bool:
        """True if another request may be sent on it."""
        return not self.closed and self._failure is None and not self._transport.is_closing()

    @property
    def received(self) -> int:
        """Bytes of the current answer seen."""
        return self._received

    @property
    def waits(self) -> bool:
        """A request is on it, and not a byte has come."""
        return not self._received and not self._ended and self._failure is None

    @property
    def answered(self) -> bool:
        """The head of the final answer, or the end of the connection, is here."""
        return self._head is not None or self._failure is not None

    def begin(self, method: str, first: bytes, *, whole: bool) -> None:
        """Start a request and send its first bytes, all of it if `whole`. Raises DialError."""
        if (
            self.closed or self._failure is not None
        ):  # after it was given: nobody would say so of this request
            raise self._failure or DialError("send", 0, "the connection is over")
        self._reader.start(method)
        self._head, self._ended, self._received, self._phase = None, False, 0, "send"
        self._sent = whole
        self.sent_at = time.perf_counter()
        if self._transport.is_closing():
            self._transport.write(first)
        else:
            self._say(first)

    @property
    def is_behind(self) -> bool:
        """It reads slower than we send: `caught_up` waits for it."""
        return self._drain is not None

    async def caught_up(self) -> None:
        """Wait while the upstream reads slowly. Raises DialError."""
        if self._drain is not None:
            await asyncio.shield(self._drain)
            if self._failure is not None:
                raise self._failure

    async def send(self, *parts: bytes) -> None:
        """Queue request bytes; waits while the upstream reads slowly. Raises DialError."""
        if self._failure is not None:
            raise self._failure
        self._transport.writelines(parts)
        await self.caught_up()

    def sent_whole(self) -> None:
        """Nothing is owed of the request: without this the upstream would read the next one as its rest."""
        self._sent = True

    def allow(self, seconds: float | None) -> None:
        """The upstream has `seconds` for its next step; None while it waits for us."""
        self._alarm.set(seconds)

    async def continued(self, wait_s: float) -> bool:
        """Wait for `100 Continue`, at most `wait_s`; False if the final answer came instead."""
        deadline = self._loop.time() + wait_s
        patience = Alarm(self._news.set)
        patience.set(wait_s)
        try:
            while not (self._reader.continued or self.answered) and self._loop.time() < deadline:
                await self._news
        finally:
            patience.stop()
        return not self.answered

    async def answer(self, head_s: float, quiet_s: float | None = None) -> ResponseHead:
        """The answer's head, at most `head_s` seconds from now. Raises DialError.

        With `quiet_s` the upstream must also say something in every such span, an interim answer (1xx) at least.
        """
        self._phase = "head"
        if quiet_s is None or quiet_s >= head_s:
            self._alarm.set(head_s)
        else:
            self._quiet_s, self._head_until = quiet_s, self._loop.time() + head_s
            self._alarm.set(quiet_s)
        while self._head is None:
            if self._failure is not None:
                raise self._failure
            await self._news
        self._phase = "body"
        self._quiet_s = None
        self._alarm.set(None)
        return self._head

    async def piece(self, between_s: float) -> bytes:
        """The next bytes of the body, b"" at its end. Raises DialError, also for silence over `between_s`."""
        if not self._pieces and not self._ended and self._failure is None:
            self._alarm.set(between_s)
            while not self._pieces and not self._ended and self._failure is None:
                await self._news
            self._alarm.set(None)
        if self._pieces:
            return self._next_pieces()
        if self._ended:
            return b""
        assert self._failure is not None  # noqa: S101 - the loop above ends for one of three reasons
        raise self._failure

    @property
    def ends_by_close(self) -> bool:
        """Nothing but the connection's end will say where the answer ends."""
        return self._reader.ends_by_close

    @property
    def complete(self) -> bool:
        """The whole answer was handed over."""
        return self._ended and not self._pieces

    @property
    def reusable(self) -> bool:
        """Request and answer are over, and the answer was framed so that another may follow."""
        head = self._head
        over = self._sent and self.complete and self.is_usable()
        return over and head is not None and head.keep_alive and self._reader.reusable

    def abort(self) -> None:
        """Close at once, without flushing: the upstream sees it and stops working."""
        self.closed = True
        self._alarm.stop()
        if self._failure is None and not self._ended:
            self.given_up = True
            self._failure = DialError(self._phase, self._received, "the request was given up")
        self._transport.abort()
        self._tell()

    # for a lane ---------------------------------------------------------------------------------------------

    def lend(self, taker: Taker, request: bytes, now: float) -> None:
        """Send a whole POST at once; its `taker` has the answer's bytes as they come, framing and all.

        It is usable, as a pool gives it.
        """
        self._head, self._ended, self._received, self._phase = None, False, 0, "send"
        self._sent = True
        self._taker, self.lent_at = taker, now
        self._say(request)

    def take_back(self, *, whole: bool) -> None:
        """Read on from here; `whole`: the taker had all of the answer, so that another request may follow."""
        self._taker = None
        self._ended = whole
        if not whole:
            self._reader.start("POST")

    def go_on_chunked(self, head: ResponseHead) -> None:
        """The taker had the head and whole chunks: what comes is the rest of that body."""
        self._taker, self._head = None, head
        self._reader.start("POST")
        self._reader.go_on_chunked()

    # inside -------------------------------------------------------------------------------------------------

    def _say(self, request: bytes) -> None:
        """At once: what the loop's turn still has to do would be the upstream's wait."""
        say = self._say_now
        if say is None:
            say = self._say_now = promptly(self._transport)
        say(request)

    def _tell(self) -> None:
        """The connection failed or is over."""
        taker, self._taker = self._taker, None
        if taker is not None:
            taker.hand_over()
        self._news.set()

    def _take(self, events: list[ResponseHead | Body | End]) -> None:
        for event in events:
            if isinstance(event, Body):
                self._pieces.append(event.data)
                self._num_held_bytes += len(event.data)
            elif isinstance(event, End):
                self._ended = True
            else:
                self._head = event

    def _be_quiet_at_most(self, seconds: float) -> None:
        """It gave a sign of life: it has as long again for the next one, within the deadline of its head."""
        self._alarm.set(max(0.0, min(seconds, self._head_until - self._loop.time())))

    def _next_pieces(self) -> bytes:
        """One piece, or all that wait if they are small."""
        if len(self._pieces) == 1 or self._num_held_bytes > JOIN_BYTES:
            data = self._pieces.popleft()
        else:
            data = b"".join(self._pieces)
            self._pieces.clear()
        self._num_held_bytes -= len(data)
        if not self._reading and self._num_held_bytes <= READ_BUFFER_BYTES // 2 and self.is_usable():
            self._reading = True
            self._transport.resume_reading()
        return data

    def _fail(self, reason: str, *, timed_out: bool = False) -> None:
        if self._failure is None and not self._ended:
            self._failure = DialError(self._phase, self._received, reason, timed_out=timed_out)
        self.abort()

    def _timed_out(self) -> None:
        self._fail("the upstream was silent for too long", timed_out=True)

    def _upstream_closed(self, reason: str, *, is_clean: bool) -> None:
        """The end of an answer that the connection's end frames, unless the connection broke; else a fault."""
        if self._ended or self._failure is not None:
            return
        if is_clean and self._reader.ends_by_close:
            self._take(self._reader.receive_eof())
        else:
            self._failure = DialError(self._phase, self._received, reason)
        self._tell()

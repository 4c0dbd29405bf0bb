"""One request and its answer, as a handler sees them."""

import asyncio
import re
from collections.abc import Callable, Sequence
from contextlib import suppress

from wire.http.framing import LAST_CHUNK, chunk_parts
from wire.http.http1 import Headers, RequestHead, response_head_bytes
from wire.lanes.lane import Familiar, Lane, familiar
from wire.listener.incoming import CONTINUE, Incoming
from wire.listener.line import Disconnected, Line

JOIN_BYTES = 16 * 1024  # below this one copy is cheaper than three writes
PIECE_BYTES = 64 * 1024  # of a large answer that is at hand, at once
PROCESSING = b"HTTP/1.1 102 Processing\r\n\r\n"
_OURS = frozenset({"content-length", "transfer-encoding", "connection", "keep-alive"})
_BODYLESS = frozenset({204, 304})
_CHUNKED: Headers = (("transfer-encoding", "chunked"),)


class Exchange(Incoming):
    """One request on one connection, and its answer.

    Attributes:
        finished: the whole answer is queued.
        keep_alive: the connection may serve another request.
    """

    finished = False
    _held_bytes = b""  # the head, and small pieces of the body: what is said in one turn leaves in one write
    _flushes = False  # they leave with the loop's next turn
    _left: int | None = None  # answer bytes still owed; None when chunked or up to the close
    _chunked = False
    _mute = False  # HEAD, 204, 304: a body is counted but not sent

    def __init__(self, head: RequestHead, peer: str, line: Line, body: bytes | None = None) -> None:
        """As Incoming."""
        super().__init__(head, peer, line, body)
        self.keep_alive = head.keep_alive

    def went_on(self, started: float, *, streaming: bool) -> None:
        """(A lane) its body was taken, and with `streaming` the head of a chunked 200 and whole chunks were sent."""
        self.started = started
        if streaming:
            self.status, self._chunked = 200, True

    # The answer --------------------------------------------------------------------------------------------

    async def start(
        self, status: int, headers: Headers, length: int | None = None, *, first: bytes = b""
    ) -> None:
        """Begin the answer; with `length` None it is chunked. The head leaves with the first write or soon.

        `first` is the beginning of the body, if it is at hand: it leaves with the head. Framing headers among
        `headers` are ignored: they are set here. Raises Disconnected.
        """
        self._open(status, headers, length)
        if first:
            await self.write(first)
        else:
            self._flush_soon()

    async def write(self, data: bytes) -> None:
        """Send body bytes; waits while the peer reads slowly. `data` is not copied. Raises Disconnected."""
        self._check_writable()
        if not data:
            return
        self._owe(len(data))
        if not self._mute:
            self._send_body(data)
        await self._line.drained()

    async def sendfile(self, fd: int, offset: int, count: int) -> None:
        """Send `count` bytes of file `fd` from `offset`, uncopied but for TLS; after `start(length=...)`.

        Raises Disconnected, or OSError if the file ends early (the answer is then cut short).
        """
        self._check_writable()
        if self._left is None:
            raise RuntimeError("sendfile needs start(..., length=...)")
        self._owe(count)
        self._flush()
        if count and not self._mute:
            await self._line.send_file(fd, offset, count)

    @property
    def carries_descriptors(self) -> bool:
        """True if `send_descriptors` may be used: the client came over a Unix socket."""
        return self._line.carries_descriptors

    async def send_descriptors(self, data: bytes, fds: Sequence[int]) -> None:
        """Send body bytes with open files beside them; after `start(length=...)`. The caller closes its own.

        Raises Disconnected, or OSError if the kernel takes no more descriptors.
        """
        self._check_writable()
        if self._left is None or not self.carries_descriptors:
            raise RuntimeError("descriptors need start(..., length=...) on a Unix socket")
        self._owe(len(data))
        self._flush()
        await self._line.send_descriptors(data, fds)

    def familiar(self, ending: re.Pattern[bytes] | None = None) -> Familiar | None:
        """(While the handler has not waited) this head as a lane knows it again; None: no lane for such."""
        raw = self._line.raw_head()
        return familiar(raw, self.head, ending) if raw else None

    def leave(self, lane: Lane) -> None:
        """Offer later requests of this connection to `lane`."""
        self._line.leave(lane)

    def at_end(self, act: Callable[[], None]) -> None:
        """Call `act` once the client's connection is over: a lease that a crash of its holder ends."""
        self._line.at_end(act)

    async def finish(self, data: bytes = b"") -> None:
        """End the answer, with its last bytes in the same write.

        Fewer bytes than promised cut the connection and raise ValueError.
        """
        self._check_writable()
        self._owe(len(data))
        if self._left and not self._mute:
            self.abort()
            raise ValueError("the answer is shorter than its announced length")
        if self._chunked and not self._mute:
            self._send_last(data)
        else:
            self._flush()
            if data and not self._mute:
                self._line.send(data)
        self.finished = True

    async def respond(self, status: int, headers: Headers, body: bytes = b"") -> None:
        """The whole answer, in one write unless it is large: then as the peer takes it. Raises Disconnected."""
        self._open(status, headers, len(body))
        head = self._take_held()
        if self._mute or not body:
            self._line.send(head)
        elif len(body) < JOIN_BYTES:
            self._line.send(head + body)
        elif len(body) <= PIECE_BYTES:
            self._line.send(head, body)
        else:
            await self._send_in_pieces(head, memoryview(body))
        self._left = 0
        self.finished = True
        await self._line.drained()

    async def _send_in_pieces(self, head: bytes, body: memoryview) -> None:
        """All but what is queued waits where it is, and not in records beside it."""
        self._line.send(head, body[:PIECE_BYTES])
        for at in range(PIECE_BYTES, len(body), PIECE_BYTES):
            await self._line.drained()
            self._line.send(body[at : at + PIECE_BYTES])

    def pulse(self, comment: bytes) -> None:
        """A sign of life: an interim answer before the head, `comment` inside an answer of no known length.

        It waits for nobody, says nothing to HTTP/1.0, and must not fall between two parts of one event.
        """
        if self.disconnected or self.finished:
            return
        if not self.status and self.head.minor == 1:
            self._line.send(PROCESSING)
        elif self.status and self._chunked and not self._mute:
            self._send_body(comment)

    def check_finished(self) -> None:
        """Raise RuntimeError if the answer is neither whole nor aborted: a handler must not return before."""
        if not self.finished and not self.disconnected:
            raise RuntimeError("the handler returned without finishing its answer")

    @property
    def would_look_whole(self) -> bool:
        """True while a plain close would be the end of the answer: it is begun, and nothing else ends it."""
        is_open = bool(self.status) and not self.finished
        return is_open and self._left is None and not self._chunked and not self._mute

    def abort(self) -> None:
        """Cut the connection at once; the client sees an answer that is plainly broken."""
        self.keep_alive = False
        self._line.cut()

    def _open(self, status: int, headers: Headers, length: int | None) -> None:
        """Fix the answer's framing and make its head."""
        self._check_connected()
        if self.status:
            raise RuntimeError("the answer was started already")
        self._mute = self.head.method == "HEAD" or status in _BODYLESS
        self.keep_alive = self.keep_alive and not self._line.roster.draining and self._body_will_be_read()
        framing = self._framing(status, length)
        given = dict(headers)
        if not _OURS.isdisjoint(given):
            headers = tuple([pair for pair in headers if pair[0] not in _OURS])
        if "date" not in given:
            headers = (*headers, ("date", self._line.roster.date))
        self._held_bytes = response_head_bytes(status, headers + framing)
        if self.head.expect_continue and self._may_wait and self._ended:
            # An empty body needs no 100, but botocore misreads the next answer of a connection that left one out.
            self._held_bytes = CONTINUE + self._held_bytes
        self._left = length
        self.status = status

    def _framing(self, status: int, length: int | None) -> Headers:
        """The headers that say where the answer ends: by length, chunked, or for HTTP/1.0 clients by the close."""
        framing: Headers = ()
        if length is not None:
            framing = (("content-length", str(length)),) if status not in _BODYLESS else ()
        elif not self._mute:
            self._chunked = self.head.minor == 1
            self.keep_alive = self.keep_alive and self._chunked
            framing = _CHUNKED if self._chunked else ()
        return framing if self.keep_alive else (*framing, ("connection", "close"))

    def _send_body(self, data: bytes) -> None:
        if not self._chunked:
            self._line.send(self._take_held(), data)
        elif len(data) < JOIN_BYTES:
            self._held_bytes += b"%x\r\n%b\r\n" % (len(data), data)
            self._flush_soon()
        else:
            self._line.send(self._take_held(), *chunk_parts(data))

    def _send_last(self, data: bytes) -> None:
        """The end of a chunked answer; in one piece if it is small, which over TLS is one record."""
        head = self._take_held()
        if not data:
            self._line.send(head + LAST_CHUNK)
        elif len(data) < JOIN_BYTES:
            self._line.send(b"%b%x\r\n%b\r\n%b" % (head, len(data), data, LAST_CHUNK))
        else:
            self._line.send(head, *chunk_parts(data), LAST_CHUNK)

    def _owe(self, num_bytes: int) -> None:
        if self._left is None:
            return
        if num_bytes > self._left:
            self.abort()
            raise ValueError("the answer is longer than its announced length")
        self._left -= num_bytes

    def _take_held(self) -> bytes:
        head, self._held_bytes = self._held_bytes, b""
        return head

    def _flush(self) -> None:
        if self._held_bytes and not self.disconnected:
            self._line.send(self._take_held())

    def _flush_soon(self) -> None:
        """With the loop's next turn, unless the answer's end comes before; what is much is not held so long."""
        if len(self._held_bytes) >= JOIN_BYTES:
            self._flush()
        elif not self._flushes:
            self._flushes = True
            asyncio.get_running_loop().call_soon(self._in_turn)

    def _in_turn(self) -> None:
        self._flushes = False
        with suppress(Disconnected):  # who writes next hears of it
            self._flush()

    def _check_writable(self) -> None:
        if self.disconnected:
            raise Disconnected("the client is gone")
        if not self.status or self.finished:
            raise RuntimeError("the answer is not open")

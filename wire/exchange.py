"""One request and its answer, as a handler sees them."""

import asyncio
import os
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor

from wire.bodyread import SocketBody, Take
from wire.flow import Signal
from wire.framing import LAST_CHUNK, chunk_parts
from wire.http1 import Headers, RequestHead, response_head_bytes
from wire.lane import Familiar, Lane, familiar
from wire.line import Line
from wire.refusal import Refusal

JOIN_BYTES = 16 * 1024  # below this one copy is cheaper than three writes
SMALL_BYTES = (
    4 * 1024
)  # pieces below it are put together while they wait: each costs an object beside its bytes
SKIP_BYTES = 1024 * 1024  # of an unwanted body; for more the connection is closed instead
PROCESSING = b"HTTP/1.1 102 Processing\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_OURS = frozenset({"content-length", "transfer-encoding", "connection", "keep-alive"})
_BODYLESS = frozenset({204, 304})
_CHUNKED: Headers = (("transfer-encoding", "chunked"),)


class Disconnected(ConnectionError):
    """The client is gone (or was cut off): nothing can be written to it any more."""


class Exchange:
    """One request on one connection.

    Attributes:
        head: the checked request head.
        peer: the client's IP address.
        started: perf_counter seconds when the head was complete.
        disconnected: the client went away; the handler's task is also cancelled then, unless its
            answer is already finished. Every write after that raises Disconnected.
        status: the answer's status once `start` or `respond` was called, else 0.
        finished: the whole answer is queued.
    """

    # What an ordinary request never changes is not set for each one anew.
    disconnected = False
    status = 0
    finished = False
    _ended = False
    _asked = False  # the handler wants the body, so a client that waits for 100 has been told
    _told = False  # the 100 was sent
    _failure: Refusal | None = None
    _waiting_since: float | None = None
    _waited_s = 0.0
    _received_bytes = 0
    _pending_head = b""
    _left: int | None = None  # answer bytes still owed; None when chunked or up to the close
    _chunked = False
    _mute = False  # HEAD, 204, 304: a body is counted but not sent
    _fed: Signal | None = None  # there once the handler had to wait for the body

    def __init__(self, head: RequestHead, peer: str, line: Line, body: bytes | None = None) -> None:
        """`body` is the whole of it where it came with the head; else it is fed."""
        self.head = head
        self.peer = peer
        self.started = time.perf_counter()
        self.keep_alive = head.keep_alive
        self._line = line
        self._pieces: deque[bytes] = deque((body,) if body else ())
        if body is not None:
            self._received_bytes = len(body)
            self._ended = True

    def went_on(self, started: float, *, streaming: bool) -> None:
        """(A lane) its body was taken, and with `streaming` the head of a chunked 200 and whole chunks were sent."""
        self.started = started
        if streaming:
            self.status, self._chunked = 200, True

    # The request's body ------------------------------------------------------------------------------------

    @property
    def body_complete(self) -> bool:
        """True once the whole request was received from the peer."""
        return self._ended

    def feed(self, data: bytes) -> None:
        """(The connection) one more piece of the request's body."""
        pieces = self._pieces
        if pieces and len(pieces[-1]) + len(data) <= SMALL_BYTES:
            pieces[-1] += data
        else:
            pieces.append(data)
        self._received_bytes += len(data)
        if self._fed is not None:
            self._fed.set()

    def feed_end(self, failure: Refusal | None = None) -> None:
        """(The connection) the body is complete, or cannot be completed because of `failure`."""
        self._ended = failure is None
        self._failure = failure
        if self._fed is not None:
            self._fed.set()

    def age_s(self) -> float:
        """Seconds since the head was complete."""
        return time.perf_counter() - self.started

    def body_rate_missed(self, bytes_per_s: float, grace_s: float) -> bool:
        """True if a handler has waited over `grace_s` for the body, and less than `bytes_per_s` came."""
        if self._waiting_since is None:
            return False
        waited = self._waited_s + time.perf_counter() - self._waiting_since
        return waited > grace_s and self._received_bytes < bytes_per_s * (waited - grace_s)

    async def body(self) -> AsyncIterator[bytes]:
        """The body's pieces as they come; the peer is slowed to the pace of the reader.

        Raises Refusal (400, 408) if the body is malformed or too slow, Disconnected if the client is gone.
        """
        if self._may_wait and not self._ended and not self.status:
            self._line.send(CONTINUE)
            self._told = True
        self._asked = True
        while True:
            while self._pieces:
                piece = self._pieces.popleft()
                self._line.body_taken(len(piece))
                yield piece
            if self._ended:
                return
            if self._failure is not None:
                raise self._failure
            await self._more()

    @property
    def peer_is_ahead(self) -> bool:
        """True if more of the body came than was taken: `read_ahead` will do better than `body`."""
        return self._line.peer_is_ahead and self._failure is None

    async def read_ahead(self, pool: Executor, take: Take) -> None:
        """While `peer_is_ahead`, have `take` called in threads of `pool` for each piece of the body.

        `body()` goes on with what is left, if anything, and with its errors. A piece lies in memory that is used
        again once `take` returns. Raises: Disconnected, and whatever `take` raises.
        """
        if not self.peer_is_ahead:
            return
        sock_fd, left = self._line.lend()
        body = SocketBody(sock_fd, left, take, self._held())
        try:
            await body.run(pool)
        finally:
            os.close(sock_fd)
            self._received_bytes += left - body.left
            self._line.take_back(left - body.left)
        if body.gone:
            self._line.cut()
            raise Disconnected("the client is gone")

    def _held(self) -> list[bytes]:
        """The pieces that are here, taken."""
        held = list(self._pieces)
        self._pieces.clear()
        self._line.body_taken(sum(map(len, held)))
        return held

    @property
    def _may_wait(self) -> bool:
        """Whether the client may be waiting for a 100."""
        return self.head.expect_continue and not self._received_bytes and not self._told

    async def read_body(self, max_bytes: int) -> bytes:
        """The whole body. Raises Refusal 413 `body_too_large` above `max_bytes`, before reading if it can."""
        if (self.head.content_length or 0) > max_bytes:
            raise _too_large(max_bytes)
        if self._ended and len(self._pieces) == 1 and len(self._pieces[0]) <= max_bytes:
            piece = self._pieces.popleft()  # the usual case: it came with the head
            self._line.body_taken(len(piece))
            return piece
        whole = bytearray()  # not a list of pieces: one of two bytes takes 50
        async for piece in self.body():
            if len(whole) + len(piece) > max_bytes:
                raise _too_large(max_bytes)
            whole += piece
        return bytes(whole)

    async def _more(self) -> None:
        """Wait for the next piece, the end or a failure."""
        self._check_connected()
        self._fed = self._fed or Signal()
        self._waiting_since = time.perf_counter()
        try:
            await self._fed
        finally:
            self._waited_s += time.perf_counter() - self._waiting_since
            self._waiting_since = None
        self._check_connected()

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
            asyncio.get_running_loop().call_soon(self._flush_head)

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
        self._flush_head()
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
        self._flush_head()
        await self._line.send_descriptors(data, fds)

    def familiar(self, ending: re.Pattern[bytes] | None = None) -> Familiar | None:
        """(While the handler has not waited) this head as a lane knows it again; None: no lane for such."""
        raw = self._line.raw_head()
        return familiar(raw, self.head, ending) if raw else None

    @property
    def line(self) -> Line:
        """The connection, for a lane that is left with it."""
        return self._line

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
            self._flush_head()
            if data and not self._mute:
                self._line.send(data)
        self.finished = True

    async def respond(self, status: int, headers: Headers, body: bytes = b"") -> None:
        """The whole answer in one write. Raises Disconnected."""
        self._open(status, headers, len(body))
        head = self._take_head()
        if self._mute or not body:
            self._line.send(head)
        elif len(body) < JOIN_BYTES:
            self._line.send(head + body)
        else:
            self._line.send(head, body)
        self._left = 0
        self.finished = True
        await self._line.drained()

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
        self.keep_alive = self.keep_alive and self._line.stays_open and self._body_will_be_read()
        framing = self._framing(status, length)
        given = dict(headers)
        if not _OURS.isdisjoint(given):
            headers = tuple([pair for pair in headers if pair[0] not in _OURS])
        if "date" not in given:
            headers = (*headers, ("date", self._line.date()))
        self._pending_head = response_head_bytes(status, headers + framing)
        if self.head.expect_continue and self._may_wait and self._ended:
            # An empty body needs no 100, but botocore misreads the next answer of a connection that left one out.
            self._pending_head = CONTINUE + self._pending_head
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

    def _body_will_be_read(self) -> bool:
        """False if the client may wait for a 100 that will not come, or its body is broken or too long to skip."""
        if self._ended or self._asked:
            return self._failure is None
        left = (self.head.content_length or 0) - self._received_bytes
        return self._failure is None and not self.head.expect_continue and left <= SKIP_BYTES

    def _send_body(self, data: bytes) -> None:
        head = self._take_head()
        if not self._chunked:
            self._line.send(head, data)
        elif len(data) < JOIN_BYTES:
            self._line.send(b"%b%x\r\n%b\r\n" % (head, len(data), data))
        else:
            self._line.send(head, *chunk_parts(data))

    def _send_last(self, data: bytes) -> None:
        """The end of a chunked answer; in one piece if it is small, which over TLS is one record."""
        head = self._take_head()
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

    def _take_head(self) -> bytes:
        head, self._pending_head = self._pending_head, b""
        return head

    def _flush_head(self) -> None:
        if self._pending_head and not self.disconnected:
            self._line.send(self._take_head())

    def _check_connected(self) -> None:
        if self.disconnected:
            raise Disconnected("the client is gone")

    def _check_writable(self) -> None:
        if self.disconnected:
            raise Disconnected("the client is gone")
        if not self.status or self.finished:
            raise RuntimeError("the answer is not open")


def _too_large(max_bytes: int) -> Refusal:
    return Refusal(413, "body_too_large", f"The body exceeds {max_bytes} bytes; send a smaller one.")

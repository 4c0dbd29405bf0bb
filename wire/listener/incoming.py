"""The request's half of an exchange: its body, as a handler takes it and as the connection feeds it."""

import os
import time
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import Executor

from wire.flow import Signal
from wire.http.http1 import RequestHead
from wire.listener.bodyread import SocketBody, Take
from wire.listener.endings import Cause
from wire.listener.line import Disconnected, Line
from wire.refused.refusal import Refusal

SMALL_BYTES = (
    4 * 1024
)  # pieces below it are put together while they wait: each costs an object beside its bytes
SKIP_BYTES = 1024 * 1024  # of an unwanted body; for more the connection is closed instead
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Incoming:
    """One request on one connection.

    Attributes:
        head: the checked request head.
        peer: the client's IP address.
        started: perf_counter seconds when the last bytes of the head came.
        disconnected: the client went away; the handler's task is also cancelled then, unless its
            answer is already finished. Every write after that raises Disconnected.
        status: the answer's status once it was begun, else 0.
    """

    # What an ordinary request never changes is not set for each one anew.
    disconnected = False
    status = 0
    _ended = False
    _asked = False  # the handler wants the body, so a client that waits for 100 has been told
    _told = False  # the 100 was sent
    _failure: Refusal | None = None
    _waiting_since: float | None = None
    _waited_s = 0.0
    _received_bytes = 0
    _fed: Signal | None = None  # there once the handler had to wait for the body

    def __init__(self, head: RequestHead, peer: str, line: Line, body: bytes | None = None) -> None:
        """`body` is the whole of it where it came with the head; else it is fed."""
        self.head = head
        self.peer = peer
        self.started = time.perf_counter()
        self._line = line
        self._pieces: deque[bytes] = deque((body,) if body else ())
        if body is not None:
            self._received_bytes = len(body)
            self._ended = True

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
            self._line.cut(Cause.CLIENT_LEFT)
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

    def _body_will_be_read(self) -> bool:
        """False if the client may wait for a 100 that will not come, or its body is broken or too long to skip."""
        if self._ended or self._asked:
            return self._failure is None
        left = (self.head.content_length or 0) - self._received_bytes
        return self._failure is None and not self.head.expect_continue and left <= SKIP_BYTES

    def _check_connected(self) -> None:
        if self.disconnected:
            raise Disconnected("the client is gone")


def _too_large(max_bytes: int) -> Refusal:
    return Refusal(413, "body_too_large", f"The body exceeds {max_bytes} bytes; send a smaller one.")

"""An upstream's answer: its head is here, its body streams; leaving it early closes its connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

from wire.upstreams.failure import DialError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType

    from wire.dial import Pool
    from wire.http.http1 import ResponseHead
    from wire.upstreams.upstream import Upstream

MIB: Final = 1024 * 1024


class Answer:
    """An upstream's answer; `head` is here, the body streams.

    Use it as `async with answer:`, or read it to its end, or `release()` it: leaving one that was not read to
    its end closes the connection.
    """

    def __init__(self, pool: Pool, upstream: Upstream, head: ResponseHead, connect_s: float) -> None:
        self.head = head
        self.connect_s = connect_s  # 0 on a kept connection
        self._pool = pool
        self._upstream: Upstream | None = upstream
        self._received = upstream.received
        self.sent_at = upstream.sent_at
        """When the request's first bytes left, by `time.perf_counter`; of one that a lane sent this says nothing."""
        self.heard_at = upstream.heard_at
        """When bytes of it came last, by `time.perf_counter`: head, or the body that `next` gave."""

    @property
    def received(self) -> int:
        """Bytes of the answer seen so far, head included."""
        return self._received if self._upstream is None else self._upstream.received

    def chunks(self, between_s: float = 60.0) -> AsyncIterator[bytes]:
        """The body as it comes. Raises DialError `body` if it is cut or silent for `between_s` seconds."""
        return _Chunks(self, between_s)

    async def next(self, between_s: float = 60.0) -> bytes:
        """The next bytes of the body; b"" at its end. Raises DialError `body`."""
        upstream = self._upstream
        if upstream is None:
            return b""
        try:
            data = await upstream.piece(between_s)
        except BaseException:
            self.abort()
            raise
        self.heard_at = upstream.heard_at
        if upstream.complete:
            self._give_back(upstream)
        return data

    async def read(self, max_bytes: int = 16 * MIB, between_s: float = 60.0) -> bytes:
        """The whole body. Raises DialError `body`, also (and the connection is closed) above `max_bytes`."""
        pieces = []
        size = 0
        while data := await self.next(between_s):
            size += len(data)
            if size > max_bytes:
                self.abort()
                raise DialError("body", self._received, f"the answer exceeds {max_bytes} bytes")
            pieces.append(data)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def release(self) -> None:
        """Done with it: a fully read answer gives its connection back, any other closes it."""
        self.abort()

    def abort(self) -> None:
        """Close the connection now unless the whole answer was read."""
        upstream, self._upstream = self._upstream, None
        if upstream is None:
            return
        self._received = upstream.received
        if upstream.complete:
            self._pool.take_back(upstream)
        else:
            upstream.abort()
            self._pool.forget(upstream)

    def _give_back(self, upstream: Upstream) -> None:
        self._received = upstream.received
        self._upstream = None
        self._pool.take_back(upstream)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def __del__(self) -> None:
        if self._upstream is not None:
            self.abort()


class _Chunks:
    """The iterator of `Answer.chunks`; not a generator, which would outlive a cancelled consumer."""

    __slots__ = ("_answer", "_between_s")

    def __init__(self, answer: Answer, between_s: float) -> None:
        self._answer = answer
        self._between_s = between_s

    def __aiter__(self) -> _Chunks:
        return self

    async def __anext__(self) -> bytes:
        data = await self._answer.next(self._between_s)
        if not data:
            raise StopAsyncIteration
        return data

"""One request to an upstream: its head with the framing of its body, and how it is sent."""

from collections.abc import AsyncIterator

from wire.http.framing import LAST_CHUNK, chunk_parts
from wire.http.heads import Headers, request_head_bytes
from wire.upstreams.upstream import Upstream

CONTINUE_S = 5.0  # an upstream that never says 100 Continue gets the body after this (RFC 9110 10.1.1)
STALL_S = 30.0  # an upstream that takes no byte of a request body for so long is gone
_OURS = frozenset({"content-length", "transfer-encoding", "expect"})


class Outgoing:
    """A request that can be sent until a streamed body has been begun (`replayable`).

    `first` is what goes out at once: the head, and the body if it is at hand and wanted. `more` says that this is
    not all of it.
    """

    replayable = True
    expects = False
    streams = False
    more = False
    _chunked = False

    def __init__(
        self,
        method: str,
        target: str,
        headers: Headers,
        body: bytes | AsyncIterator[bytes] | None,
        length: int | None,
        host: str,
        *,
        expect_continue: bool,
    ) -> None:
        self.method = method
        self._body = body
        given = dict(headers)
        if "host" not in given:
            headers = (("host", host), *headers)
        if not _OURS.isdisjoint(given):
            headers = tuple([pair for pair in headers if pair[0] not in _OURS])
        if isinstance(body, bytes) and not expect_continue:
            headers = (*headers, ("content-length", str(len(body))))
            self.first = request_head_bytes(method, target, headers) + body
            return
        self.more = body is not None
        self.expects = expect_continue and self.more
        self.streams = self.more and not isinstance(body, bytes)
        self._chunked = self.streams and length is None
        self.first = request_head_bytes(method, target, headers + self._framing(length))

    def _framing(self, length: int | None) -> Headers:
        """The headers that say how long the body is, and whether it waits for a 100."""
        body = self._body
        if isinstance(body, bytes):
            framing: Headers = (("content-length", str(len(body))),)
        elif self._chunked:
            framing = (("transfer-encoding", "chunked"),)
        elif self.streams or self.method in {"POST", "PUT"}:
            framing = (("content-length", str(length if self.streams else 0)),)
        else:
            framing = ()
        return (*framing, ("expect", "100-continue")) if self.expects else framing

    async def send_rest(self, upstream: Upstream, head_s: float) -> None:
        """Send what follows `first`, or as much as the upstream wants before it answers. Raises DialError."""
        body = self._body
        if self.expects and not await upstream.continued(min(CONTINUE_S, head_s)):
            return
        if isinstance(body, bytes):
            await upstream.send(body)
        elif body is not None:
            self.replayable = False
            if not await self._stream(upstream, body):
                return
        upstream.sent_whole()

    async def _stream(self, upstream: Upstream, body: AsyncIterator[bytes]) -> bool:
        """False if the upstream answered before it had all."""
        upstream.allow(None)
        async for data in body:
            if upstream.answered:
                return False
            upstream.allow(STALL_S)
            await upstream.send(*(chunk_parts(data) if self._chunked else (data,)))
            upstream.allow(None)
        if self._chunked:
            await upstream.send(LAST_CHUNK)
        return True

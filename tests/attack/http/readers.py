"""What each parser reads in one stream of bytes: our gate, h11 and llhttp; and what our relay makes of it."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import NamedTuple

import h11
import httptools

from edge.s3 import LIMITS, onward
from wire.http.framing import LAST_CHUNK, chunk_parts
from wire.http.http1 import Body, End, Events, Message, RequestGate, RequestHead, without_hop_headers
from wire.http.limits import Limits
from wire.refused.refusal import Refusal
from wire.upstreams.outgoing import Outgoing

Pairs = tuple[tuple[bytes, bytes], ...]


class Read(NamedTuple):
    """One request as a parser read it."""

    method: bytes
    target: bytes
    headers: Pairs
    body: bytes


@dataclass
class Reading:
    """A stream as the gate read it: whole requests, the one that is open, and why it stopped."""

    heads: list[RequestHead] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    is_open: bool = False  # the last one's end has not come
    refusal: Refusal | None = None

    @property
    def num_whole(self) -> int:
        """Requests that a handler sees to their end."""
        return len(self.heads) - self.is_open

    def reads(self) -> list[Read]:
        """Every request, the open one included, as the other parsers write them."""
        return [_as_read(head, body) for head, body in zip(self.heads, self.bodies, strict=True)]


def by_gate(parts: list[bytes], limits: Limits = LIMITS) -> Reading:
    """Read `parts` as a connection does: no request after one that closes it."""
    gate, reading = RequestGate(limits), Reading()
    try:
        for part in parts:
            events = gate.receive(part)
            while _note(reading, events):
                events = gate.next_message()
            if reading.heads and not reading.is_open and not reading.heads[-1].keep_alive:
                break
    except Refusal as refusal:
        reading.refusal = refusal
    return reading


def _note(reading: Reading, events: Events) -> bool:
    """Write events down; True if a next request may be here already."""
    ended = False
    for event in events:
        if isinstance(event, Message | RequestHead):
            head, body = event if isinstance(event, Message) else (event, b"")
            reading.heads.append(head)
            reading.bodies.append(body)
            reading.is_open = not isinstance(event, Message)
        elif isinstance(event, Body):
            assert event.data, "an empty piece"
            reading.bodies[-1] += event.data
        else:
            assert isinstance(event, End)
            reading.is_open = False
        ended = not reading.is_open
    return ended and reading.heads[-1].keep_alive


def _as_read(head: RequestHead, body: bytes) -> Read:
    headers = _lowered([(name.encode(), value.encode()) for name, value in head.headers])
    return Read(head.method.encode(), head.target.encode(), headers, body)


def _lowered(headers: list[tuple[bytes, bytes]]) -> Pairs:
    """Headers as h11 gives them: the one coding it takes in lower case."""
    return tuple((n, v.lower() if n == b"transfer-encoding" else v) for n, v in headers)


def by_h11(stream: bytes, num: int) -> list[Read]:
    """The first `num` requests, as far as they have come. Raises h11.RemoteProtocolError."""
    reads = []
    while stream and len(reads) < num:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=2**20)
        connection.receive_data(stream)
        head = connection.next_event()
        if not isinstance(head, h11.Request):
            break
        body = b""
        while isinstance(event := connection.next_event(), h11.Data):
            body += bytes(event.data)
        reads.append(Read(head.method, _path(head.target), tuple(head.headers), body))
        stream = connection.trailing_data[0] if isinstance(event, h11.EndOfMessage) else b""
    return reads


def _path(target: bytes) -> bytes:
    """A target without the scheme and host of an absolute form, which both parsers leave to their users."""
    if target.startswith(b"/"):
        return target
    return b"/" + target.split(b"/", 3)[3]


class _Callbacks:
    def __init__(self) -> None:
        self.reads: list[Read] = []
        self.parser = httptools.HttpRequestParser(self)
        self.on_message_begin()

    def on_message_begin(self) -> None:
        self.target, self.headers, self.body, self.in_head = b"", [], b"", True

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.in_head:  # a trailer is called so too
            self.headers.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        self.in_head = False

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.reads.append(self.read())

    def read(self) -> Read:
        return Read(self.parser.get_method(), _path(self.target), _lowered(self.headers), self.body)


def by_llhttp(stream: bytes, num: int) -> tuple[list[Read], bool]:
    """The first `num` whole requests by uvicorn's parser; True if it refused what comes next."""
    callbacks = _Callbacks()
    try:
        callbacks.parser.feed_data(stream)
    except httptools.HttpParserError:
        return callbacks.reads[:num], True
    return callbacks.reads[:num], False


def as_sent_on(head: RequestHead, body: bytes) -> bytes:
    """What the S3 door writes to its upstream for a whole request, on a connection that is kept."""
    has_body = head.chunked or bool(head.content_length)
    headers = without_hop_headers(onward(head))
    if not head.chunked:
        whole = body if has_body else b"" if head.content_length == 0 else None
        return Outgoing(head.method, head.target, headers, whole, None, "up", expect_continue=False).first
    outgoing = Outgoing(head.method, head.target, headers, _none(), None, "up", expect_continue=False)
    return outgoing.first + (b"".join(chunk_parts(body)) if body else b"") + LAST_CHUNK


async def _none() -> AsyncIterator[bytes]:
    """A body that somebody else writes."""
    return
    yield b""


_ONE_HOP = frozenset(
    b"connection keep-alive proxy-connection proxy-authenticate proxy-authorization te trailer transfer-encoding "
    b"upgrade expect content-length".split()
)
NOT_BELIEVED = (b"x-nearfield-", b"x-forwarded-", b"x-tenant-")


def meant(read: Read) -> Read:
    """What must arrive of a request behind our relay, and nothing else: framing and one hop's headers left out."""
    named = {
        option.strip().lower()
        for name, value in read.headers
        if name == b"connection"
        for option in value.split(b",")
    }
    kept = tuple(
        (name, value)
        for name, value in read.headers
        if name not in _ONE_HOP | named and not name.startswith(NOT_BELIEVED)
    )
    return read._replace(headers=kept)

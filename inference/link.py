"""The link between a node and its engine: framed JSON on a Unix stream socket pair.

A frame is a 4-byte big-endian length and that many bytes of one JSON object (UTF-8, no NaN or Infinity).
`FrameReader` and `frame_bytes` are the rules, without I/O; `EngineLink` is the engine's side (blocking),
`NodeLink` the node's (asyncio). A bad frame ends the link: both ends are ours, so it means a bug or a torn
process, and nothing after it can be trusted. Standard library only: the API process imports this file.
"""

from __future__ import annotations

import asyncio
import json
import select
import socket
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

Message = dict[str, Any]

PREFIX_BYTES = 4
MAX_FRAME_BYTES = 16 * 1024 * 1024
"""A prompt of a million token ids is about 7 MB of JSON; an answer of 1,024 vectors x 1,536 f32 is 8 MB."""
MAX_FDS = 253
"""The most the kernel takes with one message (SCM_MAX_FD)."""
READ_BYTES = 256 * 1024
"""One read: many token frames at once, and small against a process."""
SOCKET_BUFFER_BYTES = 1024 * 1024
"""Room for about ten thousand token frames, so that a short stall of the node never stops a step."""
SEND_DEADLINE_S = 30.0
"""A node that reads nothing for so long is gone or stuck; the engine ends rather than wait for ever."""


class LinkError(Exception):
    """The link is broken: a bad frame, a frame over the limit, or a peer that went away in mid-frame."""


def frame_bytes(message: Message) -> bytes:
    """One message as a frame.

    Raises:
        LinkError: the message holds NaN or Infinity, is not JSON, or is over `MAX_FRAME_BYTES`.
    """
    try:
        body = json.dumps(message, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (ValueError, TypeError) as cause:
        raise LinkError(f"not a message: {cause}") from cause
    if len(body) > MAX_FRAME_BYTES:
        raise LinkError(f"a frame of {len(body)} bytes is over the limit of {MAX_FRAME_BYTES}")
    return len(body).to_bytes(PREFIX_BYTES, "big") + body


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def parse_body(body: bytes | bytearray | memoryview) -> Message:
    """One frame's body as a message.

    Raises:
        LinkError: the body is not one JSON object.
    """
    try:
        message = json.loads(bytes(body), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as cause:
        raise LinkError(f"not a message: {cause}") from cause
    if not isinstance(message, dict):
        raise LinkError("not a message: the frame is not an object")
    return message


class FrameReader:
    """Bytes in, messages out; holds at most one frame and one read."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = bytearray()

    def receive(self, data: bytes) -> list[Message]:
        """The messages that `data` completes, in order.

        Raises:
            LinkError: a frame is over the limit or is not a JSON object.
        """
        self._held += data
        messages: list[Message] = []
        start = 0
        while (end := self._frame_end(start)) is not None:
            messages.append(parse_body(self._held[start + PREFIX_BYTES : end]))
            start = end
        if start:
            del self._held[:start]
        return messages

    def receive_eof(self) -> None:
        """The peer closed its end.

        Raises:
            LinkError: it did so inside a frame.
        """
        if self._held:
            raise LinkError(f"the peer went away inside a frame ({len(self._held)} bytes held)")

    def _frame_end(self, start: int) -> int | None:
        if len(self._held) - start < PREFIX_BYTES:
            return None
        length = int.from_bytes(self._held[start : start + PREFIX_BYTES], "big")
        if length > MAX_FRAME_BYTES:
            raise LinkError(f"a frame of {length} bytes is over the limit of {MAX_FRAME_BYTES}")
        end = start + PREFIX_BYTES + length
        return end if len(self._held) >= end else None


def receive_frame(connection: socket.socket) -> tuple[Message | None, list[int]]:
    """One frame and the descriptors that came with it, blocking; None at the end of the stream.

    Raises:
        LinkError: a bad frame, or the peer went away inside it.
    """
    prefix, fds, _, _ = socket.recv_fds(connection, PREFIX_BYTES, MAX_FDS)
    if not prefix:
        return None, []
    prefix += _exactly(connection, PREFIX_BYTES - len(prefix))
    length = int.from_bytes(prefix, "big")
    if length > MAX_FRAME_BYTES:
        raise LinkError(f"a frame of {length} bytes is over the limit of {MAX_FRAME_BYTES}")
    return parse_body(_exactly(connection, length)), list(fds)


def _exactly(connection: socket.socket, count: int) -> bytes:
    held = bytearray()
    while len(held) < count:
        data = connection.recv(count - len(held))
        if not data:
            raise LinkError("the peer went away inside a frame")
        held += data
    return bytes(held)


def link_pair() -> tuple[socket.socket, socket.socket]:
    """A connected pair (node's end, engine's end), buffers raised. The caller owns both."""
    node_end, engine_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    for end in (node_end, engine_end):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER_BYTES)
    return node_end, engine_end


class EngineLink:
    """The engine's side. One thread only; owns the socket."""

    __slots__ = ("_reader", "_socket", "closed")

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        sock.settimeout(SEND_DEADLINE_S)
        self._socket = sock
        self._reader = FrameReader()
        self.closed = False
        """True once the node closed its end: nobody will read an answer."""

    def fileno(self) -> int:
        """The descriptor, to wait on."""
        return self._socket.fileno()

    def poll(self, timeout_s: float | None) -> list[Message]:
        """The messages that are here, waiting at most `timeout_s` for the first (None: for ever).

        Raises:
            LinkError: a bad frame, or the node went away inside one. A clean end only sets `closed`.
        """
        messages: list[Message] = []
        while not self.closed and self._readable(0 if messages else timeout_s):
            messages += self._receive()
            if not messages:
                timeout_s = 0  # part of a frame: the rest is on its way, the caller polls again
        return messages

    def send(self, messages: Iterable[Message]) -> None:
        """Write each message as its own frame, all in one call to the socket.

        Raises:
            LinkError: the node is gone or reads nothing for `SEND_DEADLINE_S`; or a message is not JSON.
        """
        data = b"".join(map(frame_bytes, messages))
        try:
            self._socket.sendall(data)
        except OSError as cause:
            self.closed = True
            raise LinkError(f"the node is gone: {cause}") from cause

    def close(self) -> None:
        """Close our end; the node sees the end of the stream."""
        self.closed = True
        self._socket.close()

    def _readable(self, timeout_s: float | None) -> bool:
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        return bool(poller.poll(None if timeout_s is None else timeout_s * 1000))

    def _receive(self) -> list[Message]:
        try:
            data = self._socket.recv(READ_BYTES)
        except ConnectionError:
            data = b""
        if not data:
            self.closed = True
            self._reader.receive_eof()
        return self._reader.receive(data)


class NodeLink:
    """The node's side, on the running loop. Exactly one task iterates `messages()`; any task may `send`."""

    __slots__ = ("_reader", "_writer")

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, sock: socket.socket) -> NodeLink:
        """Take over the node's end of a pair; the link owns the socket from here."""
        sock.setblocking(False)
        return cls(*await asyncio.open_connection(sock=sock, limit=READ_BYTES))

    async def send(self, message: Message) -> None:
        """Write one frame; waits while the engine reads slowly.

        Raises:
            LinkError: the engine is gone, or the message is not JSON.
        """
        data = frame_bytes(message)
        if self._writer.transport.is_closing():  # uvloop raises RuntimeError for a write after that
            raise LinkError("the engine is gone")
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as cause:
            raise LinkError(f"the engine is gone: {cause}") from cause

    async def messages(self) -> AsyncIterator[Message]:
        """Each message in order; ends when the engine closed its end.

        Raises:
            LinkError: a bad frame, or the engine died inside one.
        """
        frames = FrameReader()
        while data := await self._read():
            for message in frames.receive(data):
                yield message
        frames.receive_eof()

    async def close(self) -> None:
        """Close our end (the engine then drops all work and exits). Safe to call twice."""
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:
            return  # the engine was gone before us

    async def _read(self) -> bytes:
        try:
            return await self._reader.read(READ_BYTES)
        except ConnectionError:
            return b""

"""What a handler answers, and how it goes out: one write for what is small, sendfile for what is not."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from storage.disk.blobs import Blobs
from storage.index.rows import Extent, Headers
from wire.serve import Exchange

SMALL_BYTES = 64 * 1024  # up to here one read and one write beat a thread and sendfile
XML = (("content-type", "application/xml"),)


class Body(Protocol):
    """A body that is on disk; `send` once, `close` always."""

    length: int

    async def send(self, exchange: Exchange, status: int, headers: Headers) -> None:
        """Send head and body."""

    def close(self) -> None:
        """Let go of the files."""


class OneSlice:
    """A body that lies in one blob, opened: deleting the blob does not disturb it."""

    def __init__(self, blobs: Blobs, piece: Extent) -> None:
        """Raises: BlobMissing, OSError."""
        self.length = piece.length
        self._offset = piece.offset
        self._fd = blobs.open(piece.blob)

    async def send(self, exchange: Exchange, status: int, headers: Headers) -> None:
        """Raises: Disconnected, OSError if the file is shorter than its row says."""
        if self.length <= SMALL_BYTES:
            data = os.pread(self._fd, self.length, self._offset)
            if len(data) != self.length:
                raise OSError("a blob is shorter than its row says")
            await exchange.respond(status, headers, data)
            return
        await exchange.start(status, headers, length=self.length)
        await exchange.sendfile(self._fd, self._offset, self.length)
        await exchange.finish()

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)


class ManySlices:
    """A body over several blobs, pinned so that none is deleted before it was sent."""

    def __init__(self, blobs: Blobs, pieces: Sequence[Extent]) -> None:
        self.length = sum(piece.length for piece in pieces)
        self._blobs = blobs
        self._pieces = pieces
        blobs.pin(piece.blob for piece in pieces)

    async def send(self, exchange: Exchange, status: int, headers: Headers) -> None:
        """Raises: Disconnected, BlobMissing, OSError."""
        await exchange.start(status, headers, length=self.length)
        for piece in self._pieces:
            fd = self._blobs.open(piece.blob)
            try:
                await exchange.sendfile(fd, piece.offset, piece.length)
            finally:
                os.close(fd)
        await exchange.finish()

    def close(self) -> None:
        """Let the blobs go."""
        self._blobs.unpin(piece.blob for piece in self._pieces)


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer. `body` is bytes, or on disk; `length` is what a HEAD answer announces."""

    status: int
    headers: Headers = ()
    body: "bytes | Body" = b""
    length: int | None = None


async def send_reply(exchange: Exchange, reply: Reply, headers: Headers) -> None:
    """Send `reply` with `headers` added. Raises: Disconnected, BlobMissing, OSError."""
    every = (*headers, *reply.headers)
    if isinstance(reply.body, bytes):
        if reply.length is None:
            await exchange.respond(reply.status, every, reply.body)
            return
        await exchange.start(reply.status, every, length=reply.length)
        await exchange.finish()
        return
    try:
        await reply.body.send(exchange, reply.status, every)
    finally:
        reply.body.close()

"""The writing half of a client connection: bytes, files and descriptors out, at the pace of the peer."""

import asyncio
import socket
import struct
from collections.abc import Callable, Sequence

from wire.http.limits import Limits
from wire.listener import descriptors, filesend
from wire.listener.endings import Cause
from wire.listener.line import Disconnected
from wire.listener.stall import Stall
from wire.secured.secure import promptly

RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: a close is a reset, and never the end of an answer


class Writing(asyncio.Protocol):
    """What a Connection writes by.

    Attributes:
        carries_descriptors: it is a Unix socket.
    """

    _transport: asyncio.Transport

    def __init__(self, limits: Limits, *, carries_descriptors: bool) -> None:
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._lost = False
        self._say_now: Callable[[bytes], None] | None = None  # once something was sent, or there is a lane
        self._drain: asyncio.Future[None] | None = None
        self._stall: Stall | None = None  # while writes are paused
        self.carries_descriptors = carries_descriptors

    def cut(self, cause: Cause = Cause.ANSWER_BROKE) -> None:
        """Reset the connection."""
        raise NotImplementedError

    # asyncio.Protocol --------------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        """The peer reads slower than the handler writes."""
        self._drain = self._loop.create_future()
        self._stall = Stall(self._transport.get_write_buffer_size(), self._loop.time())

    def resume_writing(self) -> None:
        """The peer caught up."""
        drain, self._drain, self._stall = self._drain, None, None
        if drain is not None and not drain.done():
            drain.set_result(None)

    # line.Line ---------------------------------------------------------------------------------------------

    def send(self, *parts: bytes | memoryview) -> None:
        """Bytes for the peer. In one piece they leave at once: uvloop's own way is behind all that the turn does."""
        if self._lost or self._transport.is_closing():
            raise Disconnected("the client is gone")
        if len(parts) == 1 and isinstance(parts[0], bytes):
            say = self._say_now = self._say_now or promptly(self._transport)
            say(parts[0])
        else:
            self._transport.writelines([part for part in parts if part])

    async def drained(self) -> None:
        """Wait while the peer has more than the write buffer's bytes to read."""
        if self._drain is not None:
            await asyncio.shield(self._drain)
            self._check()

    async def send_file(self, fd: int, offset: int, count: int) -> None:
        """File bytes after the queued ones; in the kernel on plain TCP."""
        if filesend.is_plain(self._transport):
            await self._flushed()
            try:
                await filesend.send_file(self._transport, fd, offset, count, self._limits.write_stall_s)
            except (ConnectionError, TimeoutError) as error:
                self.cut(_why_untaken(error))
                raise Disconnected("the client is gone") from error
            return
        while count:
            piece = await filesend.read_piece(fd, offset, count)
            self.send(piece)
            offset, count = offset + len(piece), count - len(piece)
            await self.drained()

    async def send_descriptors(self, data: bytes, fds: Sequence[int]) -> None:
        """Bytes after the queued ones, with open files beside them."""
        await self._flushed()
        try:
            await descriptors.send_descriptors(self._transport, data, fds, self._limits.write_stall_s)
        except (ConnectionError, TimeoutError) as error:
            self.cut(_why_untaken(error))
            raise Disconnected("the client is gone") from error

    # lane.LaneLine ------------------------------------------------------------------------------------------

    @property
    def is_behind(self) -> bool:
        """The peer reads slower than it is written to."""
        return self._drain is not None

    def say(self, data: bytes) -> None:
        """Bytes for the peer, at once where that can be; for one that is gone, nothing."""
        say = self._say_now
        if say is not None and not self._lost and not self._transport.is_closing():
            say(data)

    # inside -------------------------------------------------------------------------------------------------

    def _is_stalled(self, now: float) -> bool:
        limits, unsent, stall = self._limits, self._transport.get_write_buffer_size(), self._stall
        return stall is not None and stall.too_slow(
            unsent, now, limits.write_stall_s, limits.write_bytes_per_s
        )

    def _reset_on_close(self) -> None:
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)

    async def _flushed(self) -> None:
        """Wait until the kernel has every queued byte."""
        self._transport.set_write_buffer_limits(0)
        try:
            while self._transport.get_write_buffer_size():
                await self.drained()
        finally:
            if not self._lost:
                self._transport.set_write_buffer_limits(self._limits.write_buffer_bytes)
        self._check()

    def _check(self) -> None:
        if self._lost:
            raise Disconnected("the client is gone")


def _why_untaken(error: OSError) -> Cause:
    return Cause.ANSWER_STALLED if isinstance(error, TimeoutError) else Cause.CLIENT_LEFT

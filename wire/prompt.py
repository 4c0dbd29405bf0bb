"""Bytes that somebody waits for leave at once: uvloop writes at the end of its turn, behind all that is done in it."""

import asyncio
import os
from typing import Final

MOST_BYTES: Final = 64 * 1024  # more are a transfer: what the kernel does not take of them would be copied


class Prompt:
    """A plain transport's way out. It is used while that is not closing: until then the descriptor is its own."""

    __slots__ = ("_fd", "_num_waiting", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport, self._num_waiting = transport, transport.get_write_buffer_size
        self._fd = transport.get_extra_info("socket").fileno()

    def write(self, data: bytes) -> None:
        """Now, if nothing waits to be written; what is left goes with the loop's turn."""
        num, num_waiting = len(data), self._num_waiting
        if num <= MOST_BYTES and not num_waiting():
            try:
                num_taken = os.write(self._fd, data)
            except OSError:  # full or broken: the transport finds out, and says so
                num_taken = 0
            if num_taken == num:
                return
            data = data[num_taken:]
        self._transport.write(data)

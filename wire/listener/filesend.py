"""File bytes to a socket inside the kernel, without stopping the event loop.

`os.sendfile` runs in a thread (a cold page would block the loop) while the peer keeps up; a slow peer is
waited for in the loop, on a duplicate of the socket's descriptor, so slow readers hold no thread. uvloop has
no `loop.sendfile`, and neither loop lets a transport's own descriptor be watched.
"""

import asyncio
import errno
import os
import select
import threading

from wire.inthread import ended

SLICE_BYTES = 8 * 1024 * 1024  # one sendfile call: long enough to be free of overhead, short enough to stop
PATIENCE_MS = 4  # a fast peer frees its buffer within this; then the thread is given back
COPY_BYTES = 256 * 1024  # TLS only: the size of one read


def _send_while_taken(sock_fd: int, fd: int, offset: int, count: int, stop: threading.Event) -> int:
    """(A thread) send until all is sent, the peer is full, or `stop`; returns bytes sent. Raises OSError."""
    poll = select.poll()
    poll.register(sock_fd, select.POLLOUT)
    sent = 0
    while sent < count and not stop.is_set():
        try:
            num = os.sendfile(sock_fd, fd, offset + sent, min(count - sent, SLICE_BYTES))
        except BlockingIOError:
            if not poll.poll(PATIENCE_MS):
                break
            continue
        if num == 0:
            raise OSError(errno.EIO, "the file ended before the bytes that were promised")
        sent += num
    return sent


def _resolve(free: asyncio.Future[None]) -> None:
    if not free.done():
        free.set_result(None)


async def writable(sock_fd: int, stall_s: float) -> None:
    """Return once the socket takes bytes again; the descriptor is not one of a transport. Raises TimeoutError."""
    loop = asyncio.get_running_loop()
    free: asyncio.Future[None] = loop.create_future()
    loop.add_writer(sock_fd, _resolve, free)
    try:
        async with asyncio.timeout(stall_s):
            await free
    finally:
        loop.remove_writer(sock_fd)


async def _in_thread(sock_fd: int, fd: int, offset: int, count: int) -> int:
    """One run of `_send_while_taken`; on cancellation the thread has ended before this returns."""
    stop = threading.Event()
    loop = asyncio.get_running_loop()
    work = loop.run_in_executor(None, _send_while_taken, sock_fd, fd, offset, count, stop)
    return await ended(work, stop)


async def send_file(transport: asyncio.Transport, fd: int, offset: int, count: int, stall_s: float) -> None:
    """Send `count` bytes of `fd` from `offset` on a plain TCP transport whose own buffer is empty.

    Raises OSError (the peer is gone, or the file is short), TimeoutError if nothing is taken for `stall_s`.
    """
    sock_fd = os.dup(transport.get_extra_info("socket").fileno())
    try:
        while count:
            sent = await _in_thread(sock_fd, fd, offset, count)
            offset, count = offset + sent, count - sent
            if count:
                await writable(sock_fd, stall_s)
    finally:
        os.close(sock_fd)


async def read_piece(fd: int, offset: int, count: int) -> bytes:
    """Up to COPY_BYTES of a file, for TLS. Raises OSError if the file ends there."""
    loop = asyncio.get_running_loop()
    piece = await loop.run_in_executor(None, os.pread, fd, min(count, COPY_BYTES), offset)
    if not piece:
        raise OSError(errno.EIO, "the file ended before the bytes that were promised")
    return piece


def is_plain(transport: asyncio.Transport) -> bool:
    """True if what the kernel sends and receives here are the message's own bytes: no TLS."""
    return transport.get_extra_info("sslcontext") is None

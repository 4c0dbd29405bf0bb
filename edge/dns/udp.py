"""Datagrams of one address, straight from its socket: a transport and its callbacks would cost more than an answer."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from typing import Final

Answer = Callable[[bytes, str, float], bytes]

MAX_DATAGRAM_BYTES: Final = 4096
BURST: Final = 64  # datagrams at once; then the loop does what else there is
BUFFER_BYTES: Final = 4 * 1024 * 1024  # some 5,000 queries that wait; the kernel may grant less


def family(host: str) -> socket.AddressFamily:
    """Of a literal address."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def bind(host: str, port: int, kind: socket.SocketKind) -> socket.socket:
    """A bound socket that does not block; processes on the same address share what comes. Raises OSError."""
    sock = socket.socket(family(host), kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock


class Datagrams:
    """`answer(query, host, now)` is called for each datagram; b"" sends nothing."""

    def __init__(self, sock: socket.socket, answer: Answer) -> None:
        self._sock = sock
        self._answer = answer
        self._loop = asyncio.get_running_loop()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        self._loop.add_reader(sock.fileno(), self._readable)

    def close(self) -> None:
        """Stop."""
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()

    def _readable(self) -> None:
        receive, send, answer = self._sock.recvfrom, self._sock.sendto, self._answer
        now = time.monotonic()
        # an ICMP error of an earlier answer, or a full buffer: that answer is lost, as UDP's may be
        with contextlib.suppress(OSError):
            for _ in range(BURST):
                query, peer = receive(MAX_DATAGRAM_BYTES)
                reply = answer(query, peer[0], now)
                if reply:
                    send(reply, peer)

"""Making one connection to an upstream. Its socket is ours from the first segment, so that it can be looked at."""

import asyncio
import errno
import os
import socket
import ssl
from dataclasses import dataclass
from functools import partial

from wire.flow import in_task
from wire.secured.secure import Secured
from wire.secured.ticket import Ticket
from wire.upstreams.failure import DialError
from wire.upstreams.keepalive import notice_loss
from wire.upstreams.resolve import Name
from wire.upstreams.upstream import Upstream


@dataclass(frozen=True, slots=True)
class Target:
    """Where to. With `path` it is that Unix socket; `lost_s` as `wire/upstreams/keepalive.py` has it."""

    name: Name
    port: int
    path: str | None
    tls: ssl.SSLContext | None
    server_name: str | None
    lost_s: float | None
    ticket: Ticket | None = None


class Attempt:
    """One attempt; `sock` is what it waits for, `abort` ends it at once."""

    waits = True

    def __init__(self, target: Target) -> None:
        self._target = target
        self._limit: asyncio.Timeout | None = None
        self._given_up = False
        self.sock: socket.socket | None = None

    async def connect(self, within_s: float) -> Upstream:
        """The connection, with its TLS. Raises DialError."""
        await in_task()
        began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(0.0 if self._given_up else within_s) as self._limit:
                made = await (self._to_address() if self._target.path is None else self._to_path())
                made.opened_at = began
                return made
        except TimeoutError:
            if self._given_up:
                raise DialError("connect", 0, "the way to it is lost") from None
            raise DialError("connect", 0, f"no connection within {within_s} s", timed_out=True) from None
        except OSError as error:  # ssl.SSLError is one too
            raise DialError("connect", 0, str(error)) from error
        finally:
            self._limit = None

    def abort(self) -> None:
        """Give up: `connect` raises DialError. At any moment, and as often as one likes."""
        if self._given_up:
            return
        self._given_up = True
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time())

    async def _to_path(self) -> Upstream:
        _, upstream = await asyncio.get_running_loop().create_unix_connection(Upstream, self._target.path)
        return upstream

    async def _to_address(self) -> Upstream:
        """To the first address of the name that takes it. Raises OSError."""
        name, addresses = self._target.name, await self._target.name.addresses()
        for address in addresses:
            try:
                return await self._to_one(address)
            except OSError:
                name.doubt()
                if address == addresses[-1]:
                    raise
        raise OSError("the name has no address")

    async def _to_one(self, address: str) -> Upstream:
        target = self._target
        kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        sock = self.sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if target.lost_s is not None:
                notice_loss(sock, target.lost_s)
            await _connected(sock, (address, target.port))
            upstream = await (_plainly(sock) if target.tls is None else _securely(sock, target.tls, target))
        except BaseException:
            sock.close()
            raise
        upstream.sock = sock
        return upstream


async def _plainly(sock: socket.socket) -> Upstream:
    _, upstream = await asyncio.get_running_loop().create_connection(Upstream, sock=sock)
    return upstream


async def _securely(sock: socket.socket, tls: ssl.SSLContext, target: Target) -> Upstream:
    make = partial(Secured, Upstream, tls, target.server_name, target.ticket)
    _, secured = await asyncio.get_running_loop().create_connection(make, sock=sock)
    return await secured.handshake()


async def _connected(sock: socket.socket, address: tuple[str, int]) -> None:
    """Wait for the handshake; uvloop's own `sock_connect` costs 80 us more. Raises OSError."""
    fault = sock.connect_ex(address)
    if fault == errno.EINPROGRESS:
        loop = asyncio.get_running_loop()
        over: asyncio.Future[None] = loop.create_future()
        loop.add_writer(sock, _settle, over)
        try:
            await over
        finally:
            loop.remove_writer(sock)
        fault = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if fault:
        raise OSError(fault, os.strerror(fault))


def _settle(over: asyncio.Future[None]) -> None:
    if not over.done():
        over.set_result(None)

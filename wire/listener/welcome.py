"""A listening socket and who comes to it: nobody that it has taken is lost, and TLS that is not there yet counts.

Plain connections are taken by the event loop, which does it for half the cost (measured: 33 us against 73). A TLS
connection is known to a listener of the loop only once its handshake is over, and strangers could hold any number
before that: those are taken here, and shake hands in turns (`wire.listener.handshakes`).
"""

import asyncio
import logging
import socket
import ssl

from wire.listener.connection import Connection
from wire.listener.endings import Cause, Stage
from wire.listener.handshakes import Handshakes
from wire.listener.roster import Roster

BACKLOG = 1024  # connections the kernel holds while the loop is busy
AT_ONCE = 1  # taken in one turn of the loop, at some 60 us: who is here already is served between two
FULL_S = 1.0  # until the next try when the process has no descriptor left

log = logging.getLogger("nearfield.wire")


async def bound(host: str, port: int) -> socket.socket:
    """A socket at a named address, not yet listening. Raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, number, _, address = found[0]
    sock = socket.socket(family, kind, number)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


class Welcome:
    """`open` it; `close` takes who has come already, and then nobody; `settled` waits for their handshakes."""

    def __init__(self, sock: socket.socket, roster: Roster, tls: ssl.SSLContext | None) -> None:
        self._socket = sock
        self._roster = roster
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._server: asyncio.Server | None = None
        self._handshakes = Handshakes(roster, tls)
        self._is_open = True

    async def open(self) -> None:
        """Listen."""
        self._socket.setblocking(False)
        self._socket.listen(BACKLOG)
        if self._tls is not None:
            self._loop.add_reader(self._socket.fileno(), self._take)
            return
        own, make = self._socket.dup(), lambda: Connection(self._roster)
        if self._socket.family == socket.AF_UNIX:
            self._server = await self._loop.create_unix_server(make, sock=own, backlog=BACKLOG)
        else:
            self._server = await self._loop.create_server(make, sock=own, backlog=BACKLOG)

    def close(self) -> None:
        """Take those whom the kernel has taken for us, since it would reset them; then nobody any more."""
        if not self._is_open:
            return
        self._is_open = False
        if self._server is not None:
            self._server.close()
        else:
            self._loop.remove_reader(self._socket.fileno())
        for _ in range(BACKLOG):
            if not self._take_one():
                break
        self._socket.close()

    async def settled(self) -> None:
        """Return once nobody is on the way from here to a Connection."""
        await self._handshakes.settled()

    async def give_up(self) -> None:
        """Close, and drop those who are on the way."""
        self.close()
        await self._handshakes.give_up()

    def _take(self) -> None:
        for _ in range(AT_ONCE):
            if not self._take_one():
                return

    def _take_one(self) -> bool:
        """False if nobody waits."""
        try:
            sock, address = self._socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return False
        except OSError as error:
            log.warning("no connection can be taken: %s", error)
            self._pause()
            return False
        host = str(address[0]) if address else ""
        if self._roster.is_flooded(host):
            self._roster.endings.note(Cause.FLOODED, Stage.HANDSHAKE)
            sock.close()
        else:
            self._handshakes.begin(sock, host)
        return True

    def _pause(self) -> None:
        """Without descriptors the socket stays readable: ask again a little later."""
        if self._tls is not None and self._is_open:
            self._loop.remove_reader(self._socket.fileno())
            self._loop.call_later(FULL_S, self._resume)

    def _resume(self) -> None:
        if self._is_open:
            self._loop.add_reader(self._socket.fileno(), self._take)

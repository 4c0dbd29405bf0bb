"""The node's HTTP server: uvicorn, stopped by an event and leaving the process's signals alone."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from typing import TYPE_CHECKING, Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from wire.prompt import Prompt

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from starlette.types import ASGIApp

BACKLOG = 1_024
"""Connections the kernel holds for us; the gateway pools its own."""
KEEP_ALIVE_S = 75
"""Longer than any pool of ours keeps an idle connection (30 s), so that we never close one in use."""
GRACE_S = 10
"""Open answers may finish for so long once the node is to stop."""
HEAD = b"HTTP/1.1 "
"""What an answer's head begins with."""
BEGAN = "nearfield.began"
"""In a request's scope: when its first bytes were here; a node's clock begins then."""


class AtOnce:
    """A transport whose answers leave when they are written: a head with what follows it, in one piece.

    uvloop's own way out is behind all that the turn still does, and the books of an answer are kept in its turn.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport, self._prompt, self._head = transport, Prompt(transport), b""

    def __getattr__(self, name: str) -> Any:
        """All else is the transport's."""
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Now; a head with the next write, or in the loop's next turn."""
        if data.startswith(HEAD) and not self._head:
            self._head = data
            asyncio.get_running_loop().call_soon(self._flush)
        else:
            self._say(data)

    def close(self) -> None:
        """After what was written."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._head:
            self._say(b"")

    def _say(self, data: bytes) -> None:
        whole, self._head = self._head + data, b""
        if self._transport.is_closing():
            self._transport.write(whole)
        else:
            self._prompt.write(whole)


class Clocked(HttpToolsProtocol):
    """uvicorn's own, with a clock: to parse a request, and its task's turn, are the node's time and no way's."""

    def connection_made(self, transport: Any) -> None:
        """What is written to it leaves at once."""
        super().connection_made(cast("asyncio.Transport", AtOnce(transport)))

    def on_message_begin(self) -> None:
        """Called with the first byte of each request."""
        super().on_message_begin()
        scope: Any = self.scope
        scope[BEGAN] = time.perf_counter()


class QuietServer(uvicorn.Server):
    """uvicorn without its own signal handlers and ticks: whoever composes the roles owns the signals."""

    def __init__(self, config: uvicorn.Config, stop: asyncio.Event) -> None:
        super().__init__(config)
        self._stop = stop

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave the signals alone."""
        yield

    async def main_loop(self) -> None:
        """Wait to be stopped; uvicorn's own looks ten times a second."""
        await self._stop.wait()


async def serve(
    app: ASGIApp, host: str, port: int, ready: Callable[[int], None], stop: asyncio.Event
) -> None:
    """Serve `app` until `stop` is set, then let open answers finish."""
    listener = socket.create_server((host, port), backlog=BACKLOG)
    config = uvicorn.Config(
        app,
        http=Clocked,
        loop="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
        backlog=BACKLOG,
    )
    ready(listener.getsockname()[1])
    await QuietServer(config, stop).serve(sockets=[listener])

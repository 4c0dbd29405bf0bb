"""A server that says ok over TLS, and what somebody who asks it hears."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from wire.dial import Pool
from wire.listener.exchange import Exchange
from wire.serve import Server


@asynccontextmanager
async def saying_ok(tls: ssl.SSLContext) -> AsyncIterator[int]:
    """Yields its port."""

    async def serve(exchange: Exchange) -> None:
        await exchange.respond(200, (), b"ok")

    server = await Server.start(serve, "127.0.0.1", 0, tls=tls)
    try:
        yield server.port
    finally:
        await server.close()


async def status_of(port: int, tls: ssl.SSLContext, name: str) -> int:
    """What a client with this context hears that asks for `name`. Raises DialError."""
    pool = Pool("127.0.0.1", port, tls=tls, server_name=name)
    try:
        answer = await pool.request("GET", "/")
        await answer.read()
        return answer.head.status
    finally:
        await pool.close()

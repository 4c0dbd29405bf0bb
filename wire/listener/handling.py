"""One handler's run: whatever it raises ends in one clean answer or one cut connection."""

import asyncio
import logging
from typing import Protocol

from wire.listener.endings import Cause
from wire.listener.exchange import Exchange
from wire.listener.line import Disconnected
from wire.listener.roster import Handler, Roster
from wire.refused.refusal import Refusal

BROKEN = "The server failed on this request; try again."

log = logging.getLogger("nearfield.wire")


class Server(Protocol):
    """The connection, as the end of a handler needs it."""

    roster: Roster

    def cut(self, cause: Cause) -> None:
        """Reset the connection."""

    def handled(self, exchange: Exchange) -> None:
        """The handler has ended, and so has its answer: a request may follow."""


async def handle(exchange: Exchange, handler: Handler, server: Server) -> None:
    """Run the handler. Raises CancelledError alone."""
    try:
        await handler(exchange)
        exchange.check_finished()
    except Refusal as refusal:
        await _fail(exchange, refusal, server)
    except Disconnected:
        server.cut(Cause.CLIENT_LEFT)
    except asyncio.CancelledError:
        if (
            not exchange.disconnected
        ):  # nobody has gone, so somebody waits: a stray cancel is a fault like any other
            log.exception("handler cancelled: %s %s", exchange.head.method, exchange.head.path)
            await _fail(
                exchange, Refusal(500, "internal_error", BROKEN, "server_error"), server, Cause.CANCELLED
            )
        raise
    except Exception:  # the one wall between a handler's fault and the other clients
        log.exception("handler failed: %s %s", exchange.head.method, exchange.head.path)
        await _fail(exchange, Refusal(500, "internal_error", BROKEN, "server_error"), server)
    finally:
        server.handled(exchange)


async def _fail(
    exchange: Exchange, refusal: Refusal, server: Server, cause: Cause = Cause.ANSWER_BROKE
) -> None:
    """Answer with `refusal` if no answer was begun, else cut: a broken answer must look broken."""
    if exchange.finished:
        return
    if exchange.status or exchange.disconnected:
        server.cut(cause)
        return
    try:
        await exchange.respond(refusal.status, *server.roster.speak(refusal))
    except Disconnected:
        server.cut(Cause.CLIENT_LEFT)

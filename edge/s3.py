"""The S3 door: users' S3 traffic to one region's store, byte for byte, because it is signed (`wire/forward.py`).

That store forwards what belongs to another region's bucket, and reads it through. The store alone checks signatures:
nothing is admitted or decided here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

from wire.dial import DialError, Pool
from wire.forward import ask, pass_back
from wire.http.limits import Limits

if TYPE_CHECKING:
    from wire.http.http1 import Headers, RequestHead
    from wire.listener.exchange import Exchange

LIMITS: Final = Limits(
    target_bytes=8 << 10,  # a key of 1,024 bytes, each percent-encoded, and a presigned query
    encoded_paths=True,
)
NOT_BELIEVED: Final = (
    "x-nearfield-",
    "x-forwarded-",
    "x-tenant-",
)  # what a hop says of a client, not the client


class S3Door:
    """`serve` is the handler of the S3 listener."""

    def __init__(self, host: str, port: int) -> None:
        self._pool = Pool(host, port, max_idle=64)

    async def close(self) -> None:
        """Close the connections to the store."""
        await self._pool.close()

    async def serve(self, exchange: Exchange) -> None:
        """Pass one request on, and its answer back."""
        try:
            answer = await ask(self._pool, exchange, onward(exchange.head))
        except DialError as error:
            await _unavailable(exchange, error)
            return
        async with answer:
            await pass_back(exchange, answer)


def onward(head: RequestHead) -> Headers:
    """The headers that are passed on: all but those that only our own hops may say."""
    return tuple(pair for pair in head.headers if not pair[0].startswith(NOT_BELIEVED))


async def _unavailable(exchange: Exchange, error: DialError) -> None:
    """What S3 clients try again after."""
    message = escape(f"The store does not answer ({error.phase}); try again.")
    text = f"<Error><Code>ServiceUnavailable</Code><Message>{message}</Message></Error>"
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'
    headers = (("content-type", "application/xml"), ("retry-after", "1"))
    await exchange.respond(503, headers, body.encode())

"""The S3 door: users' S3 traffic to the home region's store, byte for byte, because it is signed.

Method, target, Host and every header but the hop-by-hop ones go on as they came; bodies stream both ways and are
never held; the client's `100 Continue` waits for the store's. The store alone checks signatures: nothing is
admitted or decided here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

from wire.dial import DialError, Pool
from wire.http1 import without_hop_headers
from wire.limits import Limits

if TYPE_CHECKING:
    from wire.dial import Answer
    from wire.exchange import Exchange
    from wire.http1 import Headers, RequestHead

LIMITS: Final = Limits(
    target_bytes=8 << 10,  # a key of 1,024 bytes, each percent-encoded, and a presigned query
    encoded_paths=True,
)
CONNECT_S: Final = 3.0
HEAD_S: Final = 120.0  # completing a large upload hashes it; a change feed answers after its wait
BETWEEN_S: Final = 60.0
OURS: Final = "x-nearfield-"  # headers that our own hops trust: not from outside


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
            answer = await self._ask(exchange)
        except DialError as error:
            await _unavailable(exchange, error)
            return
        async with answer:
            await _pass_back(exchange, answer)

    async def _ask(self, exchange: Exchange) -> Answer:
        head = exchange.head
        has_body = head.chunked or bool(head.content_length)
        return await self._pool.request(
            head.method,
            head.target,
            _onward(head),
            exchange.body() if has_body else b"" if head.content_length == 0 else None,
            length=head.content_length,
            connect_s=CONNECT_S,
            head_s=HEAD_S,
            expect_continue=head.expect_continue,
        )


def _onward(head: RequestHead) -> Headers:
    return tuple(pair for pair in without_hop_headers(head.headers) if not pair[0].startswith(OURS))


async def _pass_back(exchange: Exchange, answer: Answer) -> None:
    """The answer as it comes; a store that breaks off inside it cuts the client too."""
    head = answer.head
    await exchange.start(head.status, without_hop_headers(head.headers, {"server"}), head.content_length)
    try:
        async for data in answer.chunks(BETWEEN_S):
            await exchange.write(data)
    except DialError:
        exchange.abort()
        return
    await exchange.finish()


async def _unavailable(exchange: Exchange, error: DialError) -> None:
    """What S3 clients try again after."""
    message = escape(f"The store does not answer ({error.phase}); try again.")
    text = f"<Error><Code>ServiceUnavailable</Code><Message>{message}</Message></Error>"
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'
    headers = (("content-type", "application/xml"), ("retry-after", "1"))
    await exchange.respond(503, headers, body.encode())

"""One exchange passed on to an upstream byte for byte, for requests whose signature covers Host and headers.

Method, target, Host and every header but the hop-by-hop ones go on as they came; bodies stream both ways and are
never held; the client's `100 Continue` waits for the upstream's.
"""

from typing import Final

from wire.dial import Answer, DialError, Pool
from wire.http.http1 import Headers, without_hop_headers
from wire.listener.exchange import Exchange

CONNECT_S: Final = 3.0
HEAD_S: Final = 120.0  # completing a large upload hashes it; a change feed answers after its wait
BETWEEN_S: Final = 60.0


async def ask(pool: Pool, exchange: Exchange, headers: Headers) -> Answer:
    """The upstream's answer to the exchange's own request, sent with `headers`. Raises DialError."""
    head = exchange.head
    has_body = head.chunked or bool(head.content_length)
    return await pool.request(
        head.method,
        head.target,
        without_hop_headers(headers),
        exchange.body() if has_body else b"" if head.content_length == 0 else None,
        length=head.content_length,
        connect_s=CONNECT_S,
        head_s=HEAD_S,
        expect_continue=head.expect_continue,
        framed=True,
    )


async def pass_back(exchange: Exchange, answer: Answer) -> None:
    """The answer as it comes; an upstream that breaks off inside it cuts the client too. Raises Disconnected."""
    head = answer.head
    await exchange.start(head.status, without_hop_headers(head.headers, {"server"}), head.content_length)
    try:
        async for data in answer.chunks(BETWEEN_S):
            await exchange.write(data)
    except DialError:
        exchange.abort()
        return
    await exchange.finish()

"""What a region of the fault suite does wrong, in bytes on its socket: each script answers one request.

Right answers are CHUNKS, each with its place in the answer, so that a lost, repeated or foreign one shows.
"""

import asyncio
import json

from tests.edge.world import MODEL

NUM_TOKENS = 12
HALF = NUM_TOKENS // 2
SSE = (("content-type", "text/event-stream"),)
JSON = (("content-type", "application/json"),)
DONE = b"data: [DONE]\n\n"


def chunk(n, region):
    """One event of a chat: token `n` of the answer, and who made it."""
    delta = {"content": f"t{n} "}
    finish = "stop" if n == NUM_TOKENS - 1 else None
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    value = {"id": "c", "object": "chat.completion.chunk", "model": MODEL, "by": region, "choices": [choice]}
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def whole(region):
    message = {"role": "assistant", "content": text()}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    value = {"id": "c", "object": "chat.completion", "model": MODEL, "by": region, "choices": [choice]}
    return json.dumps(value).encode()


def text(num=NUM_TOKENS):
    return "".join(f"t{n} " for n in range(num))


async def _read(exchange, region):
    body = await exchange.read_body(2**21)
    region.requests.append((exchange.head, body))
    return json.loads(body).get("stream") is True


async def _chunks(exchange, region, numbers):
    for n in numbers:
        await exchange.write(chunk(n, region.name))
        await asyncio.sleep(0.002)


async def _silence():
    await asyncio.sleep(100)


async def arrived():
    """What was sent is read before what comes next: a loop that stood still runs its timers before it reads, once."""
    for _ in range(5):
        await asyncio.sleep(0.002)


def raw(exchange, *parts):
    """Bytes that no server of ours would send."""
    exchange._line.send(*parts)


async def well(exchange, region):
    """No fault."""
    if not await _read(exchange, region):
        await exchange.respond(200, JSON, whole(region.name))
        return
    await exchange.start(200, SSE)
    await _chunks(exchange, region, range(NUM_TOKENS))
    await exchange.finish(DONE)


async def reset_before_head(exchange, region):
    await _read(exchange, region)
    exchange.abort()


async def reset_after_head(exchange, region):
    if await _read(exchange, region):
        await exchange.start(200, SSE)
    else:
        await exchange.start(200, JSON, len(whole(region.name)))
    await arrived()
    exchange.abort()


async def stall_before_head(exchange, region):
    await _read(exchange, region)
    await _silence()


async def _begin(exchange, region):
    """Half of an answer."""
    if await _read(exchange, region):
        await exchange.start(200, SSE)
        await _chunks(exchange, region, range(HALF))
    else:
        body = whole(region.name)
        await exchange.start(200, JSON, len(body))
        await exchange.write(body[: len(body) // 2])


async def stall_midway(exchange, region):
    await _begin(exchange, region)
    await _silence()


async def cut_midway(exchange, region):
    await _begin(exchange, region)
    await arrived()
    exchange.abort()


async def truncated(exchange, region):
    """Half an answer that HTTP takes for whole: 200, framed well."""
    if await _read(exchange, region):
        await exchange.start(200, SSE)
        await _chunks(exchange, region, range(HALF))
        await exchange.finish()
        return
    body = whole(region.name)
    await exchange.respond(200, JSON, body[: len(body) // 2])


async def garbage(exchange, region):
    await _read(exchange, region)
    raw(exchange, b"\x16\x03\x01 this is no HTTP \x00\xff\r\n\r\n")
    exchange.abort()


async def garbage_midway(exchange, region):
    """Chunked framing that falls apart."""
    await _begin(exchange, region)
    await arrived()
    raw(exchange, b"zz\r\nnonsense\r\n")
    await arrived()
    exchange.abort()


def refusing(status, code, *headers):
    async def script(exchange, region):
        await _read(exchange, region)
        error = {"error": {"message": "m", "type": "server_error", "param": None, "code": code}}
        await exchange.respond(status, (*JSON, *headers), json.dumps(error).encode())

    return script


async def page_500(exchange, region):
    """Somebody's error page instead of an error."""
    await _read(exchange, region)
    await exchange.respond(500, (("content-type", "text/html"),), b"<html>oops</html>")


async def slow_first_token(exchange, region):
    """The head at once and then nothing, or no head at all: alive and of no use."""
    if await _read(exchange, region):
        await exchange.start(200, SSE)
    await _silence()


async def wrong_length(exchange, region):
    """A length that is shorter than the answer, and one that is longer."""
    if await _read(exchange, region):
        body = b"".join(chunk(n, region.name) for n in range(HALF))
        raw(
            exchange,
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n"
            % (len(body) + 50),
            body,
        )
    else:
        body = whole(region.name)
        raw(
            exchange,
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
            % (len(body) - 9),
            body,
        )
    await arrived()
    exchange.abort()


async def duplicates(exchange, region):
    """Each event twice, as a hop that sends again what it thinks was lost; the ids say which is which."""
    if not await _read(exchange, region):
        body = whole(region.name)
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        raw(exchange, head, body, head, body)
        await arrived()
        exchange.abort()
        return
    await exchange.start(200, SSE)
    for n in range(NUM_TOKENS):
        event = b"id: %d\n" % n + chunk(n, region.name)
        await exchange.write(event + event)
    await exchange.finish(DONE + chunk(0, region.name) + DONE)


def flapping():
    """Down, up, down, up."""
    turn = iter(range(10**6))

    async def script(exchange, region):
        await (reset_before_head if next(turn) % 2 == 0 else well)(exchange, region)

    return script


async def slow_and_alive(exchange, region):
    """As a gateway whose model wakes or whose prompt is long: no word of the answer, and signs of life."""
    streams = await _read(exchange, region)
    for _ in range(4):
        await asyncio.sleep(0.4)
        exchange.pulse(b":\n\n")
    if not streams:
        await exchange.respond(200, JSON, whole(region.name))
        return
    await exchange.start(200, SSE)
    for _ in range(4):
        await asyncio.sleep(0.4)
        exchange.pulse(b":\n\n")
    await _chunks(exchange, region, range(NUM_TOKENS))
    await exchange.finish(DONE)

"""A region's answer back to the client: read whole while the edge has room for it, piece by piece where not.

What was read whole can still be asked for elsewhere, so a cut, a stall or half an answer never reaches the client.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from edge.relay import setback
from edge.relay.setback import REPLAYABLE
from edge.relay.sse import CONTENT_TYPE
from edge.relay.stream import Stream, end_with
from wire.dial import DialError
from wire.dialect import translated

if TYPE_CHECKING:
    from edge.relay.journey import Journey
    from edge.relay.setback import Setback
    from wire.dial import Answer
    from wire.http.http1 import ResponseHead

MAX_WHOLE_BYTES: Final = 64 << 20  # as a gateway's; 2,000 embeddings of 4,096 in JSON are 60 MB
MAX_ERROR_BYTES: Final = 64 << 10
_OPEN, _CLOSE, _BLANKS = frozenset(b"{["), frozenset(b"}]"), b" \t\r\n"


async def pass_back(journey: Journey, region: str, answer: Answer) -> Setback | None:
    """The answer to the client, and its connection back. Raises DialError while nothing of it is committed."""
    journey.phases.mark("first_byte" if journey.passed_on is None else "stream", answer.heard_at)
    if journey.use is not None:
        journey.use.heard(answer.head)
    try:
        return await _by_kind(journey, region, answer)
    finally:
        answer.abort()  # unless it was read to its end


async def _by_kind(journey: Journey, region: str, answer: Answer) -> Setback | None:
    head = answer.head
    if head.status == 200 and (head.get("content-type") or "").startswith(CONTENT_TYPE):
        return await Stream(journey, region, answer).run()
    if head.status in REPLAYABLE:
        body = await answer.read(MAX_ERROR_BYTES, journey.within_s(journey.patience.between_s))
        return setback.of_answer(region, head.status, head.headers, body)
    if journey.exchange.status:  # comments went out before a replay: a status code comes too late
        body = await answer.read(MAX_ERROR_BYTES, journey.within_s(journey.patience.between_s))
        await end_with(journey, region, body)
        return None
    return await _whole(journey, region, answer)


async def _whole(journey: Journey, region: str, answer: Answer) -> Setback | None:
    """Read to its end first, as far as there is room; then a break is none of the client's business."""
    pieces: list[bytes] = []
    num_bytes = 0
    try:
        while data := await answer.next(journey.within_s(journey.patience.between_s)):
            pieces.append(data)
            if num_bytes + len(data) > MAX_WHOLE_BYTES or not journey.room.take(len(data)):
                await _pour(journey, region, answer, pieces)
                return None
            num_bytes += len(data)
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()  # a slow client may take a minute, and they are as much again
        if answer.head.status == 200 and not _is_whole(answer.head, body):
            return setback.of_garbled(region)
        await _respond(journey, region, answer, body)
    finally:
        journey.room.give_back(num_bytes)
    return None


def _is_whole(head: ResponseHead, body: bytes) -> bool:
    """Whether a JSON answer can be whole: by its ends, or read through where its end was only the connection's."""
    if not (head.get("content-type") or "").startswith("application/json"):
        return True
    if head.content_length is None and not head.chunked:
        return _is_json(body)
    body = body if body[-1:] == b"}" else body.strip(_BLANKS)
    return bool(body) and body[0] in _OPEN and body[-1] in _CLOSE


def _is_json(body: bytes) -> bool:
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return False
    return True


async def _respond(journey: Journey, region: str, answer: Answer, body: bytes) -> None:
    journey.phases.mark("stream")
    status, headers = (
        answer.head.status,
        journey.answer_headers(region, answer.head.headers, journey.phases.header()),
    )
    said = body if status < 400 else translated(journey.exchange.head.path, status, body)
    await journey.exchange.respond(status, headers, said)


async def _pour(journey: Journey, region: str, answer: Answer, pieces: list[bytes]) -> None:
    """An answer that there is no room for: its first pieces commit it, and a break after that cuts the connection."""
    exchange = journey.exchange
    headers = journey.answer_headers(region, answer.head.headers, journey.phases.header())
    await exchange.start(answer.head.status, headers, answer.head.content_length)
    try:
        await exchange.write(b"".join(pieces))
        while data := await answer.next(journey.within_s(journey.patience.between_s)):
            await exchange.write(data)
    except DialError:
        exchange.abort()
        raise
    await exchange.finish()

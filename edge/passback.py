"""A region's answer back to the client: read whole where it may yet be replayed, piece by piece where it may not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edge import setback
from edge.setback import REPLAYABLE
from edge.sse import CONTENT_TYPE
from edge.stream import BETWEEN_S, Stream, end_with
from wire.dial import DialError
from wire.dialect import translated

if TYPE_CHECKING:
    from edge.journey import Journey
    from edge.setback import Setback
    from wire.dial import Answer

WHOLE_BYTES: Final = (
    1 << 20
)  # answers up to this are read whole first, so that they can be replayed to the end
MAX_ERROR_BYTES: Final = 64 << 10


async def pass_back(journey: Journey, region: str, answer: Answer) -> Setback | None:
    """The answer to the client, and its connection back. Raises DialError while nothing of it is committed."""
    journey.phases.mark("first_byte")
    if answer.connect_s:  # on a new connection its making is a phase of its own
        journey.phases.add("connect", answer.connect_s * 1000)
        journey.phases.add("first_byte", -answer.connect_s * 1000)
    try:
        return await _by_kind(journey, region, answer)
    finally:
        answer.abort()  # unless it was read to its end


async def _by_kind(journey: Journey, region: str, answer: Answer) -> Setback | None:
    head = answer.head
    if head.status == 200 and (head.get("content-type") or "").startswith(CONTENT_TYPE):
        return await Stream(journey, region, answer).run()
    if head.status in REPLAYABLE:
        return setback.of_answer(
            region, head.status, head.headers, await answer.read(MAX_ERROR_BYTES, BETWEEN_S)
        )
    if journey.exchange.status:  # comments went out before a replay: a status code comes too late
        await end_with(journey, region, await answer.read(MAX_ERROR_BYTES, BETWEEN_S))
    elif (head.content_length or 0) <= WHOLE_BYTES and head.content_length is not None:
        await _respond(journey, region, answer, await answer.read(WHOLE_BYTES, BETWEEN_S))
    else:
        await _pour(journey, region, answer)
    return None


async def _respond(journey: Journey, region: str, answer: Answer, body: bytes) -> None:
    journey.phases.mark("stream")
    status, headers = (
        answer.head.status,
        journey.answer_headers(region, answer.head.headers, journey.phases.header()),
    )
    said = body if status < 400 else translated(journey.exchange.head.path, status, body)
    await journey.exchange.respond(status, headers, said)


async def _pour(journey: Journey, region: str, answer: Answer) -> None:
    """A long answer, piece by piece; its first piece commits it, and a break after that cuts the connection."""
    exchange, first = journey.exchange, await answer.next(BETWEEN_S)
    headers = journey.answer_headers(region, answer.head.headers, journey.phases.header())
    await exchange.start(answer.head.status, headers, answer.head.content_length)
    try:
        await exchange.write(first)
        async for data in answer.chunks(BETWEEN_S):
            await exchange.write(data)
    except DialError:
        exchange.abort()
        raise
    await exchange.finish()

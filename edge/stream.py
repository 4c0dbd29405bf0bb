"""One event stream on its way back: whole events only, and one clear end whatever happens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edge import setback
from edge.setback import REPLAYABLE_CODES
from edge.sse import error_code, first_event
from wire.dial import DialError
from wire.dialect import error_event
from wire.eventcut import EventCut
from wire.refusal import Refusal

if TYPE_CHECKING:
    from edge.journey import Journey
    from edge.setback import Setback
    from wire.dial import Answer

BETWEEN_S: Final = 120.0  # silence inside an answer; a region that is gone is found sooner, by its probe


class Stream:
    """One event stream on its way back."""

    def __init__(self, journey: Journey, region: str, answer: Answer) -> None:
        self._journey = journey
        self._exchange = journey.exchange
        self._region = region
        self._answer = answer
        self._committed = False

    async def run(self) -> Setback | None:
        """Pass events on until the end. Raises DialError if the region dies before the first one."""
        cut = EventCut()
        try:
            while data := await self._answer.next(BETWEEN_S):
                back = await self._pass(cut.feed(data))
                if back is not None:
                    return back
        except DialError as error:
            if not self._committed:
                raise
            return await self._broken(error)
        await self._pass(cut.rest())
        if not self._exchange.status:
            await self._open()
        self._journey.phases.mark("stream")
        await self._exchange.finish(self._journey.receipt(self._region))
        return None

    async def _pass(self, block: bytes) -> Setback | None:
        """Whole events to the client, unless the first one says that another region should be asked."""
        if not block:
            return None
        if not self._committed and (data := first_event(block)) is not None:
            code = error_code(data)
            if code in REPLAYABLE_CODES and self._journey.may_replay():
                return setback.of_event(self._region, code or "", data)
            self._committed = True
            self._journey.phases.mark("first_byte")
        if self._exchange.status:
            await self._exchange.write(block)
        else:
            await self._open(block)
        return None

    async def _open(self, first: bytes = b"") -> None:
        headers = self._journey.answer_headers(self._region, self._answer.head.headers)
        await self._exchange.start(200, headers, first=first)

    async def _broken(self, error: DialError) -> Setback:
        """The region died inside a committed stream: the client hears it, and the region's health too."""
        text = f"Region {self._region} broke off inside the answer; ask again for a new one."
        refusal = Refusal(502, "upstream_failed", text, "server_error")
        await end_with(self._journey, self._region, refusal.body())
        return setback.of_refusal(self._region, error.phase, refusal)


async def end_with(journey: Journey, region: str | None, error: bytes) -> None:
    """End a stream that was begun with one error event, and the receipt."""
    journey.phases.mark("stream")
    said = error_event(journey.exchange.head.path, error)
    await journey.exchange.finish(said + journey.receipt(region))

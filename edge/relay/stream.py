"""One event stream on its way back: whole events only, each once, and one clear end whatever happens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge.receipts.receipt import told_in
from edge.relay import setback
from edge.relay.resume import GroupLostError
from edge.relay.setback import REPLAYABLE_CODES
from edge.relay.sse import Ending, error_code, first_event, last_event
from regions.map.headers import REVISION
from wire.dial import DialError
from wire.dialect import error_event
from wire.eventcut import EventCut
from wire.refused.refusal import Refusal

if TYPE_CHECKING:
    from edge.relay.journey import Journey
    from edge.relay.setback import Setback
    from wire.dial import Answer


class Stream:
    """One event stream of region `region`."""

    def __init__(self, journey: Journey, region: str, answer: Answer) -> None:
        self._journey = journey
        self._exchange = journey.exchange
        self._region = region
        self._answer = answer
        self._ending = Ending()
        self._ending.pass_on(journey.passed_on or b"")
        self._resumption = journey.resumption
        self._committed = journey.passed_on is not None
        self._quiet_s = journey.patience.between_s if self._committed else journey.patience.first_byte_s
        if self._resumption is not None:
            self._resumption.begin(answer.head.get(REVISION))
            self._committed = self._resumption.can_go_on

    async def run(self) -> Setback | None:
        """Pass events on until the end. Raises DialError if the region dies before the first one."""
        cut, journey = EventCut(), self._journey
        try:
            while data := await self._answer.next(journey.within_s(self._quiet_s)):
                back = await self._pass(cut.feed(data))
                if back is not None:
                    return back
        except DialError as error:
            if not self._committed:
                raise
            if not self._ending.is_done:
                return await self._broken(error.phase, timed_out=error.timed_out)
        except GroupLostError:
            return await self._unfinished()
        back = await self._pass(cut.rest())
        if back is not None or not self._ending.is_good:
            return back or await self._unfinished()
        journey.phases.mark("stream", self._answer.heard_at)
        journey.phases.mark("finish")
        await self._exchange.finish(journey.receipt(self._region))
        return None

    async def _pass(self, block: bytes) -> Setback | None:
        """Whole events to the client, unless they say that another region should be asked. Raises GroupLostError."""
        if told := told_in(block):
            self._journey.receipts.append(told)
        if self._resumption is not None:
            if (back := self._lost_inside(block)) is not None:
                return back
            block = self._resumption.take(block)
        block = self._ending.pass_on(block)
        if not block:
            return None
        if self._journey.use is not None:
            self._journey.use.saw(block)
        if not self._committed and (data := first_event(block)) is not None:
            code = error_code(data)
            if code in REPLAYABLE_CODES and self._journey.may_replay():
                return setback.of_event(self._region, code or "", data)
            self._committed = True
            self._quiet_s = self._journey.patience.between_s
            self._journey.phases.mark("first_byte", self._answer.heard_at)
        if self._exchange.status:
            await self._exchange.write(block)
        else:
            await self._open(block)
        return None

    def _lost_inside(self, block: bytes) -> Setback | None:
        """The region's own word that it cannot go on, if another one can."""
        code = error_code(last_event(block)) if self._committed else None
        if code not in REPLAYABLE_CODES or not self._journey.may_resume():
            return None
        return setback.of_event(self._region, code or "", last_event(block))

    async def _open(self, first: bytes = b"") -> None:
        headers = self._journey.answer_headers(self._region, self._answer.head.headers)
        await self._exchange.start(200, headers, first=first)

    async def _unfinished(self) -> Setback:
        """It ended by HTTP's rules and not by its own: nobody knows what is missing."""
        if not self._committed:
            return setback.of_garbled(self._region)
        return await self._broken("garbled", timed_out=False)

    async def _broken(self, cause: str, *, timed_out: bool) -> Setback:
        """The region died inside a committed stream: another goes on with it, or the client hears it."""
        refusal = _broken_off(self._region, silent=timed_out, late=self._journey.is_late())
        if self._journey.may_resume():
            return setback.of_refusal(self._region, cause, refusal)
        await end_with(self._journey, self._region, refusal.body())
        return setback.of_refusal(self._region, cause, refusal, failed=refusal.code != "deadline_exceeded")


def _broken_off(region: str, *, silent: bool, late: bool) -> Refusal:
    if silent and late:
        text = "The deadline passed before the answer was complete."
        return Refusal(504, "deadline_exceeded", text, "server_error")
    how = "fell silent" if silent else "broke off"
    text = f"Region {region} {how} inside the answer; ask again for a new one."
    return Refusal(502, "upstream_failed", text, "server_error")


async def end_with(journey: Journey, region: str | None, error: bytes) -> None:
    """End a stream that was begun with one error event, and the receipt."""
    journey.phases.mark("stream")
    said = error_event(journey.exchange.head.path, error)
    await journey.exchange.finish(said + journey.receipt(region))

"""A request to the region that answers soonest, and its answer back as bytes; to the next region while it may.

An answer is committed by its first event, or its first body byte when it does not stream. Before that the request
is replayed, at most MAX_REPLAYS times and within its deadline; after that a dead region ends the stream with one
error event. A client that goes away cancels the handler, and that closes the upstream connection at once.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from edge import setback
from edge.setback import REPLAYABLE, REPLAYABLE_CODES, Setback
from edge.sse import CONTENT_TYPE, error_code, first_event
from regions.health import Outcome
from regions.map import ASK, DEADLINE_MS, REGION, REQUEST_ID, ROUTE, TENANT, WAIT_S
from wire.dial import Answer, DialError
from wire.dialect import error_event, id_headers, translated
from wire.eventcut import EventCut
from wire.exchange import Disconnected
from wire.http1 import without_hop_headers
from wire.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edge.admit import Admission
    from edge.reach import Reach
    from edge.route import Decision
    from regions.ask import Ask
    from wire.exchange import Exchange
    from wire.http1 import Headers
    from wire.timing import Phases

MAX_REPLAYS: Final = 2  # three regions have been asked by then; a fourth would meet the same trouble
DEADLINE_S: Final = 600.0  # as the openai client's own
CONNECT_S: Final = 2.0  # several round trips around the Earth, and one lost SYN
BETWEEN_S: Final = 120.0  # silence inside an answer; a region that is gone is found sooner, by its probe
WHOLE_BYTES: Final = (
    1 << 20
)  # answers up to this are read whole first, so that they can be replayed to the end
MAX_ERROR_BYTES: Final = 64 << 10
_OWN: Final = frozenset({"server", "content-length", "server-timing", REQUEST_ID, REGION, ROUTE})


@dataclass(slots=True)
class Journey:
    """One admitted inference request on its way; `deadline` is loop time."""

    exchange: Exchange
    admission: Admission
    ask: Ask
    body: bytes
    decision: Decision
    request_id: str
    phases: Phases
    deadline: float
    setbacks: list[Setback] = field(default_factory=list)
    _terms: str = ""

    def terms(self) -> str:
        """The decision as the answer tells it; asked for while the request is on its way, and kept."""
        self._terms = self._terms or self.decision.terms()
        return self._terms

    def left_s(self) -> float:
        """Seconds until the deadline, 0 when it is past."""
        return max(0.0, self.deadline - asyncio.get_running_loop().time())

    def may_replay(self) -> bool:
        """Whether another region can still be asked after the one that is being asked now."""
        num_asked = len(self.setbacks) + 1
        return num_asked < len(self.decision.choices) and num_asked <= MAX_REPLAYS and self.left_s() > 0

    def request_headers(self, ours: Headers, left_s: float) -> Headers:
        """A new head for the region: `ours`, and nothing of the client's but what is named here."""
        head = self.exchange.head
        wait = head.get(WAIT_S)
        return (
            *ours,
            ("accept", head.get("accept") or "*/*"),
            (REQUEST_ID, self.request_id),
            (TENANT, self.admission.tenant),
            (ASK, self.ask.header()),
            (DEADLINE_MS, str(int(left_s * 1000))),
            *(((WAIT_S, wait),) if wait is not None else ()),
        )

    def answer_headers(
        self, region: str | None, upstream: Headers = (), timing: str | None = None
    ) -> Headers:
        """The region's headers with ours in place of those of the same name."""
        headers = list(without_hop_headers(upstream, _OWN))
        headers += id_headers(self.exchange.head.path, self.request_id)
        if region is not None:
            headers.append((REGION, region))
        replayed = [f"; replayed={each.region}({each.cause})" for each in self.setbacks]
        headers.append((ROUTE, "".join([self.terms(), *replayed])))
        if timing is not None:
            said = [value for name, value in upstream if name == "server-timing"]
            headers.append(("server-timing", ", ".join([*said, timing])))
        return tuple(headers)

    def receipt(self, region: str | None) -> bytes:
        """The edge's last line of a stream."""
        replayed = [f"{each.region}({each.cause})" for each in self.setbacks]
        extra = {"region": region, "request_id": self.request_id, "replayed": replayed}
        return self.phases.comment(extra)


class Relay:
    """Sends journeys to regions."""

    def __init__(self, reaches: Mapping[str, Reach], hop_token: str) -> None:
        self._reaches = reaches
        self._headers: Headers = (
            ("authorization", f"Bearer {hop_token}"),
            ("content-type", "application/json"),
        )

    async def serve(self, journey: Journey, aside: Callable[[], None]) -> None:
        """Answer one request; `aside` is done while it is on its way, where it costs the first token nothing.

        Raises Refusal if its deadline passes before anything was sent.
        """

        def meanwhile() -> None:
            journey.terms()
            aside()

        for choice in journey.decision.choices[: MAX_REPLAYS + 1]:
            left_s = journey.left_s()
            if not left_s:
                break
            back = await self._try(journey, choice.region, left_s, meanwhile)
            if back is None:
                return
            journey.setbacks.append(back)
            journey.phases.mark("replay")
        await _give_up(journey)

    async def _try(
        self, journey: Journey, region: str, left_s: float, meanwhile: Callable[[], None]
    ) -> Setback | None:
        """Ask one region; None once the client has its answer, else why it has not."""
        reach = self._reaches[region]
        reach.saw(Outcome.SENT)
        try:
            answer = await reach.pool.request(
                "POST",
                journey.exchange.head.path,
                journey.request_headers(self._headers, left_s),
                journey.body,
                connect_s=CONNECT_S,
                head_s=left_s,
                meanwhile=meanwhile,
            )
            back = await _pass_back(journey, region, answer)
        except DialError as error:
            back = setback.of_error(region, error)
        reach.saw(Outcome.FAILED if back is not None and back.failed else Outcome.SUCCEEDED)
        if journey.exchange.disconnected:
            raise Disconnected("the client is gone, or was cut off from an answer that broke")
        return None if journey.exchange.finished else back  # finished: an error event told the client already


async def _pass_back(journey: Journey, region: str, answer: Answer) -> Setback | None:
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
        return await _Stream(journey, region, answer).run()
    if head.status in REPLAYABLE:
        return setback.of_answer(
            region, head.status, head.headers, await answer.read(MAX_ERROR_BYTES, BETWEEN_S)
        )
    if journey.exchange.status:  # comments went out before a replay: a status code comes too late
        await _end_with(journey, region, await answer.read(MAX_ERROR_BYTES, BETWEEN_S))
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


class _Stream:
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
        await _end_with(self._journey, self._region, refusal.body())
        return setback.of_refusal(self._region, error.phase, refusal)


async def _end_with(journey: Journey, region: str | None, error: bytes) -> None:
    """End a stream that was begun with one error event, and the receipt."""
    journey.phases.mark("stream")
    said = error_event(journey.exchange.head.path, error)
    await journey.exchange.finish(said + journey.receipt(region))


async def _give_up(journey: Journey) -> None:
    """No region answered: the last one's words, as a status while that is possible."""
    if not journey.setbacks:
        raise Refusal(
            504, "deadline_exceeded", "The deadline passed before a region answered.", "server_error"
        )
    last = journey.setbacks[-1]
    if journey.exchange.status:
        await _end_with(journey, None, last.body)
        return
    region = last.region if last.answered else None
    headers = (*last.headers, *journey.answer_headers(region, timing=journey.phases.header()))
    said = translated(journey.exchange.head.path, last.status, last.body)
    await journey.exchange.respond(last.status, headers, said)

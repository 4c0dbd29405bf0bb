"""A request to the region that answers soonest, and its answer back as bytes; to the next region while it may.

An answer is committed by its first event, or its first body byte when it does not stream. Before that the request
is replayed, at most MAX_REPLAYS times and within its deadline; after that a dead region ends the stream with one
error event. A client that goes away cancels the handler, and that closes the upstream connection at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edge import setback
from edge.journey import MAX_REPLAYS
from edge.passback import pass_back
from edge.stream import end_with
from regions.health import Outcome
from wire.dial import DialError
from wire.dialect import translated
from wire.exchange import Disconnected
from wire.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edge.journey import Journey
    from edge.reach import Reach
    from edge.setback import Setback
    from wire.http1 import Headers

CONNECT_S: Final = 2.0  # several round trips around the Earth, and one lost SYN


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
                framed=True,
                meanwhile=meanwhile,
            )
            back = await pass_back(journey, region, answer)
        except DialError as error:
            back = setback.of_error(region, error)
        reach.saw(Outcome.FAILED if back is not None and back.failed else Outcome.SUCCEEDED)
        if journey.exchange.disconnected:
            raise Disconnected("the client is gone, or was cut off from an answer that broke")
        return None if journey.exchange.finished else back  # finished: an error event told the client already


async def _give_up(journey: Journey) -> None:
    """No region answered: the last one's words, as a status while that is possible."""
    if not journey.setbacks:
        raise Refusal(
            504, "deadline_exceeded", "The deadline passed before a region answered.", "server_error"
        )
    last = journey.setbacks[-1]
    if journey.exchange.status:
        await end_with(journey, None, last.body)
        return
    region = last.region if last.answered else None
    headers = (*last.headers, *journey.answer_headers(region, timing=journey.phases.header()))
    said = translated(journey.exchange.head.path, last.status, last.body)
    await journey.exchange.respond(last.status, headers, said)

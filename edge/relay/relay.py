"""A request to the region that answers soonest, and its answer back as bytes; to the next region while it may.

An answer is committed by its first event, or its first body byte when it does not stream. Before that the request
is replayed: at most MAX_REPLAYS times, within its deadline and its model's budget; by another region's gateway where
only the way to a region is cut. After that a dead region ends the
stream with one error event. A client that goes away cancels the handler, and that closes the upstream connection at
once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edge.reach.detour import Detours, is_unreached, passed_on
from edge.relay import setback
from edge.relay.holdoff import ANYONE
from edge.relay.journey import MAX_REPLAYS, said_of
from edge.relay.passback import pass_back
from edge.relay.stream import end_with
from regions.health import Outcome
from regions.map.headers import ATTEMPT
from wire.dial import DialError
from wire.dialect import translated
from wire.http.heads import request_head_bytes
from wire.listener.line import Disconnected
from wire.refused.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from edge.admission.admit import Admission
    from edge.figures import EdgeFigures
    from edge.reach.region import Reach
    from edge.relay.holdoff import Holdoffs
    from edge.relay.journey import Journey
    from edge.relay.setback import Setback
    from wire.http.http1 import Headers, RequestHead
    from wire.upstreams.upstream import Upstream


TOO_MANY: Final = 429  # said to a tenant, not of the region


class Relay:
    """Sends journeys to regions; what it learns of who wants to be left alone is in `holdoffs`."""

    def __init__(
        self, reaches: Mapping[str, Reach], hop_token: str, figures: EdgeFigures, holdoffs: Holdoffs
    ) -> None:
        self.reaches = reaches
        self._figures = figures
        self.holdoffs = holdoffs
        self._detours = Detours(reaches)
        self._headers: Headers = (
            ("authorization", f"Bearer {hop_token}"),
            ("content-type", "application/json"),
        )

    async def serve(self, journey: Journey, aside: Callable[[], None], sent: Upstream | None = None) -> None:
        """Answer one request; `aside` is done while it is on its way, where it costs the first token nothing.

        `sent`: the connection to the first choice on which it is under way already.

        Raises Refusal if its deadline passes before anything was sent.
        """

        def meanwhile() -> None:
            journey.terms()
            aside()

        for region, via in self._tries(journey):
            left_s = journey.left_s()
            if not left_s and sent is None:
                break
            if journey.setbacks and not self._may_repeat(journey):
                self._gave_up(journey)
                await _give_up(journey, _budget_spent(journey))
                return
            journey.via = None if via is None or sent is not None else via.name
            back = await self._try(journey, region, left_s, meanwhile, sent)
            sent = None
            if back is None:
                return
            self._note(journey, passed_on(back, journey.via))
        last = _last_words(journey)
        self._gave_up(journey)
        await _give_up(journey, last)

    def _tries(self, journey: Journey) -> Iterator[tuple[str, Reach | None]]:
        """Regions in the order of the choice, and who passes on to one that is out of reach.

        Last comes the best one again by such a way, if nobody was reached.
        """
        choices, within = journey.decision.choices[: MAX_REPLAYS + 1], journey.decision.resident_in
        for choice in choices:
            down = self.reaches[choice.region].down
            yield choice.region, self._detours.of(choice.region, journey.now(), within) if down else None
        best = choices[0].region
        while len(journey.setbacks) <= MAX_REPLAYS and all(map(is_unreached, journey.setbacks)):
            via = self._detours.of(best, journey.now(), within)
            if via is None:
                return
            yield best, via

    def constant_head(self, head: RequestHead, admission: Admission, reach: Reach) -> bytes:
        """What every request of a client's head to one region begins with."""
        ours = (("host", reach.pool.host_header), *self._headers)
        headers = (*ours, *said_of(head, admission), (ATTEMPT, "0"))
        return request_head_bytes("POST", head.path, headers).removesuffix(b"\r\n")

    async def _try(
        self,
        journey: Journey,
        region: str,
        left_s: float,
        meanwhile: Callable[[], None],
        sent: Upstream | None,
    ) -> Setback | None:
        """Ask one region; None once the client has its answer, else why it has not."""
        reach, patience = self.reaches[journey.via or region], journey.patience
        headers = journey.request_headers(region, self._headers, left_s)
        who = region, journey.ask.model, journey.admission.grant.tenant
        if sent is None:
            reach.saw(Outcome.SENT)
            self.holdoffs.sent(*who)
        back: Setback | None = None
        try:
            answer = await reach.pool.request(
                "POST",
                journey.exchange.head.path,
                headers,
                journey.request_body(),
                connect_s=patience.connect_s,
                head_s=left_s,
                quiet_s=patience.first_byte_s,
                framed=True,
                meanwhile=meanwhile,
                sent=sent,
            )
            if sent is None:
                journey.phases.mark_sent(answer.sent_at, answer.connect_s)
            back = await pass_back(journey, region, answer)
        except DialError as error:
            back = setback.of_error(region, error, is_late=journey.is_late())
        finally:
            if back is None or back.status != TOO_MANY:
                self.holdoffs.came_back(*who)
        failed = (
            back is not None and back.failed and not (back.answered and journey.via)
        )  # it says: the other one
        reach.saw(Outcome.FAILED if failed else Outcome.SUCCEEDED)
        if journey.exchange.disconnected:
            raise Disconnected("the client is gone, or was cut off from an answer that broke")
        if back is not None and journey.exchange.finished:  # an error event told the client already
            self._figures.broken(region)
            return None
        return back

    def _note(self, journey: Journey, back: Setback) -> None:
        journey.setbacks.append(back)
        self._detours.note(back, journey.now())
        journey.phases.mark("replay")
        self._figures.set_back(back)
        if back.wait_s is not None and back.answered:
            who = journey.admission.grant.tenant if back.status == TOO_MANY else ANYONE
            self.holdoffs.note(back.region, journey.ask.model, back.wait_s, journey.now(), who)

    def _gave_up(self, journey: Journey) -> None:
        self._figures.gave_up(journey.request_id, journey.ask.model, journey.setbacks)

    def _may_repeat(self, journey: Journey) -> bool:
        """Take one from the budget of the model."""
        model = journey.ask.model
        if not journey.budget.take(journey.now()):
            self._figures.budget_spent(model)
            return False
        self._figures.replayed(model)
        if journey.resumption is not None and journey.resumption.can_go_on:
            self._figures.resumed(journey.setbacks[-1].region)
        return True


def _budget_spent(journey: Journey) -> Setback:
    """Too many requests for this model were asked again already."""
    last = journey.setbacks[-1]
    text = f"Region {last.region} did not answer ({last.cause}), and too many requests are asked again; try later."
    wait_s = max(setback.RETRY_S, journey.budget.wait_s(journey.now()), last.wait_s or 0.0)
    refusal = Refusal(503, "replay_budget_spent", text, "server_error", retry_after_s=wait_s)
    return setback.of_refusal(last.region, "budget", refusal)


def _last_words(journey: Journey) -> Setback:
    """What the last region said, with the least time that any of them gave. Raises Refusal if none was asked."""
    if not journey.setbacks:
        raise Refusal(
            504, "deadline_exceeded", "The deadline passed before a region answered.", "server_error"
        )
    return journey.setbacks[-1]


async def _give_up(journey: Journey, last: Setback) -> None:
    """No region answered: the last one's words, as a status while that is possible."""
    if journey.exchange.status:
        await end_with(journey, None, last.body)
        return
    region = last.region if last.answered else None
    headers = (
        *setback.retry_headers(last, journey.setbacks),
        *journey.answer_headers(region, timing=journey.phases.header()),
    )
    said = translated(journey.exchange.head.path, last.status, last.body)
    await journey.exchange.respond(last.status, headers, said)

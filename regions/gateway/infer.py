"""An inference request in its own region: it finds the node that answers, waking its model if need be."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from regions.ask import MAX_BODY_BYTES, read_ask, refuse_misfit, said
from regions.gateway.hold import REPEAT_S, wait_awake
from regions.gateway.lane import GatewayLane, known
from regions.gateway.told import tell
from regions.gateway.trip import Trip, deadline_s, hold_s, request_id
from regions.map.headers import ASK, PREFER_REPLICA, RESUME, REVISION
from regions.map.region import Tier
from regions.nodes import pick
from regions.rollout.canary import FAULTS
from wire.refused.refusal import Refusal
from wire.timing import Phases
from wire.trace.context import context_of

if TYPE_CHECKING:
    from regions.ask import Ask
    from regions.deployments import Deployment, Deployments
    from regions.gateway.hold import Seats
    from regions.gateway.passing import Passing
    from regions.gateway.pulse import Pulse
    from regions.gateway.relay import Relay
    from regions.gateway.wake import Wakes
    from regions.nodes.watch import NodeWatch
    from weights_cache.model.revision import Revision
    from wire.http.http1 import RequestHead
    from wire.listener.exchange import Exchange
    from wire.trace.tracer import Tracer

SLACK_S: Final = 0.1  # a held request is told 503 before its deadline makes it a 504
AFTER: Final = frozenset({"stream", "finish"})  # phases of an answer that has begun
RETRY_S: Final = 2.0  # for a model that is on its way; a rollout step takes about that


class Inference:
    """`serve` answers one request, `go_on` one that began on a lane and turned out unusual."""

    def __init__(
        self,
        deployments: Deployments,
        watch: NodeWatch,
        wakes: Wakes,
        relay: Relay,
        seats: Seats,
        pulse: Pulse,
        tracer: Tracer | None = None,
    ) -> None:
        self.deployments = deployments
        self._watch = watch
        self._wakes = wakes
        self._figures = wakes.figures
        self.relay = relay
        self._seats = seats
        self.pulse = pulse
        self._tracer = tracer

    async def serve(self, exchange: Exchange) -> None:
        """Raises Refusal if no answer began."""
        phases = Phases("gateway", started=exchange.started)
        familiar = known(exchange)
        head, body = exchange.head, await exchange.read_body(MAX_BODY_BYTES)
        heard = head.get(ASK)
        ask = read_ask(head.path, body) if heard is None else said(heard)
        deployment, revision = self._found(ask, head)
        trip = self._trip(exchange, ask, body, deployment, revision, phases)
        if self._tracer is not None:
            trip.trace = self._tracer.below(context_of(head), exchange.started)
        phases.mark("read")
        await self._lead(trip, pulses=heard is not None)
        if familiar is not None and exchange.status == HTTPStatus.OK:
            exchange.leave(GatewayLane(familiar, self))

    async def go_on(self, exchange: Exchange, passing: Passing) -> None:
        """Raises Refusal if no answer began."""
        waits_s = hold_s(exchange.head, stream=passing.ask.stream)
        trip = Trip(
            exchange=exchange,
            ask=passing.ask,
            body=passing.body,
            deployment=passing.deployment,
            revision=passing.revision,
            region=self.deployments.region,
            phases=passing.phases(),
            deadline=passing.deadline,
            hold_until=min(passing.deadline - SLACK_S, passing.entered + waits_s),
            request_id=passing.number.decode(),
            spoke=passing.spoke,
        )
        await self._lead(trip, pulses=True, passing=passing)

    async def _lead(self, trip: Trip, *, pulses: bool, passing: Passing | None = None) -> None:
        """To its end, while its revision is leased, and, with `pulses`, with signs of life for an edge."""
        trip.deployment.lease(trip.revision)
        error = "client_gone"
        try:
            with self.pulse.follow(trip) if pulses else nullcontext():
                await self._answer(trip, passing)
            error = ""
        except Refusal as refusal:
            error = refusal.code
            self._figures.refusals.note(refusal, trip.request_id, trip.exchange.head.path, trip.ask.model)
            await trip.fail(refusal)
        finally:
            trip.deployment.release(trip.revision)
            path, status, took_s = (
                trip.exchange.head.path,
                trip.exchange.status,
                trip.phases.total_ms() / 1000,
            )
            self.count(trip, path, status, error, _first_s(trip.phases), took_s)
            if trip.trace is not None:
                tell(trip, trip.trace, error)

    def count(
        self, trip: Trip | Passing, path: str, status: int, error: str, first_s: float | None, took_s: float
    ) -> None:
        """It is over after `took_s`, well if `error` is empty and `status` is none; after `first_s` it began."""
        figures, model = self._figures, trip.ask.model
        if first_s is not None:
            figures.first_byte(str(trip.found), first_s)
            if trip.ask.stream and status == HTTPStatus.OK:
                figures.streamed(path, model, first_s)
        if not error and status >= HTTPStatus.BAD_REQUEST:
            error = str(status)
        trip.deployment.count(trip.revision, failed=error in FAULTS)
        figures.ended(path, model, took_s, error)

    def _found(self, ask: Ask, head: RequestHead) -> tuple[Deployment, Revision]:
        """As `find`, for this very request. Raises Refusal."""
        try:
            deployment, revision = self.find(ask, head.path)
            _refuse_other(head, revision)
        except Refusal as refusal:
            self._figures.refusals.note(refusal, request_id(head), head.path, ask.model)
            raise
        return deployment, revision

    def find(self, ask: Ask, path: str) -> tuple[Deployment, Revision]:
        """The model's deployment and the revision that answers. Raises Refusal 404, 400 or 503."""
        deployment = self.deployments.find(ask.model)
        if deployment is None:
            text = f"{ask.model} is not in this region; push it, or name a model of /v1/models."
            raise Refusal(404, "model_not_found", text, param="model")
        if deployment.live is None:
            raise _not_live(deployment)
        if deployment.live.id == deployment.closed:
            text = f"{ask.model} was taken out of this region; GET /v1/models lists what is served."
            raise Refusal(404, "model_not_found", text, param="model")
        facts = deployment.live.facts
        refuse_misfit(ask, path, facts.kind, facts.context_tokens)
        return deployment, deployment.live

    def _trip(
        self,
        exchange: Exchange,
        ask: Ask,
        body: bytes,
        deployment: Deployment,
        revision: Revision,
        phases: Phases,
    ) -> Trip:
        now = asyncio.get_running_loop().time()
        deadline = now + deadline_s(exchange.head)
        return Trip(
            exchange=exchange,
            ask=ask,
            body=body,
            deployment=deployment,
            revision=revision,
            region=self.deployments.region,
            phases=phases,
            deadline=deadline,
            hold_until=min(deadline - SLACK_S, now + hold_s(exchange.head, stream=ask.stream)),
            request_id=request_id(exchange.head),
        )

    def pick(self, head: RequestHead, revision: Revision) -> str | None:
        """The node that answers."""
        preferred = head.get(PREFER_REPLICA)
        return pick.answering(revision.id, self.deployments.nodes, self.relay.inflight, preferred)

    def _picked(self, trip: Trip) -> str | None:
        address = self.pick(trip.exchange.head, trip.revision)
        trip.phases.mark("pick")
        if address is None:
            trip.found = self.deployments.tier(trip.deployment)
        return address

    async def _answer(self, trip: Trip, passing: Passing | None) -> None:
        """Twice at most: a node that did not start the request makes it wake once more, and be sent again.

        `passing`: how it was sent already.
        """
        address = self._picked(trip) if passing is None else passing.address
        sent = None if passing is None else passing.upstream
        for _ in range(2):
            if address is None:
                address = await self._awake(trip)
            trip.replica = pick.replica_id(address)
            await self._say_landing(trip, address)
            result = await self.relay.try_node(trip, address, sent)
            sent = None
            if result == "answered":
                if trip.held and trip.exchange.status == HTTPStatus.OK:
                    self._wakes.answered(trip.ask.model, trip.revision.id, trip.held, trip.later_s)
                return
            await self._doubt(trip, address, gone=result == "unreachable")
            address = None
        text = f"{trip.ask.model} left its worker again while it was asked for; try again."
        raise Refusal(503, "model_not_ready", text, "server_error", retry_after_s=RETRY_S)

    async def _awake(self, trip: Trip) -> str:
        """Holds the request until its revision is resident; returns the node that has it."""
        with self._seats.seat(len(trip.body)):
            wake = self._wakes.wake(trip.deployment, trip.revision, "request")
            trip.phases.mark("pick", wake.began_s)
            trip.held = await wait_awake(wake, trip.hold_until, trip.say if trip.ask.stream else None)
        _mark_heard(trip.phases, trip.held.ended_s)
        return trip.held.address

    async def _say_landing(self, trip: Trip, address: str) -> None:
        """A worker takes requests before its weights are here: who streams, and is to wait, hears how far they are."""
        if self.deployments.landing(address, trip.revision.id) is None:
            return
        trip.landed = partial(self.deployments.landing, address, trip.revision.id)
        progress = trip.landing()
        if trip.ask.stream and progress is not None and (progress.eta_s or 0.0) >= REPEAT_S:
            await trip.say(progress)

    async def _doubt(self, trip: Trip, address: str, *, gone: bool) -> None:
        """Our picture of a node was wrong: look again before the request is held."""
        if gone:
            self._watch.lost(address)
        else:
            await self._watch.refresh(address)
        if trip.found is Tier.RESIDENT:
            trip.found = self.deployments.tier(trip.deployment)


def _mark_heard(phases: Phases, ended_s: float) -> None:
    """Closes a wait for a wake as two phases: until that was over, and until this request went on."""
    phases.mark("wake")
    heard_ms = min(phases.items["wake"], max(0.0, (phases.last - ended_s) * 1000))
    phases.add("wake", -heard_ms)
    phases.add("heard", heard_ms)


def _refuse_other(head: RequestHead, revision: Revision) -> None:
    """A stream is gone on with by the revision that began it, or not at all. Raises Refusal 409."""
    if head.get(RESUME) == "go" and head.get(REVISION) != revision.id:
        text = f"The stream was begun by another revision than {revision.id[:12]}, which is live here."
        raise Refusal(409, "not_resident", text, "server_error")


def _first_s(phases: Phases) -> float | None:
    """When the answer began, if it did."""
    items = phases.items
    began = "first_byte" in items
    return sum([ms for name, ms in items.items() if name not in AFTER]) / 1000 if began else None


def _not_live(deployment: Deployment) -> Refusal:
    fault = deployment.error
    if fault is not None:
        text = f"{deployment.model} was refused: {fault.message}. Next: {fault.next}"
        return Refusal(404, "model_not_found", text, param="model")
    text = f"{deployment.model} is on its way to this region ({deployment.state}); ask again shortly."
    return Refusal(503, "model_not_ready", text, "server_error", retry_after_s=RETRY_S)

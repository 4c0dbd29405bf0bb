"""The region's private front: an inference request finds the node that answers, waking its model if need be.

Also the region's rows as a stream, its status, and the two control actions. Every route but /healthz wants
the cluster's hop token.
"""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from regions.ask import ASKED, MAX_BODY_BYTES, read_ask, refuse_misfit, said
from regions.gateway.control import Control
from regions.gateway.hold import Seats, wait_awake
from regions.gateway.pass_on import PassOn, Peers
from regions.gateway.pulse import Pulse
from regions.gateway.relay import Relay
from regions.gateway.trip import Trip, deadline_s, hold_s, request_id
from regions.keys.desk import KeyDesk
from regions.map import ASK, FOR, PREFER_REPLICA, RESUME, REVISION, ROW_PERIOD_S, Tier
from regions.nodes import pick
from regions.rollout.canary import FAULTS
from wire.bearer import require_token
from wire.flow import in_task
from wire.metrics import CONTENT_TYPE, one
from wire.refusal import Refusal
from wire.timing import Phases

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from regions.ask import Ask
    from regions.deployments import Deployment, Deployments
    from regions.gateway.publish import Publisher
    from regions.gateway.wake import Wakes
    from regions.keys.book import KeyBook
    from regions.nodes.client import Node
    from regions.nodes.watch import NodeWatch
    from weights_cache.revision import Revision
    from wire.exchange import Exchange
    from wire.http1 import RequestHead

    Route = Callable[[Exchange], Awaitable[None]]

SLACK_S: Final = 0.1  # a held request is told 503 before its deadline makes it a 504
RETRY_S: Final = 2.0  # for a model that is on its way; a rollout step takes about that


class Gateway:
    """`serve` is the handler of the region's listener."""

    def __init__(
        self,
        deployments: Deployments,
        nodes: Mapping[str, Node],
        watch: NodeWatch,
        wakes: Wakes,
        publisher: Publisher,
        hop_token: str,
        seats: Seats | None = None,
        keys: KeyBook | None = None,
        peers: Peers | None = None,
    ) -> None:
        """`keys` is the home region's book of API keys; None in every other region."""
        self._deployments = deployments
        self._watch = watch
        self._wakes = wakes
        self._publisher = publisher
        self._hop_token = hop_token
        self._rows_ended = False
        self.relay = Relay(nodes, hop_token)
        self.seats = seats or Seats()
        self.pulse = Pulse()
        self._pass_on = PassOn(deployments.region, peers or Peers(), self.pulse)
        watch.on_silent = self.relay.cut
        self._figures = wakes.figures
        self._add_gauges()
        control = Control(deployments, nodes, watch, wakes, publisher)
        desk = KeyDesk(keys)
        self._routes: Mapping[tuple[str, str], Route] = {
            **{("POST", path): self._infer for path in ASKED},
            ("GET", "/healthz"): _healthz,
            ("GET", "/rows"): self._rows,
            ("GET", "/status"): control.status,
            ("GET", "/metrics"): self._metrics,
            ("POST", "/control/cool"): control.cool,
            ("POST", "/control/prewarm"): control.prewarm,
            ("POST", "/control/trial"): control.trial,
            ("POST", "/control/keys/list"): desk.ls,
            ("POST", "/control/keys/make"): desk.make,
            ("POST", "/control/keys/rotate"): desk.rotate,
            ("POST", "/control/keys/revoke"): desk.revoke,
        }

    def end_rows(self) -> None:
        """Says a last row and ends the row streams: they would outlast any drain."""
        self._rows_ended = True
        self._publisher.publish()

    async def close(self) -> None:
        """Closes the connections to the nodes and the other gateways."""
        await self.relay.close()
        await self._pass_on.close()

    async def serve(self, exchange: Exchange) -> None:
        """Answers one request. Raises Refusal for what is not served."""
        head = exchange.head
        if head.path != "/healthz":
            require_token(head, self._hop_token)
        route = self._routes.get((head.method, head.path))
        if route is None:
            raise _no_route(head.path, {path for _method, path in self._routes})
        await route(exchange)

    async def _rows(self, exchange: Exchange) -> None:
        """Signed lines for as long as the edge listens; the policy first, so that a new edge can admit."""
        await in_task()
        await exchange.start(200, (("content-type", "application/x-ndjson"),))
        policy, seen = None, 0
        while True:
            if self._deployments.policy_line is not None and self._deployments.policy_line != policy:
                policy = self._deployments.policy_line
                await exchange.write(policy + b"\n")
            if self._publisher.seq > seen:
                seen = self._publisher.seq
                await exchange.write(self._publisher.line + b"\n")
            if self._rows_ended:
                return await exchange.finish()
            await self._publisher.changed(seen, ROW_PERIOD_S)

    async def _metrics(self, exchange: Exchange) -> None:
        await exchange.respond(200, (("content-type", CONTENT_TYPE),), self._figures.metrics.page())

    def _add_gauges(self) -> None:
        gauge, accuracy = self._figures.metrics.gauge, self._figures.accuracy
        gauge("nearfield_gateway_held_requests", "That wait for a wake.", lambda: one(self.seats.num_held))
        gauge("nearfield_gateway_wakes_running", "Under way.", lambda: one(len(self._wakes.running)))
        gauge(
            "nearfield_gateway_inflight_requests", "Sent to nodes.", lambda: one(self.relay.inflight.total())
        )
        gauge("nearfield_gateway_nodes", "That answer.", lambda: one(len(self._deployments.nodes)))
        gauge(
            "nearfield_gateway_eta_error_ratio", "Of the last wakes' estimates.", lambda: one(accuracy.error)
        )

    async def _infer(self, exchange: Exchange) -> None:
        wanted = exchange.head.get(FOR)
        if wanted is not None and wanted != self._deployments.region:
            await self._pass_on.serve(exchange, wanted)
        else:
            await self._infer_here(exchange)

    async def _infer_here(self, exchange: Exchange) -> None:
        phases = Phases("gateway", started=exchange.started)
        head, body = exchange.head, await exchange.read_body(MAX_BODY_BYTES)
        heard = head.get(ASK)
        ask = read_ask(head.path, body) if heard is None else said(heard)
        deployment, revision = self._find(ask, head.path)
        _refuse_other(head, revision)
        trip = self._trip(exchange, ask, body, deployment, revision, phases)
        phases.mark("read")
        deployment.lease(revision)
        error = "client_gone"
        try:
            with self.pulse.follow(trip) if heard is not None else nullcontext():
                await self._answer(trip)
            error = ""
        except Refusal as refusal:
            error = refusal.code
            await trip.fail(refusal)
        finally:
            deployment.release(revision)
            self._count(trip, error)

    def _count(self, trip: Trip, error: str) -> None:
        figures, path, model = self._figures, trip.exchange.head.path, trip.ask.model
        if "first_byte" in trip.phases.items:
            first_s = sum(ms for name, ms in trip.phases.items.items() if name != "stream") / 1000
            figures.first_byte(str(trip.found), first_s)
            if trip.ask.stream and trip.exchange.status == HTTPStatus.OK:
                figures.streamed(path, model, first_s)
        if not error and trip.exchange.status >= HTTPStatus.BAD_REQUEST:
            error = str(trip.exchange.status)
        trip.deployment.count(trip.revision, failed=error in FAULTS)
        figures.ended(path, model, trip.phases.total_ms() / 1000, error)

    def _find(self, ask: Ask, path: str) -> tuple[Deployment, Revision]:
        """The model's deployment and the revision that answers. Raises Refusal 404, 400 or 503."""
        deployment = self._deployments.find(ask.model)
        if deployment is None:
            text = f"{ask.model} is not in this region; push it, or name a model of /v1/models."
            raise Refusal(404, "model_not_found", text, param="model")
        if deployment.live is None:
            raise _not_live(deployment)
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
            region=self._deployments.region,
            phases=phases,
            deadline=deadline,
            hold_until=min(deadline - SLACK_S, now + hold_s(exchange.head, stream=ask.stream)),
            request_id=request_id(exchange.head),
        )

    async def _answer(self, trip: Trip) -> None:
        """Twice at most: a node that did not start the request makes it wake once more, and be sent again."""
        preferred = trip.exchange.head.get(PREFER_REPLICA)
        address = pick.answering(trip.revision.id, self._deployments.nodes, self.relay.inflight, preferred)
        trip.phases.mark("pick")
        if address is None:
            trip.found = self._deployments.tier(trip.deployment)
        for _ in range(2):
            if address is None:
                address = await self._awake(trip)
            trip.replica = pick.replica_id(address)
            result = await self.relay.try_node(trip, address)
            if result == "answered":
                return
            await self._doubt(trip, address, gone=result == "unreachable")
            address = None
        text = f"{trip.ask.model} left its worker again while it was asked for; try again."
        raise Refusal(503, "model_not_ready", text, "server_error", retry_after_s=RETRY_S)

    async def _awake(self, trip: Trip) -> str:
        """Holds the request until its revision is resident; returns the node that has it."""
        with self.seats.seat(len(trip.body)):
            wake = self._wakes.wake(trip.deployment, trip.revision, "request")
            trip.held = await wait_awake(wake, trip.hold_until, trip.say if trip.ask.stream else None)
        trip.phases.mark("wake")
        return trip.held.address

    async def _doubt(self, trip: Trip, address: str, *, gone: bool) -> None:
        """Our picture of a node was wrong: look again before the request is held."""
        if gone:
            self._watch.lost(address)
        else:
            await self._watch.refresh(address)
        if trip.found is Tier.RESIDENT:
            trip.found = self._deployments.tier(trip.deployment)


def _refuse_other(head: RequestHead, revision: Revision) -> None:
    """A stream is gone on with by the revision that began it, or not at all. Raises Refusal 409."""
    if head.get(RESUME) == "go" and head.get(REVISION) != revision.id:
        text = f"The stream was begun by another revision than {revision.id[:12]}, which is live here."
        raise Refusal(409, "not_resident", text, "server_error")


async def _healthz(exchange: Exchange) -> None:
    await exchange.respond(200, (("content-type", "text/plain"),), b"ok\n")


def _no_route(path: str, paths: set[str]) -> Refusal:
    if path in paths:
        return Refusal(405, "method_not_allowed", f"{path} is not served by this method.")
    return Refusal(404, "not_found", f"Nothing is served at {path[:64]}.")


def _not_live(deployment: Deployment) -> Refusal:
    fault = deployment.error
    if fault is not None:
        text = f"{deployment.model} was refused: {fault.message}. Next: {fault.next}"
        return Refusal(404, "model_not_found", text, param="model")
    text = f"{deployment.model} is on its way to this region ({deployment.state}); ask again shortly."
    return Refusal(503, "model_not_ready", text, "server_error", retry_after_s=RETRY_S)

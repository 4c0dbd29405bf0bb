"""The region's private front: inference requests (`infer.py`), or those for another region (`pass_on.py`).

Also the region's rows as a stream, its status, and the control actions. Every route but /healthz wants
the cluster's hop token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from regions.ask import ASKED
from regions.gateway.control import Control
from regions.gateway.hold import Seats
from regions.gateway.infer import Inference
from regions.gateway.pass_on import PassOn, Peers
from regions.gateway.pops import Pops
from regions.gateway.pulse import Pulse
from regions.gateway.relay import Relay
from regions.keys.desk import KeyDesk
from regions.map.headers import FOR
from regions.map.region import ROW_PERIOD_S
from wire.bearer import require_token
from wire.figures.metrics import CONTENT_TYPE
from wire.flow import in_task
from wire.refused.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from regions.deployments import Deployments
    from regions.gateway.publish import Publisher
    from regions.gateway.wake import Wakes
    from regions.keys.book import KeyBook
    from regions.nodes.client import Node
    from regions.nodes.watch import NodeWatch
    from wire.listener.exchange import Exchange
    from wire.trace.tracer import Tracer

    Route = Callable[[Exchange], Awaitable[None]]


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
        tracer: Tracer | None = None,
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
        self.pass_on = PassOn(deployments.region, peers or Peers(), self.pulse)
        self._inference = Inference(deployments, watch, wakes, self.relay, self.seats, self.pulse, tracer)
        watch.on_silent = self.relay.cut
        self._figures = wakes.figures
        self._figures.follow(self.seats, self.relay, wakes.running, deployments, self.pass_on)
        control = Control(deployments, nodes, watch, wakes, publisher)
        desk = KeyDesk(keys)
        self._routes: Mapping[tuple[str, str], Route] = {
            **{("POST", path): self._infer for path in ASKED},
            ("GET", "/healthz"): _healthz,
            ("GET", "/rows"): self._rows,
            ("GET", "/status"): control.status,
            ("POST", "/pops"): Pops().serve,
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
        await self.pass_on.close()

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
                lines, seen = self._publisher.lines(seen), self._publisher.seq
                for line in lines:
                    await exchange.write(line + b"\n")
            if self._rows_ended:
                return await exchange.finish()
            await self._publisher.changed(seen, ROW_PERIOD_S)

    async def _metrics(self, exchange: Exchange) -> None:
        await exchange.respond(200, (("content-type", CONTENT_TYPE),), self._figures.metrics.page())

    async def _infer(self, exchange: Exchange) -> None:
        wanted = exchange.head.get(FOR)
        if wanted is not None and wanted != self._deployments.region:
            await self.pass_on.serve(exchange, wanted)
        else:
            await self._inference.serve(exchange)


async def _healthz(exchange: Exchange) -> None:
    await exchange.respond(200, (("content-type", "text/plain"),), b"ok\n")


def _no_route(path: str, paths: set[str]) -> Refusal:
    if path in paths:
        return Refusal(405, "method_not_allowed", f"{path} is not served by this method.")
    return Refusal(404, "not_found", f"Nothing is served at {path[:64]}.")

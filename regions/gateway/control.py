"""What an operator may do to a model in one region: look, cool it by a tier or more, wake it early."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final

from regions.map.names import BadNameError, ModelName
from regions.map.region import Tier
from regions.nodes.client import NodeError
from regions.rollout.trial import Report
from regions.rows import region_body
from weights_cache.model.strict import StrictError, fields, integer, number, text
from wire.refused.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from regions.deployments import Deployment, Deployments
    from regions.gateway.publish import Publisher
    from regions.gateway.wake import Wakes
    from regions.nodes.client import Node, NodeView
    from regions.nodes.watch import NodeWatch
    from weights_cache.model.revision import Revision
    from wire.listener.exchange import Exchange

MAX_ORDER_BYTES: Final = 4096  # two short strings
MAX_EDGES: Final = 256  # that report of a trial
_REPORT: Final = {
    "edge": text(64),
    "serial": integer(),
    "stood_s": number(0.0, 1e9),
    "harm": text(500),
}
JSON: Final = (("content-type", "application/json"),)
COOLER: Final = {Tier.HOST, Tier.REGION, Tier.ORIGIN}


class Control:
    """The routes /status, /control/cool and /control/prewarm."""

    def __init__(
        self,
        deployments: Deployments,
        nodes: Mapping[str, Node],
        watch: NodeWatch,
        wakes: Wakes,
        publisher: Publisher,
    ) -> None:
        self._deployments = deployments
        self._nodes = nodes
        self._watch = watch
        self._wakes = wakes
        self._publisher = publisher

    async def status(self, exchange: Exchange) -> None:
        """The region's row as it stands, and its nodes."""
        row = self._publisher.row
        nodes = {address: _node_value(view) for address, view in self._deployments.nodes.items()}
        value = {
            "region": self._deployments.region,
            "epoch": row and row.epoch,
            "seq": row and row.seq,
            "row": row and region_body(row),
            "nodes": nodes,
        }
        await exchange.respond(200, JSON, json.dumps(value).encode())

    async def prewarm(self, exchange: Exchange) -> None:
        """Starts a wake and answers at once; waking what is awake is no error."""
        deployment, revision = self._live(await _order(exchange))
        tier = self._deployments.tier(deployment)
        if tier is not Tier.RESIDENT:
            self._wakes.wake(deployment, revision, "prewarm")
        value = {"model": deployment.model, "tier": str(tier)}
        await exchange.respond(202, JSON, json.dumps(value).encode())

    async def trial(self, exchange: Exchange) -> None:
        """Takes in how an edge fares with new rules."""
        report = _report(await _order(exchange))
        reports = self._deployments.reports
        if report.edge in reports or len(reports) < MAX_EDGES:
            reports[report.edge] = report
        await exchange.respond(200, JSON, b"{}")

    async def cool(self, exchange: Exchange) -> None:
        """Lets go of a model down to tier `to`; answers once its slot is free.

        In the home region `origin` means `region`: the bytes there are the origin.
        """
        order = await _order(exchange)
        deployment, revision = self._live(order)
        to = _cooler(order.get("to"))
        freed_bytes = await self._unload(revision, to)
        if to is Tier.ORIGIN:
            freed_bytes += await deployment.cool_to_origin()
        self._deployments.touch()
        told = self._deployments.tier(deployment)
        value = {"model": deployment.model, "to": str(told), "freed_bytes": freed_bytes}
        await exchange.respond(200, JSON, json.dumps(value).encode())

    async def _unload(self, revision: Revision, to: Tier) -> int:
        """Bytes freed on all nodes. A wake under way is waited for first: it would undo the cooling."""
        wake = self._wakes.running.get(revision.id)
        if wake is not None:
            await asyncio.wait([wake.task])
        await self._watch.refresh()
        holders = [each for each, view in self._deployments.nodes.items() if _holds(view, revision.id, to)]
        try:
            freed = [
                await self._nodes[each].unload(revision.id, "host" if to is Tier.HOST else "region")
                for each in holders
            ]
        except NodeError as error:
            raise Refusal(
                502, "upstream_failed", f"{error.fault.message}. Try again.", "server_error"
            ) from error
        await self._watch.refresh()
        return sum(freed)

    def _live(self, order: dict[str, Any]) -> tuple[Deployment, Revision]:
        try:
            name = str(ModelName.parse(str(order.get("model"))))
        except BadNameError as error:
            raise Refusal(400, "bad_request", f"{error}.", param="model") from error
        deployment = self._deployments.find(name)
        if deployment is None or deployment.live is None:
            raise Refusal(404, "model_not_found", f"{name} is not live in this region.", param="model")
        return deployment, deployment.live


async def _order(exchange: Exchange) -> dict[str, Any]:
    try:
        order = json.loads(await exchange.read_body(MAX_ORDER_BYTES))
    except (ValueError, RecursionError) as error:
        raise Refusal(400, "bad_request", "Send one small JSON object.") from error
    if not isinstance(order, dict):
        raise Refusal(400, "bad_request", "Send one small JSON object.")
    return order


def _report(order: dict[str, Any]) -> Report:
    try:
        return Report(**fields(order, _REPORT, "report"))
    except StrictError as error:
        raise Refusal(400, "bad_request", f"{error}.") from error


def _cooler(to: object) -> Tier:
    if not isinstance(to, str) or to not in COOLER:
        raise Refusal(400, "bad_request", 'Say "to": "host", "region" or "origin".', param="to")
    return Tier(to)


def _holds(view: NodeView, revision: str, to: Tier) -> bool:
    """Whether the node has anything warmer than `to`."""
    working = any(worker.revision == revision for worker in view.workers)
    return working or (to is not Tier.HOST and revision in view.cached)


def _node_value(view: NodeView) -> dict[str, object]:
    workers = [
        {
            "model": worker.model,
            "revision": worker.revision,
            "state": worker.state,
            "running": worker.running,
            "waiting": worker.waiting,
            "slots": worker.slots,
            "idle_s": worker.idle_s,
        }
        for worker in view.workers
    ]
    return {
        "budget_bytes": view.budget_bytes,
        "used_bytes": view.used_bytes,
        "cached": sorted(view.cached),
        "workers": workers,
    }

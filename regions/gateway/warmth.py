"""Keeps awake what wants to be: models with a replica at all times, and others in the hours of their schedule."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from regions.gateway.schedule import is_due
from regions.map.names import is_preview
from regions.map.region import Tier
from regions.nodes.client import NodeError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from regions.deployments import Deployment, Deployments
    from regions.gateway.wake import Wakes
    from regions.nodes.client import Node
    from weights_cache.revision import Revision

LOOK_S: Final = 2.0  # between two looks; a schedule is by the minute

log = logging.getLogger("nearfield.regions")


def _now() -> datetime:
    return datetime.now(UTC)


class Warmth:
    """`run` beside the gateway. A model in its hours is not idled out; after them it is like any other."""

    def __init__(
        self,
        deployments: Deployments,
        nodes: Mapping[str, Node],
        wakes: Wakes,
        now: Callable[[], datetime] = _now,
    ) -> None:
        self._deployments, self._nodes, self._wakes, self._now = deployments, nodes, wakes, now

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            await self.look()

    async def look(self) -> None:
        """Wake whoever should be awake and is not; tell nodes whose hours have begun or ended."""
        for deployment in tuple(self._deployments.models.values()):
            if deployment.live is not None and self._deployments.nodes:
                await self._tend(deployment, deployment.live)

    async def _tend(self, deployment: Deployment, live: Revision) -> None:
        due = not is_preview(deployment.model) and is_due(live.spec.prewarm or (), self._now())
        changed, deployment.scheduled = due != deployment.scheduled, due
        if self._deployments.tier(deployment) is not Tier.RESIDENT:
            if deployment.num_kept:
                self._wakes.wake(deployment, live, "prewarm")
        elif changed and not await self._told(deployment, live):
            deployment.scheduled = not due  # the next look tells it again

    async def _told(self, deployment: Deployment, live: Revision) -> bool:
        """Say to the nodes that hold it whether it may be idled out: to load what is loaded only says that."""
        holders = [
            address
            for address, view in self._deployments.nodes.items()
            if any(worker.holds(live.id) for worker in view.workers)
        ]
        try:
            for address in holders:
                lines = self._nodes[address].load(
                    live, "prewarm", deployment.idle_timeout_s, deployment.num_kept
                )
                async for _ in lines:
                    pass
        except NodeError as error:
            log.info("the hours of %s were not told: %s", live.model, error)
            return False
        return True

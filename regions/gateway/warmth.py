"""Keeps awake what wants to be: models with a replica at all times, and others in the hours of their schedule."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

from regions.gateway.schedule import is_due
from regions.map.names import is_preview
from regions.map.region import Tier
from regions.nodes.client import NodeError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from regions.deployments import Deployment, Deployments
    from regions.gateway.wake import Wakes, Woken
    from regions.nodes.client import Node
    from weights_cache.model.revision import Revision

LOOK_S: Final = 2.0  # between two looks; a schedule is by the minute
LAST_PAUSE_S: Final = (
    60.0  # after starts that failed: a model that finds no room, say, is not asked for at each look
)

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
        self._falls: dict[str, tuple[int, datetime]] = {}
        """By revision: its starts for no request that failed, one after another, and when the next may come."""

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
            if deployment.num_kept and self._may_start(live.id):
                self._wakes.wake(deployment, live, "prewarm").task.add_done_callback(
                    partial(self._woke, live.id)
                )
        elif changed and not await self._told(deployment, live):
            deployment.scheduled = not due  # the next look tells it again

    def _may_start(self, revision_id: str) -> bool:
        is_rested = revision_id not in self._falls or self._now() >= self._falls[revision_id][1]
        return is_rested and revision_id not in self._wakes.running

    def _woke(self, revision_id: str, task: asyncio.Task[Woken]) -> None:
        """A start is over; the pause after one that failed doubles with each."""
        num_falls, _ = self._falls.pop(revision_id, (0, None))
        if not task.cancelled() and task.exception() is not None:
            pause_s = min(LAST_PAUSE_S, LOOK_S * 2**num_falls)
            self._falls[revision_id] = num_falls + 1, self._now() + timedelta(seconds=pause_s)

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

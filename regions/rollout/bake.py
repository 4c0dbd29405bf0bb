"""The canary's work: a new revision serves beside the old one, is asked again and again, and is then spoken of."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from regions.map.region import ModelFault
from regions.nodes.answers import BUSY_CODES, NodeError
from regions.rollout.canary import Verdict, has_fallen
from wire.counted import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Literal

    from regions.map.policy import Canary
    from regions.nodes.client import Node
    from regions.objects.ledger import Ledger
    from regions.rollout.tracked import Tracked
    from weights_cache.model.revision import Revision

log = logging.getLogger("nearfield.regions")

LOOK_S = 1.0  # between two questions to a revision that bakes
LAST_S = 0.01  # at the end of its time it is asked once more, however short that was
PASSING = BUSY_CODES | {"node_unreachable"}  # say nothing of the revision
NEXT = "the others keep the old revision, and this region is back at it; mend the model and push it again"


class Bake:
    """How one region, as a canary, tries a revision that is live there."""

    def __init__(
        self, region: str, home: Ledger, nodes: Mapping[str, Node], canary: Callable[[], Canary]
    ) -> None:
        self._region = region
        self._home = home
        self._nodes = nodes
        self._canary = canary

    async def run(self, tracked: Tracked, revision: Revision) -> ModelFault | None:
        """Why it fell; None if it stood. Either is told at home before it is returned. Raises StoreError."""
        deployment, began = tracked.deployment, time.monotonic()
        await self.tell(tracked, revision.id, "baking", None)
        deployment.bake(revision.id)
        try:
            fault = await self._watched(tracked, revision, began)
        finally:
            deployment.bake("")
        await self.tell(tracked, revision.id, "failed" if fault else "passed", fault)
        log.info("%s %s %s its bake", tracked.model, revision.id[:12], "fell in" if fault else "stood")
        return fault

    async def _watched(self, tracked: Tracked, revision: Revision, began: float) -> ModelFault | None:
        while True:
            left_s = began + self._canary().bake_s - time.monotonic()
            await asyncio.sleep(max(LAST_S, min(LOOK_S, left_s)))
            fault = await self._asked(tracked, revision) or self._counted(tracked)
            if fault is not None or left_s <= LOOK_S:
                return fault

    async def _asked(self, tracked: Tracked, revision: Revision) -> ModelFault | None:
        """What its node says when it is asked once more; a node that is busy or away says nothing of it."""
        node = self._nodes.get(tracked.nodes.get(revision.id, ""))
        if node is None:
            return None
        try:
            await node.probe(revision)
        except NodeError as error:
            return None if error.fault.code in PASSING else error.fault
        return None

    def _counted(self, tracked: Tracked) -> ModelFault | None:
        done, failed = tracked.deployment.num_done, tracked.deployment.num_failed
        if not has_fallen(done, failed):
            return None
        return ModelFault("canary_failed", f"{failed} of {counted(done, 'request')} failed", NEXT)

    async def tell(
        self,
        tracked: Tracked,
        revision: str,
        state: Literal["baking", "passed", "failed"],
        fault: ModelFault | None,
    ) -> None:
        """Say at home how it stands. Raises StoreError."""
        serial = tracked.pointer.serial if tracked.pointer else 0
        said = ModelFault(fault.code, fault.message, NEXT) if fault else None
        await self._home.keep_verdict(Verdict(tracked.model, revision, serial, self._region, state, said))

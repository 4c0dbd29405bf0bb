"""What a region tells of a model in the home region: the pusher's status, the canary's verdict, proofs that waited."""

from __future__ import annotations

from typing import TYPE_CHECKING

from regions.map.region import RolloutState

if TYPE_CHECKING:
    from regions.objects.ledger import Ledger
    from regions.rollout.tracked import Tracked
    from regions.rollout.works import Works


class Word:
    """Says what has changed since it was last said. Raises StoreError, PointerError."""

    def __init__(self, region: str, home: Ledger, works: Works, *, is_home: bool) -> None:
        self._region, self._home, self._works, self._is_home = region, home, works, is_home

    async def told(self, tracked: Tracked) -> None:
        """All of it; again is no change."""
        await self._status(tracked)
        await self._verdict(tracked)
        await self._works.prover.records.pass_on_awaited()

    async def _status(self, tracked: Tracked) -> None:
        """Writes the pusher's status if it changed; the home region's word goes for the rollout."""
        status = tracked.status()
        if not self._is_home or status is None or status.to_json() == tracked.told:
            return
        await self._home.tell(tracked.model, status)
        tracked.told = status.to_json()

    async def _verdict(self, tracked: Tracked) -> None:
        """A canary whose revision never came to serve says so, once: the others wait for its word."""
        desired, told = tracked.rollouts.get(tracked.desired or ""), tracked.verdict
        if tracked.canary != self._region or desired is None or desired.fault is None:
            return
        if desired.state is RolloutState.FAILED and (told is None or told.state != "failed"):
            await self._works.bake.tell(tracked, desired.revision, "failed", desired.fault)
            tracked.verdict = await self._home.verdict(tracked.model)

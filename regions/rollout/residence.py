"""The bytes of a live revision in this region's store: brought back for a wake, given up when cooled to origin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from storage.client.sdk import StoreError
from wire.refused.refusal import Refusal

if TYPE_CHECKING:
    from regions.deployments import Deployment, Deployments
    from regions.objects.blobs import Holdings
    from regions.rollout.works import Works
    from weights_cache.model.revision import Revision

RETRY_AFTER_S = 2.0  # what a client is told when the home region does not answer


class Residence:
    """The gateway's side of the region's blobs; implements deployments.Blobs."""

    def __init__(self, works: Works, holdings: Holdings, deployments: Deployments, *, is_home: bool) -> None:
        self._works = works
        self._holdings = holdings
        self._deployments = deployments
        self._is_home = is_home

    async def ensure(self, deployment: Deployment, revision: Revision) -> int:
        """See deployments.Blobs."""
        try:
            num_bytes = await self._works.bring(deployment, revision)
        except StoreError as error:
            text = (
                f"{deployment.model} is not in this region and its home does not answer. Try again shortly."
            )
            raise Refusal(
                503, "model_not_ready", text, "server_error", retry_after_s=RETRY_AFTER_S
            ) from error
        deployment.in_region = True
        self._deployments.touch()
        return num_bytes

    async def drop(self, deployment: Deployment, revision: Revision) -> int:
        """See deployments.Blobs."""
        if self._is_home:
            return 0
        deployment.in_region = False
        self._deployments.touch()
        return await self._holdings.drop(revision, deployment.model)

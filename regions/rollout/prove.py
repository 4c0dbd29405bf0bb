"""The proof of a revision in one region: it boots once on a node, and answers the fixed question cold and warm.

The boot is the warming that a region does anyway, so nothing is started twice: what is new is one more answer, which
takes milliseconds, and one object.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from regions.map.region import Progress
from regions.nodes.answers import NodeError
from regions.nodes.client import TENANT_WARM
from regions.nodes.probes import TRY_LOCALLY, is_steady, unsteady_probe
from regions.objects.pointer import PointerError
from regions.objects.proof import Proving
from storage.client.sdk import StoreError

if TYPE_CHECKING:
    from regions.deployments import Deployments
    from regions.map.region import ModelFault
    from regions.nodes.client import Node
    from regions.objects.ledger import Ledger
    from regions.objects.proof import Proof
    from regions.rollout.tracked import Tracked
    from weights_cache.model.revision import Revision

log = logging.getLogger("nearfield.regions")


@dataclass(slots=True)
class Records:
    """Where one region's proofs go: to the home region, by way of its own store where that is another."""

    own: Ledger
    home: Ledger
    is_home: bool
    is_behind: bool = True  # home may lack some; so it is until a process has looked once

    async def keep(self, proof: Proof) -> None:
        """Writes it down; home hears of it now or, if it does not answer, later. Raises StoreError of the own store."""
        if self.is_home:
            await self.own.keep_proof(proof)
            return
        await self.own.await_proof(proof)
        try:
            await self.pass_on(proof)
        except StoreError as error:
            self.is_behind = True
            log.info("the proof of %s waits for the home region: %s", proof.model, error)

    async def pass_on(self, proof: Proof) -> None:
        """Tells home what only the own store has. Raises StoreError."""
        await self.home.keep_proof(proof)
        await self.own.drop_awaited(proof.revision)

    async def before(self, revision: str, region: str) -> Proof | None:
        """What is kept of it already; None too if that cannot be read now."""
        try:
            return await self.home.proof(revision, region)
        except (StoreError, PointerError) as error:
            log.info("no earlier proof of %s: %s", revision[:12], error)
            return None

    async def pass_on_awaited(self) -> None:
        """Tells home what a process before this one could not. Raises StoreError, PointerError."""
        if self.is_home or not self.is_behind:
            return
        self.is_behind = False  # what is added meanwhile says so again
        try:
            for proof in await self.own.awaited():
                await self.pass_on(proof)
        except StoreError:
            self.is_behind = True
            raise


class Prover:
    """Boots revisions in `region` and keeps what came of it. Raises NodeError for what passes by itself, StoreError."""

    def __init__(self, region: str, records: Records, deployments: Deployments) -> None:
        self.records = records
        self._region = region
        self._deployments = deployments

    async def prove(self, tracked: Tracked, revision: Revision, node: Node) -> Proof:
        """Its proof, written down. One that could not be written is not made again: the boot is over."""
        proof = tracked.proofs.get(revision.id)
        if proof is None:
            proof = await self._proof(tracked, revision, node)
            if not proof.was_boot:
                proof = proof.over(await self.records.before(revision.id, self._region))
            tracked.proofs[revision.id] = proof
        await self.records.keep(proof)
        return proof

    async def refuse(self, tracked: Tracked, revision: Revision, fault: ModelFault) -> None:
        """Writes down that it is given up after several tries. Raises StoreError."""
        proof = self._proving(tracked, revision).failed(time.time(), _with_next(fault))
        tracked.proofs[revision.id] = proof
        await self.records.keep(proof)

    async def _proof(self, tracked: Tracked, revision: Revision, node: Node) -> Proof:
        """Raises NodeError where another try may go better."""
        proving = self._proving(tracked, revision)
        try:
            fault = await self._asked(proving, tracked, revision, node)
        except NodeError as error:
            if error.passing:
                raise
            fault = _with_next(error.fault)
        proof = proving.failed(time.time(), fault) if fault else proving.passed(time.time())
        log.info("%s %s %s", tracked.model, revision.id[:12], _words(proof))
        return proof

    async def _asked(
        self, proving: Proving, tracked: Tracked, revision: Revision, node: Node
    ) -> ModelFault | None:
        deployment = tracked.deployment
        try:
            async for line in node.load(revision, "probe", deployment.idle_timeout_s, deployment.num_kept):
                proving.heard(line)
                deployment.progress = Progress(line.phase, line.percent, line.eta_s)
                self._deployments.touch()
            proving.brought(tracked.brought.get(revision.id, 0))
            cold = await node.probe(revision)
            proving.answered()
            warm = await node.probe(revision, TENANT_WARM)
            proving.answered()
        finally:
            deployment.progress = None
        return None if is_steady(cold, warm) else unsteady_probe(cold, warm)

    def _proving(self, tracked: Tracked, revision: Revision) -> Proving:
        return Proving(tracked.model, revision.id, self._region, time.monotonic)


def _with_next(fault: ModelFault) -> ModelFault:
    """An error of the node's API has a cause and no next step; the model's owner wants one."""
    return fault if fault.next else replace(fault, next=TRY_LOCALLY)


def _words(proof: Proof) -> str:
    if proof.fault is not None:
        return f"is not proven: {proof.fault.message}"
    sources = " ".join(f"{name}={num}" for name, num in proof.bytes.items() if num)
    return f"is proven: {proof.start} {proof.cold_s} s, warm {proof.warm_s} s, bytes {sources or 'none'}"

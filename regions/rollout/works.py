"""The work that a rollout calls for, one coroutine a kind. Each returns the event it led to.

What passes by itself (a store or node that does not answer, a node that is busy) is tried again in here, with a
growing pause, until it works or the work is cancelled because nobody wants the revision any more.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from regions.map.names import base_of
from regions.map.region import ModelFault, Progress
from regions.nodes import pick
from regions.nodes.answers import BUSY_CODES, NodeError
from regions.rollout.life import Event, Work
from storage.client.sdk import StoreError
from weights_cache.model.revision import RevisionError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from regions.deployments import Deployment, Deployments
    from regions.nodes.client import Node, NodeView
    from regions.objects.blobs import Holdings
    from regions.objects.ledger import Ledger
    from regions.rollout.bake import Bake
    from regions.rollout.prove import Prover
    from regions.rollout.replicate import Replicator
    from regions.rollout.tracked import Tracked
    from weights_cache.model.revision import Revision

log = logging.getLogger("nearfield.regions")

PAUSE_S = 0.2  # before the second try; doubles
MAX_PAUSE_S = 10.0  # a store or node that comes back is noticed within this
DRAIN_S = 120.0  # longer than almost any answer; a stream that lasts longer is cut with an error event
LAST_CALL_S = 3.0  # edges have heard by then that it drains: who still comes would keep it here for ever
DRAIN_LOOK_S = 0.1  # between two looks at the leases
MAX_PROBES = 3  # a model that takes its node's process down at its first token is not tried for ever
PUSH_AGAIN = "push the model again"

NOBODYS_FAULT = BUSY_CODES | {"node_unreachable"}  # not counted as tries


@dataclass(frozen=True, slots=True)
class Outcome:
    """What some work led to; no event means that the revision is forgotten. `fault` says why it was refused."""

    event: Event | None
    fault: ModelFault | None = None


class Works:
    """Does the work of one region's rollouts."""

    def __init__(
        self,
        ledger: Ledger,
        home: Ledger,
        holdings: Holdings,
        replicator: Replicator | None,
        nodes: Mapping[str, Node],
        deployments: Deployments,
        *,
        is_home: bool,
        bake: Bake,
        prover: Prover,
    ) -> None:
        self.bake = bake
        self.prover = prover
        self._ledger = ledger
        self._home = home
        self._holdings = holdings
        self._replicator = replicator  # None in the home region: its blobs are there from the commit on
        self._nodes = nodes
        self._deployments = deployments
        self._is_home = is_home
        self._table: Mapping[Work, Callable[[Tracked, str], Awaitable[Outcome]]] = {
            Work.CHECK: self._check,
            Work.COPY: self._copy,
            Work.CHOOSE: self._choose,
            Work.PROBE: self._probe,
            Work.BAKE: self._bake,
            Work.DRAIN: self._drain,
            Work.FORGET: self._forget,
        }

    async def do(self, work: Work, tracked: Tracked, revision: str) -> Outcome:
        """Does it, however often that takes."""
        pause_s = PAUSE_S
        while True:
            try:
                return await self._table[work](tracked, revision)
            except StoreError as error:
                fault = ModelFault(error.code, error.message, _store_step(error))
            except NodeError as error:
                fault = error.fault
            if tracked.trouble != fault:
                log.warning("%s of %s waits: %s", work, tracked.model, fault.message)
                tracked.trouble = fault
                tracked.show()
                self._deployments.touch()
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_PAUSE_S)

    async def bring(self, deployment: Deployment, revision: Revision) -> int:
        """Pulls what the region lacks of a revision; progress shows in the deployment. Raises StoreError."""
        replicator = self._replicator
        if replicator is None:
            return 0

        def show(percent: float, eta_s: float | None) -> None:
            deployment.progress = Progress("replicate", percent, eta_s)
            self._deployments.lag.left(deployment.model, revision.id, replicator.left_bytes(revision.id))
            self._deployments.touch()

        try:
            return await replicator.bring(revision, show)
        finally:
            deployment.progress = None
            self._deployments.origin_bytes_per_s = replicator.bytes_per_s
            self._deployments.touch()

    async def is_whole(self, revision: Revision) -> bool:
        """Whether every blob of a revision is in the region's store. Raises StoreError."""
        for each in revision.files:
            if not await self._holdings.has(each.blake3, each.size):
                return False
        return True

    async def release(self, tracked: Tracked) -> None:
        """Deletes the blobs and revision objects that the model no longer needs here. Raises StoreError."""
        for each in self._holdings.held(tracked.model) - tracked.needed(
            tracked.pointer, is_home=self._is_home
        ):
            await self._holdings.let_go(tracked.model, each)
            async with self._holdings.asked(each) as is_needed:
                if not is_needed:
                    await self._drop(each)

    async def _drop(self, revision: str) -> None:
        """What is kept of a revision beside its blobs. Raises StoreError."""
        await self._ledger.drop_revision(revision)
        if self._is_home:
            await self._ledger.drop_proofs(revision)

    async def known(self, revision: str) -> Revision | None:
        """A revision from the region's own copy, else from home. Raises RevisionError, StoreError."""
        return await self._ledger.revision(revision) or await self._home.revision(revision)

    async def _check(self, tracked: Tracked, revision: str) -> Outcome:
        try:
            found = await self.known(revision)
        except RevisionError as error:
            return Outcome(Event.REFUSED, ModelFault("bad_revision", str(error), PUSH_AGAIN))
        if found is None or found.model != base_of(tracked.model):
            return Outcome(
                Event.REFUSED, ModelFault("no_revision", f"{revision[:12]} is not there", PUSH_AGAIN)
            )
        await self._ledger.keep_revision(found)
        self._holdings.hold(found, tracked.model)
        tracked.revisions[revision] = found
        return Outcome(Event.CHECKED)

    async def _copy(self, tracked: Tracked, revision: str) -> Outcome:
        found = tracked.revisions[revision]
        num_bytes = await self.bring(tracked.deployment, found)
        tracked.brought[revision] = tracked.brought.get(revision, 0) + num_bytes
        if not await self.is_whole(found):
            message = f"{revision[:12]} lacks some of its bytes in the home store"
            return Outcome(Event.REFUSED, ModelFault("blob_missing", message, PUSH_AGAIN))
        return Outcome(Event.COPIED)

    async def _choose(self, tracked: Tracked, revision: str) -> Outcome:
        """The node to try it on. Raises NodeError while there is none."""
        if tracked.num_probes.get(revision):
            await asyncio.sleep(PAUSE_S * 2 ** tracked.num_probes[revision])
        views = await self._views()
        address = pick.waking(revision, views, ())
        if address is None:
            fault = ModelFault("node_unreachable", "no node of the region answers", "start a node")
            raise NodeError(fault, passing=True)
        tracked.nodes[revision] = address
        return Outcome(Event.LOADING)

    async def _views(self) -> dict[str, NodeView]:
        """What the nodes say now; a node that is silent is not among them."""
        views = {}
        for address, node in self._nodes.items():
            try:
                views[address] = await node.status()
            except NodeError as error:
                log.info("node %s is no candidate: %s", address, error)
        return views

    async def _probe(self, tracked: Tracked, revision: str) -> Outcome:
        """Loads the revision on its node, and asks it cold and warm: it goes live with that on record, or never."""
        found, node = tracked.revisions[revision], self._nodes[tracked.nodes[revision]]
        try:
            proof = await self.prover.prove(tracked, found, node)
        except NodeError as error:
            return await self._not_proven(tracked, found, error)
        return Outcome(Event.REFUSED, proof.fault) if proof.fault else Outcome(Event.PROBED)

    async def _not_proven(self, tracked: Tracked, revision: Revision, error: NodeError) -> Outcome:
        """What passes is tried again; a crash or a silence that may be a kill's, `MAX_PROBES` times."""
        if error.fault.code in NOBODYS_FAULT:
            raise error
        tracked.num_probes[revision.id] = tracked.num_probes.get(revision.id, 0) + 1
        if tracked.num_probes[revision.id] < MAX_PROBES:
            return Outcome(Event.ABANDONED, error.fault)
        await self.prover.refuse(tracked, revision, error.fault)
        return Outcome(Event.REFUSED, error.fault)

    async def _bake(self, tracked: Tracked, revision: str) -> Outcome:
        """Tries it as the canary; a revision that fell gives its memory back, and the old one goes on."""
        fault = await self.bake.run(tracked, tracked.revisions[revision])
        if fault is None:
            tracked.proven = revision
            return Outcome(Event.STOOD)
        return Outcome(Event.FELL, fault)

    async def _drain(self, tracked: Tracked, revision: str) -> Outcome:
        await self.unload(tracked, revision)
        return Outcome(Event.DRAINED)

    async def unload(self, tracked: Tracked, revision: str) -> None:
        """Waits for the last requests, then gives a revision's memory back, unless a preview or its model needs it."""
        deployment, waited_s = tracked.deployment, 0.0
        while deployment.leases.get(revision) and waited_s < DRAIN_S:
            if waited_s >= LAST_CALL_S and deployment.closed != revision:
                deployment.closed = revision
                self._deployments.touch()
            await asyncio.sleep(DRAIN_LOOK_S)
            waited_s += DRAIN_LOOK_S
        if self._deployments.is_used_beside(tracked.model, revision):
            return
        for address, node in self._nodes.items():
            try:
                await node.unload(revision, "region")
            except NodeError as error:
                log.info("%s was not unloaded from %s: %s", revision[:12], address, error)

    async def _forget(self, tracked: Tracked, revision: str) -> Outcome:
        """Deletes what only this retired revision and others like it needed."""
        del revision
        await self.release(tracked)
        return Outcome(None)


def _store_step(error: StoreError) -> str:
    if error.status == HTTPStatus.INSUFFICIENT_STORAGE:
        return "free some of the disk under this region's store; it is tried again by itself"
    return "it is tried again by itself; is the store up?"

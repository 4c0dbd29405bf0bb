"""The parts of one region that follow objects, put together, and the loops that keep them going.

Any Store will do: the tests run the whole of it on dictionaries and kill it between any two operations.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from regions.deployments import Deployments
from regions.keys.book import KeyBook
from regions.map.names import BLOBS_BUCKET, MODELS_BUCKET, SYSTEM_BUCKET
from regions.map.policy import Canary
from regions.objects.blobs import Holdings
from regions.objects.changes import AnyFeed, follow
from regions.objects.ledger import EPOCH, KEYS, POLICY, RULES, Ledger
from regions.objects.numbered import SETTLE_S, Numbered
from regions.objects.pointer import PointerError
from regions.objects.register import Found
from regions.objects.together import Together
from regions.push.ingest import Ingest
from regions.push.seal import Sealer
from regions.rollout.bake import Bake
from regions.rollout.canary import canary_of
from regions.rollout.controller import Controller
from regions.rollout.loops import KeyedLoops
from regions.rollout.pace import Pace
from regions.rollout.policy import CopiedPolicy, Policy, SignedPolicy
from regions.rollout.prove import Prover, Records
from regions.rollout.replicate import Replicator
from regions.rollout.residence import Residence
from regions.rollout.works import Works
from storage.client.probe import Capabilities, refuse_unfit
from storage.client.sdk import StoreError
from weights_cache.model.revision import RevisionError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from regions.nodes.client import Node
    from regions.objects.store import Store
    from regions.push.commit import Patience
    from regions.rows import Signers

log = logging.getLogger("nearfield.regions")

RECOVER_RETRY_S = 0.5  # the region's own store may start after it
FIRST_SWEEP_S = 600.0  # a restart has other things to do first
SWEEP_PERIOD_S = 3600.0  # orphans are rare: a commit or a pull that was killed


@dataclass(frozen=True, slots=True)
class Plan:
    """Who the region is. `signers` says who signs the policy; `signing_key` is this region's own.

    `replication_bytes_per_s` bounds what is pulled from home, all blobs together; 0: nothing does. `settle_s`: how
    long a move waits on a store without If-Match on PUT (see regions.objects.numbered). `engines`: the external engines
    that a model may name.
    """

    name: str
    is_home: bool
    all_regions: tuple[str, ...]
    idle_timeout_s: float
    patience: Patience
    signers: Signers
    signing_key: Ed25519PrivateKey
    replication_bytes_per_s: float = 0.0
    settle_s: float = SETTLE_S
    engines: tuple[str, ...] = ()


class Region:
    """One region but for its gateway: deployments that follow the home region's objects."""

    def __init__(self, plan: Plan, own: Store, home: Store, nodes: Mapping[str, Node]) -> None:
        self._plan = plan
        self._own = own
        self._home = home
        self._told = Together(home)
        self.deployments = Deployments(plan.name)
        self._registers = Found(own, Numbered(own, settle_s=plan.settle_s))
        ledger = self._ledger = Ledger(own, self._registers)
        home_ledger = ledger if plan.is_home else Ledger(home)
        self.holdings = Holdings(own)
        pace = Pace(plan.replication_bytes_per_s)
        self.replicator = None if plan.is_home else Replicator(own, home, self.holdings, pace)
        works = Works(
            ledger,
            home_ledger,
            self.holdings,
            self.replicator,
            nodes,
            self.deployments,
            is_home=plan.is_home,
            bake=Bake(plan.name, home_ledger, nodes, self._canary),
            prover=Prover(plan.name, Records(ledger, home_ledger, plan.is_home), self.deployments),
        )
        residence = Residence(works, self.holdings, self.deployments, is_home=plan.is_home)
        self.controller = Controller(
            plan.name,
            ledger,
            home_ledger,
            self.holdings,
            works,
            residence,
            self.deployments,
            is_home=plan.is_home,
            idle_timeout_s=plan.idle_timeout_s,
            first=lambda pointer: canary_of(pointer, self._canary(), plan.all_regions),
        )
        self.policy = Policy(ledger, plan.signers, self.deployments)
        self._policy_source = (
            SignedPolicy(
                own,
                ledger,
                self.policy,
                plan.signing_key,
                all_regions=plan.all_regions,
                reports=self.deployments.reports,
            )
            if plan.is_home
            else CopiedPolicy(home_ledger, self.policy)
        )
        self._policy_loops = KeyedLoops("policy", self._policy_source.step)
        self.keys = KeyBook(own, self.look_at_keys) if plan.is_home else None
        self.ingest = Ingest(
            own,
            ledger,
            Sealer(own, ledger, self.holdings),
            tuple(nodes.values()),
            self.controller,
            all_regions=plan.all_regions,
            engines=plan.engines,
            patience=plan.patience,
        )

    def _canary(self) -> Canary:
        """Who goes first with new revisions, as the policy in force says."""
        return self.policy.row.canary if self.policy.row else Canary()

    async def recover(self) -> None:
        """Brings back what was served, from the region's own store; waits for that store, and no other.

        Raises StoreUnfit if that store is somebody else's and does not do what a model's safety needs.
        """
        name = f"the store of region {self._plan.name}"
        while True:
            try:
                for bucket in self._buckets():
                    await self._own.ensure_bucket(bucket)
                self._suit(await refuse_unfit(self._own, SYSTEM_BUCKET, name), name)
                await self.policy.recover()
                await self.controller.recover()
            except (StoreError, PointerError) as error:
                log.warning("the region's own store does not serve yet: %s", error)
                await asyncio.sleep(RECOVER_RETRY_S)
                continue
            return

    async def epoch_ms(self) -> int:
        """An epoch for the rows of this process: now, but after that of every process before it.

        A clock that was set back would otherwise have every row refused as older, until it is past its old self.
        """
        epoch_ms = int(time.time() * 1000)
        while True:
            try:
                found = await self._ledger.read(EPOCH)
                last = int(found[0]) if found is not None and found[0].isdigit() else 0
                epoch_ms = max(epoch_ms, last + 1)
                await self._ledger.write(EPOCH, str(epoch_ms).encode())
            except StoreError as error:
                log.warning("the region's own store does not keep its epoch yet: %s", error)
                await asyncio.sleep(RECOVER_RETRY_S)
                continue
            return epoch_ms

    def _suit(self, found: Capabilities, name: str) -> None:
        """Chooses how what several may move is moved."""
        for words in found.remarks():
            log.info("%s: %s", name, words)
        self._registers.makes_numbered = not found.replaces_exactly

    async def run(self) -> None:
        """Follows the home region until cancelled; then nothing of it is under way any more."""
        try:
            async with asyncio.TaskGroup() as group:
                feeds = (AnyFeed(self._told, SYSTEM_BUCKET), AnyFeed(self._told, SYSTEM_BUCKET))
                group.create_task(self.controller.run(*feeds))
                group.create_task(self._follow_policy())
                group.create_task(self._sweep())
                if self._plan.is_home:
                    group.create_task(self.ingest.run(AnyFeed(self._own, MODELS_BUCKET)))
        finally:
            if self.replicator is not None:
                await self.replicator.close()

    def _buckets(self) -> tuple[str, ...]:
        return (SYSTEM_BUCKET, BLOBS_BUCKET, *((MODELS_BUCKET,) if self._plan.is_home else ()))

    def look_at_keys(self) -> None:
        """Says that keys may have changed: the policy is looked at now, not when the feed tells."""
        self._policy_loops.poke(POLICY)

    async def _follow_policy(self) -> None:
        self.look_at_keys()
        watched = (KEYS, RULES) if self._plan.is_home else (POLICY,)
        try:
            async with asyncio.TaskGroup() as group:
                for prefix in watched:
                    feed = AnyFeed(self._told, SYSTEM_BUCKET)
                    group.create_task(follow(feed, prefix, lambda _key: self.look_at_keys()))
        finally:
            await self._policy_loops.close()

    async def _sweep(self) -> None:
        await asyncio.sleep(FIRST_SWEEP_S)
        while True:
            try:
                num_deleted = await self.controller.sweep(time.time())
                log.info("swept %d orphaned blobs", num_deleted)
            except (StoreError, PointerError, RevisionError) as error:
                log.warning("no sweep: %s", error)
            await asyncio.sleep(SWEEP_PERIOD_S)

"""What one region serves right now: the memory that controller, gateway and row publisher share.

All of it is soft state on one event loop, with one writer a field:
the controller writes revisions, states, errors and progress; the gateway writes what nodes report (`heard`,
`lost`) and takes a lease for every request it sends to a node. Readers never await.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from regions.map.region import Progress, RolloutState, Tier
from regions.push.folder import NOT_NEEDED
from regions.rollout.lag import Lag

if TYPE_CHECKING:
    from regions.map.region import ModelFault
    from regions.nodes.client import NodeView
    from regions.rollout.trial import Report
    from weights_cache.model.revision import LeftOut, ModelFacts, Revision

DEFAULT_IDLE_TIMEOUT_S = 300.0  # an idle worker gives its memory back after this, unless told otherwise


class Blobs(Protocol):
    """What the controller does for the gateway with a revision's bytes in the region's own store."""

    async def ensure(self, deployment: Deployment, revision: Revision) -> int:
        """Pulls the blobs the region lacks, single flight. Returns the bytes that crossed from home for it.

        Sets `deployment.in_region` and, meanwhile, `deployment.progress`.
        Raises a Refusal (503) when home is unreachable.
        """

    async def drop(self, deployment: Deployment, revision: Revision) -> int:
        """Deletes the region's copies that no other revision needs; bytes freed (0 in the home region)."""


@dataclass(slots=True)
class Deployment:
    """One model in this region.

    `live` answers requests; `candidate` is on its way. `state` is that of `live` while it serves,
    else that of the candidate. A refused push or a failed candidate sets `error` and leaves `live` alone.
    """

    model: str
    blobs: Blobs
    live: Revision | None = None
    candidate: Revision | None = None
    state: RolloutState = RolloutState.PUSHED
    in_region: bool = False  # every blob of `live` is in the region's store
    error: ModelFault | None = None
    progress: Progress | None = None
    refused_left_out: tuple[LeftOut, ...] = ()
    idle_timeout_s: float = DEFAULT_IDLE_TIMEOUT_S
    min_replicas: int = 0
    max_replicas: int | None = None
    pushed_s: int = 0  # seconds since 1970; 0 while unknown
    waits_for: str = ""  # the canary region whose word on the candidate is waited for
    baking: str = ""  # the revision whose requests are counted: it is the canary's, and new
    num_done: int = 0  # of those
    num_failed: int = 0
    scheduled: bool = False  # it is in the hours in which it wants to be awake
    closed: str = ""  # the revision that drains and takes no new request any more
    leases: dict[str, int] = field(default_factory=dict)  # revision id -> requests that it is answering

    def is_at(self, revision: str) -> bool:
        """Whether it serves that revision, or is on its way to it."""
        return any(each is not None and each.id == revision for each in (self.live, self.candidate))

    @property
    def num_kept(self) -> int:
        """Replicas that are not idled out."""
        return max(self.min_replicas, int(self.scheduled))

    @property
    def facts(self) -> ModelFacts | None:
        """What the serving revision is, else the candidate; None before either is known."""
        known = self.live or self.candidate
        return known.facts if known else None

    @property
    def is_deterministic(self) -> bool:
        """Whether what `facts` speaks of was pushed with `deterministic = true`."""
        known = self.live or self.candidate
        return bool(known and known.spec.deterministic)

    @property
    def residency(self) -> tuple[str, ...]:
        """Where its own spec keeps requests for it."""
        known = self.live or self.candidate
        return (known.spec.residency or ()) if known else ()

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """Files of the newest push that somebody may miss, each with its reason; no read-me among them."""
        newest = self.candidate or self.live
        told = self.refused_left_out or (newest.left_out if newest else ())
        return tuple(each for each in told if each.reason != NOT_NEEDED)

    def lease(self, revision: Revision) -> None:
        """A request is sent to a node: a draining revision waits until each lease was released."""
        self.leases[revision.id] = self.leases.get(revision.id, 0) + 1

    def release(self, revision: Revision) -> None:
        """The request of one `lease` has ended."""
        self.leases[revision.id] -= 1
        if not self.leases[revision.id]:
            del self.leases[revision.id]

    def count(self, revision: Revision, *, failed: bool) -> None:
        """A request for a revision has ended; a canary's are counted while it bakes."""
        if revision.id == self.baking:
            self.num_done += 1
            self.num_failed += failed

    def bake(self, revision: str) -> None:
        """Count the requests of a revision from now on; none if it is empty."""
        self.baking, self.num_done, self.num_failed = revision, 0, 0

    async def ensure_in_region(self) -> int:
        """Brings the live revision's blobs back when its tier is `origin`. Returns the bytes from home."""
        if self.live is None or self.in_region:
            return 0
        return await self.blobs.ensure(self, self.live)

    async def cool_to_origin(self) -> int:
        """Forgets the region's copies of the live revision. Returns bytes freed (0 in the home region)."""
        return await self.blobs.drop(self, self.live) if self.live is not None else 0


class Deployments:
    """Every model of one region, and the nodes that may hold them."""

    def __init__(self, region: str) -> None:
        self.region = region
        self.models: dict[str, Deployment] = {}
        self.nodes: dict[str, NodeView] = {}  # by address; the last report of each node that answers
        self.policy_line: bytes | None = (
            None  # the home region's signed policy row, byte-exact, without a newline
        )
        self.origin_bytes_per_s: float | None = None  # measured while replicating; None until the first pull
        self.reports: dict[str, Report] = {}  # by edge: how new rules fare there
        self.lag = Lag()  # behind the home region
        self.draining = False
        self.version = 0  # counts changes; see `changed`
        self._waiters: set[asyncio.Future[None]] = set()

    def find(self, model: str) -> Deployment | None:
        """The deployment called `model`, or None."""
        return self.models.get(model)

    def is_used_beside(self, model: str, revision: str) -> bool:
        """Whether another name serves, or is to serve, that revision: a preview of it, or the model that it became."""
        others = (each for name, each in self.models.items() if name != model)
        return any(each.is_at(revision) for each in others)

    def tier(self, deployment: Deployment) -> Tier:
        """The nearest place where the live revision's bytes are. `origin` also while nothing is live."""
        if deployment.live is None:
            return Tier.ORIGIN
        revision = deployment.live.id
        if any(worker.holds(revision) for node in self.nodes.values() for worker in node.workers):
            return Tier.RESIDENT
        if any(revision in node.cached for node in self.nodes.values()):
            return Tier.HOST
        return Tier.REGION if deployment.in_region else Tier.ORIGIN

    def heard(self, view: NodeView) -> None:
        """Takes in a node's report; one that says what the last one said is no change."""
        known, self.nodes[view.address] = self.nodes.get(view.address), view
        if view != known:
            self.touch()

    def landing(self, address: str, revision_id: str) -> Progress | None:
        """How far the weights of a worker are by its node's last word; None if all are there."""
        view = self.nodes.get(address)
        workers = () if view is None else view.workers
        return next((each.landing for each in workers if each.revision == revision_id), None)

    def lost(self, address: str) -> None:
        """Forgets a node that does not answer: what it held is gone."""
        if self.nodes.pop(address, None) is not None:
            self.touch()

    def touch(self) -> None:
        """Says that something a row shows has changed."""
        self.version += 1
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def changed(self, since: int) -> int:
        """Waits until `version` is above `since`; returns it."""
        while self.version <= since:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)
        return self.version

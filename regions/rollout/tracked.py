"""One model as the controller follows it, and what that means for the row, the record and the pusher. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from regions.map.names import is_preview
from regions.map.region import RolloutState
from regions.objects.pointer import KEPT_ABROAD, KEPT_PREVIOUS, LocalRecord, Status
from regions.rollout.canary import passed_on
from regions.rollout.life import Event, Rollout, decide

if TYPE_CHECKING:
    import asyncio

    from regions.deployments import Deployment
    from regions.map.region import ModelFault
    from regions.objects.pointer import Pointer
    from regions.objects.proof import Proof
    from regions.rollout.canary import Verdict
    from regions.rollout.lag import Lag
    from regions.rollout.life import Task, Work
    from weights_cache.model.revision import Revision


@dataclass(slots=True)
class Tracked:
    """One model: what is desired here, where each revision stands, what is being done about it."""

    model: str
    deployment: Deployment
    pointer: Pointer | None = None
    desired: str | None = None
    rollouts: dict[str, Rollout] = field(default_factory=dict)
    revisions: dict[str, Revision] = field(default_factory=dict)
    running: dict[str, tuple[Work, asyncio.Task[None]]] = field(default_factory=dict)
    nodes: dict[str, str] = field(default_factory=dict)  # revision -> the node that was chosen to probe it
    num_probes: dict[str, int] = field(default_factory=dict)
    brought: dict[str, int] = field(default_factory=dict)  # revision -> bytes that came from home for it
    proofs: dict[str, Proof] = field(default_factory=dict)  # of revisions that are on their way, or failed
    trouble: ModelFault | None = None  # what the work under way is waiting for
    refusal: ModelFault | None = None  # of the newest push, which never became a revision
    is_moved_since: bool = (
        False  # the pointer, after that push: a row that says the move does not say the refusal
    )
    written: bytes | None = None  # the local record as it is in the store
    retry_s: float = 0.25  # until the next look when a store did not answer; doubles
    canary: str | None = None  # the region that goes first with the desired revision; None: nobody waits
    verdict: Verdict | None = None  # of that region, on what the pointer names
    proven: str | None = None  # the revision that stood its bake here, or was live before this process began
    told: bytes | None = None  # the status as it was last written beside the pushed files

    def take(self, pointer: Pointer | None, region: str, idle_timeout_s: float) -> None:
        """Takes in what the pointer says now; `idle_timeout_s` is the region's default."""
        before, self.pointer = self.pointer, pointer
        self.desired = pointer.revision if pointer is not None and pointer.names(region) else None
        if pointer is None:
            return
        own = pointer.idle_timeout_s
        self.deployment.idle_timeout_s = idle_timeout_s if own is None else own
        self.deployment.min_replicas = 0 if is_preview(self.model) else pointer.min_replicas or 0
        self.deployment.max_replicas = pointer.max_replicas
        if before is not None and before.serial != pointer.serial:
            self.told, self.is_moved_since = None, True
            if self.is_in(pointer.revision, RolloutState.FAILED):
                self.apply(pointer.revision, Event.AGAIN)

    def refuse(self, fault: ModelFault | None, *, is_moved_since: bool = False) -> None:
        """Takes in why the newest push was refused; None: it was not, or lies there no more."""
        self.refusal, self.is_moved_since = fault, is_moved_since

    def hear(self, canary: str | None, verdict: Verdict | None) -> None:
        """Takes in who goes first, and what it says of the revision that the pointer names."""
        self.canary, self.verdict = canary, verdict
        if verdict is not None and verdict.state == "passed":
            self.proven = verdict.revision

    def is_held(self, region: str) -> bool:
        """Whether the desired revision is to wait for the word of another region."""
        return self.canary not in {None, region} and self.desired not in {None, self.proven}

    def waits_for(self, region: str) -> str:
        """The region whose word is waited for; empty if none is."""
        ready = self.is_in(self.desired, RolloutState.REPLICATED)
        return self.canary or "" if ready and self.is_held(region) else ""

    def _fall(self) -> None:
        """Gives up what fell in the canary region, before it was ever tried here."""
        early = (RolloutState.PUSHED, RolloutState.VERIFIED, RolloutState.REPLICATED, RolloutState.WARMING)
        verdict = self.verdict
        if verdict is not None and verdict.state == "failed" and self.is_in(verdict.revision, *early):
            self.apply(verdict.revision, Event.REFUSED, passed_on(verdict))

    def settle(self, region: str) -> tuple[Task, ...]:
        """Applies every event that pointer and canary alone cause; returns the work that is left in `region`."""
        if self.desired is not None:
            self.rollouts.setdefault(self.desired, Rollout(self.desired))
        is_held = self.is_held(region)
        if is_held:
            self._fall()
        is_proven = self.canary != region or self.desired == self.proven
        while True:
            moves, tasks = decide(
                self.desired, tuple(self.rollouts.values()), is_proven=is_proven, is_held=is_held
            )
            if not moves:
                return tasks
            for move in moves:
                self.apply(move.revision, move.event)

    def apply(self, revision: str, event: Event, fault: ModelFault | None = None) -> None:
        """Moves one revision. Raises ForbiddenMoveError."""
        self.rollouts[revision] = self.rollouts[revision].after(event, fault)
        self.trouble = None
        if event in {Event.PROBED, Event.AGAIN}:
            self.proofs.pop(revision, None)
            if self.deployment.closed == revision:
                self.deployment.closed = ""

    def forget(self, revision: str) -> None:
        """Drops a retired revision."""
        for each in (self.rollouts, self.revisions, self.nodes, self.num_probes, self.brought, self.proofs):
            each.pop(revision, None)

    def is_in(self, revision: str | None, *states: RolloutState) -> bool:
        """Whether a revision stands in one of these states."""
        found = self.rollouts.get(revision or "")
        return found is not None and found.state in states

    def serving(self) -> str | None:
        """The revision that answers: the live one, else the one that drains."""
        states = (RolloutState.LIVE, RolloutState.DRAINING)
        if self.is_in(self.desired, RolloutState.LIVE):
            return self.desired
        by_state = {each.state: each.revision for each in self.rollouts.values() if each.state in states}
        return by_state.get(RolloutState.LIVE) or by_state.get(RolloutState.DRAINING)

    def is_over(self) -> bool:
        """Whether nothing is left to follow or to tell."""
        return self.desired is None and not self.rollouts and self.refusal is None and self.written is None

    def is_shown(self) -> bool:
        """Whether it serves, is to serve, or was refused. What is only being deleted is not on its way to anybody."""
        is_wanted = self.desired is not None and bool(self.rollouts)
        return is_wanted or self.serving() is not None or self.refusal is not None

    def needed(self, pointer: Pointer | None, *, is_home: bool) -> frozenset[str]:
        """The revisions whose blobs must stay in the region's store, by what `pointer` names.

        The home region is every other region's origin, and keeps what a roll back may name; the others keep the last
        one, so that a roll back moves no byte.
        """
        num_kept = KEPT_PREVIOUS if is_home else KEPT_ABROAD
        here = {each.revision for each in self.rollouts.values() if each.state is not RolloutState.RETIRED}
        if pointer is not None and (is_home or self.desired is not None):
            here |= {pointer.revision, *pointer.previous[:num_kept]}
        return frozenset(here)

    def record(self) -> bytes | None:
        """The local record to keep; None when there is none to keep."""
        if self.desired is None or self.pointer is None:
            return None
        live = [each.revision for each in self.rollouts.values() if each.state is RolloutState.LIVE]
        if len(live) > 1:  # what still bakes is not what a restart should trust
            live.sort(key=lambda revision: revision == self.desired)
        desired = self.rollouts.get(self.desired)
        return LocalRecord(
            self.pointer, live[0] if live else None, desired.fault if desired else None
        ).to_json()

    def status(self) -> Status | None:
        """What the pusher is told; None when that is the ingest's to say, or nothing."""
        if self.pointer is None or self.refusal is not None:
            return None
        named, at = self.pointer.revision, self.pointer.pushed_s
        known = self.revisions.get(named)
        left_out = known.left_out if known else ()
        if self.is_in(named, RolloutState.FAILED):
            return Status("failed", named, self.rollouts[named].fault, left_out, at)
        is_live = self.is_in(named, RolloutState.LIVE)
        return Status("live" if is_live else "committed", named, None, left_out, at)

    def show(self) -> None:
        """Writes what is known into the deployment: the move that was heard of with what became of it, never before."""
        deployment, serving = self.deployment, self.serving()
        if self.pointer is not None:
            deployment.pushed_s = self.pointer.pushed_s
        if serving is not None and (deployment.live is None or deployment.live.id != serving):
            deployment.in_region = True  # whatever comes to serve had all its blobs here a moment ago
        deployment.live = self.revisions[serving] if serving else None
        ongoing = not self.is_in(self.desired, RolloutState.LIVE, RolloutState.FAILED, RolloutState.RETIRED)
        deployment.candidate = self.revisions.get(self.desired or "") if ongoing else None
        shown = self.rollouts.get(serving or self.desired or "")
        deployment.state = shown.state if shown else self._bare_state()
        desired = self.rollouts.get(self.desired or "")
        waiting = self.trouble if serving is None else None
        refusal = None if self.is_moved_since else self.refusal
        deployment.error = refusal or (desired.fault if desired else None) or waiting

    def tell_lag(self, lag: Lag, now_s: float) -> None:
        """Says whether the desired revision is still to come from home."""
        if self.desired is None or not self.is_in(self.desired, RolloutState.PUSHED, RolloutState.VERIFIED):
            lag.done(self.model)
            return
        known = self.revisions.get(self.desired)
        size = sum(each.size for each in known.files) if known else 0
        lag.due(self.model, self.desired, size, now_s)

    def _bare_state(self) -> RolloutState:
        return RolloutState.FAILED if self.refusal else RolloutState.PUSHED

"""One wake for any number of waiters: blobs into the region, then a node loads the revision.

A wake belongs to nobody: it goes on when its waiters leave, because its bytes are on their way and the next
request will want them.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

from regions.gateway.estimate import Estimate, Score, Starts, estimate
from regions.gateway.figures import GatewayFigures
from regions.map.region import Progress
from regions.nodes import pick
from regions.nodes.client import NodeError
from wire.figures.metrics import Metrics
from wire.refused.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from regions.deployments import Deployment, Deployments
    from regions.nodes.client import LoadLine, Node
    from regions.nodes.watch import NodeWatch
    from weights_cache.model.revision import Revision

    Reason = Literal["request", "prewarm"]

REST_S: Final = (
    1.0  # after a failed wake the next one waits: a model that cannot start must not start in a loop
)
RETRY_AFTER_S: Final = 2.0  # when a wake says nothing of the time it needs


@dataclass(slots=True, eq=False)
class Woken:
    """Resident at `address`: `remote_bytes` crossed from home in `pull_ms`; `load` is the node's last line.

    It took `took_s`, until `ended_s`; `expected` is to the first token. `is_scored`: somebody had that.
    """

    address: str
    remote_bytes: int
    pull_ms: float
    load: LoadLine
    expected: Estimate
    took_s: float
    ended_s: float
    is_scored: bool = False

    def left_s(self) -> float:
        """Seconds until a first token is expected; 0 once it is late."""
        return max(0.0, self.expected.seconds - self.took_s - (time.perf_counter() - self.ended_s))

    def score(self, later_s: float) -> Score:
        """The estimate against the clock: a first token came `later_s` after it was resident."""
        return Score(self.expected.seconds, self.took_s + later_s)

    def start_phases(self) -> dict[str, float]:
        """What the start was made of, ms; it sums to what the wake took.

        The pull from home if there was one, the node's phases, and last `order`: choosing a node, asking it, hearing
        its word, and the rest after a wake that failed.
        """
        pull = {"pull": round(self.pull_ms, 3)} if self.remote_bytes else {}
        known = {**pull, **(self.load.phases or {})}
        return {**known, "order": round(max(0.0, self.took_s * 1e3 - sum(known.values())), 3)}


@dataclass(slots=True)
class Wake:
    """One wake under way; `progress` is its newest figure, `num_waiting` who is held for it.

    `expected` is what it should take by what was measured, from `began_s` on.
    """

    deployment: Deployment
    revision: Revision
    reason: Reason
    expected: Estimate
    began_s: float = field(default_factory=time.perf_counter)
    progress: Progress = field(default_factory=lambda: Progress("queue", 0.0))
    num_waiting: int = 0
    task: asyncio.Task[Woken] = field(init=False)

    def seen(self) -> Progress:
        """The newest progress: of the replication while it runs, then of the load."""
        replicating = self.deployment.progress
        return replicating if self.progress.phase == "queue" and replicating else self.progress

    def told(self) -> Progress:
        """The same for those who wait: a step that does not know its time has the estimate's."""
        progress = self.seen()
        if progress.eta_s is not None:
            return progress
        left_s = max(0.0, self.expected.seconds - (time.perf_counter() - self.began_s))
        return replace(progress, eta_s=left_s)


class Wakes:
    """The wakes of one region, by revision id."""

    def __init__(
        self,
        deployments: Deployments,
        nodes: Mapping[str, Node],
        watch: NodeWatch,
        figures: GatewayFigures | None = None,
    ) -> None:
        self.figures = figures or GatewayFigures(Metrics())
        self._deployments = deployments
        self._nodes = nodes
        self._watch = watch
        self.starts = Starts()
        self._running: dict[str, Wake] = {}
        self._resting: dict[str, asyncio.TimerHandle] = {}

    @property
    def running(self) -> Mapping[str, Wake]:
        """The wakes under way, by revision id; not to be changed."""
        return MappingProxyType(self._running)

    def wake(self, deployment: Deployment, revision: Revision, reason: Reason) -> Wake:
        """The wake of this revision, started if none runs. Its task raises Refusal when it fails."""
        running = self._running.get(revision.id)
        if running is not None:
            return running
        expected = estimate(self._deployments, deployment, self.starts)
        wake = Wake(deployment, revision, reason, expected)
        wake.task = asyncio.create_task(self._run(wake, reason))
        wake.task.add_done_callback(lambda _task: self._ended(wake))
        self._running[revision.id] = wake
        return wake

    def answered(self, model: str, revision_id: str, woken: Woken, later_s: float) -> None:
        """Somebody who waited has a first token, `later_s` after the revision was resident: the estimate's score.

        The first of them says it; a start that nobody waited for has none.
        """
        if woken.is_scored:
            return
        woken.is_scored = True
        score, expected = woken.score(later_s), woken.expected
        self.starts.learn(revision_id, expected.tier, score.took_s - expected.bytes_s)
        self.figures.scored(model, str(expected.tier), score)

    async def close(self) -> None:
        """Ends all wakes."""
        tasks = [wake.task for wake in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for timer in self._resting.values():
            timer.cancel()

    async def _run(self, wake: Wake, reason: Reason) -> Woken:
        if wake.revision.id in self._resting:
            await asyncio.sleep(REST_S)
        began = time.perf_counter()
        remote_bytes = await wake.deployment.ensure_in_region()
        pull_ms = (time.perf_counter() - began) * 1e3
        if not self._deployments.nodes:
            await self._watch.refresh()
        tried: list[str] = []
        while (address := pick.waking(wake.revision.id, self._deployments.nodes, tried)) is not None:
            tried.append(address)
            try:
                load = await self._load(wake, address, reason)
            except NodeError as error:
                last = error
                continue
            await self._watch.refresh(address)
            ended = time.perf_counter()
            return Woken(address, remote_bytes, pull_ms, load, wake.expected, ended - wake.began_s, ended)
        raise _refused(wake.revision.model, last) if tried else _no_node(self._deployments.region)

    async def _load(self, wake: Wake, address: str, reason: Reason) -> LoadLine:
        deployment = wake.deployment
        lines = self._nodes[address].load(
            wake.revision, reason, deployment.idle_timeout_s, deployment.num_kept
        )
        async for line in lines:
            wake.progress = Progress(line.phase, line.percent, line.eta_s)
            self._deployments.touch()
        return line

    def _ended(self, wake: Wake) -> None:
        revision = wake.revision.id
        del self._running[revision]
        self._deployments.touch()
        if wake.task.cancelled():
            return
        error = wake.task.exception()
        if error is None:
            self.figures.woken(wake, wake.task.result())
        else:
            self.figures.failed(wake, str(error))
            loop = asyncio.get_running_loop()
            self._resting[revision] = loop.call_later(REST_S, self._resting.pop, revision, None)


def _no_node(region: str) -> Refusal:
    text = f"No node of region {region} answers; another region may. Try again shortly."
    return Refusal(503, "region_unavailable", text, "server_error", retry_after_s=RETRY_AFTER_S)


def _refused(model: str, error: NodeError) -> Refusal:
    fault = error.fault
    step = f" {fault.next[:1].upper()}{fault.next[1:]}." if fault.next else ""
    text = f"{model} could not be started: {fault.message}.{step}"
    if error.passing:
        return Refusal(503, "model_not_ready", text, "server_error", retry_after_s=RETRY_AFTER_S)
    return Refusal(502, "upstream_failed", text, "server_error")

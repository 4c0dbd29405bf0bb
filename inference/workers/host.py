"""One host's workers: who is resident, who makes room for whom, and one load for any number of askers."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from inference.outside.definition import OWN
from inference.workers.board import Board, LoadFailure
from inference.workers.counts.starts import StartFigures
from inference.workers.counts.told import worker_value
from inference.workers.counts.totals import EngineTotals
from inference.workers.residency.life import State, idle_too_long, next_look_s
from inference.workers.residency.rests import Rests
from inference.workers.residency.way import in_the_way, make_way
from inference.workers.worker import Worker, not_resident
from wire.figures.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from inference.usage.node_usage import NodeUsage
    from inference.workers.loading import Room
    from inference.workers.residency.room import Means
    from inference.workers.start import Parts
    from weights_cache.model.revision import Revision

LEAST_WAIT_MS = 1.0
"""Mapped memory is there at once: a shorter wait says nothing of bandwidth."""
MAX_OUTSIDE = 1_024
"""Revisions of external engines that are remembered as such."""
CLOSE_S = 10.0
"""Running requests may finish for so long when the node stops."""

log = logging.getLogger("nearfield.node")


@dataclass(slots=True)
class Tenure:
    """How long a worker may stay without requests. With `min_replicas` of one or more, for ever."""

    idle_timeout_s: float
    min_replicas: int
    reason: str


class Host:
    """The workers of one node. `tend` runs beside it; `close` ends them all."""

    def __init__(
        self,
        means: Means,
        parts: Parts,
        usage: NodeUsage,
        *,
        figures: StartFigures | None = None,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._means, self._parts, self._now = means, parts, now
        self.usage = usage
        self.figures = figures or StartFigures(Metrics())
        self._workers: dict[str, Worker] = {}
        self._tenures: dict[str, Tenure] = {}
        self._loads: dict[str, Board] = {}
        self._room = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._attach_s: float | None = None
        self._closing = False
        self.totals = EngineTotals()
        self._outside: dict[str, str] = {}
        """Revisions with an external engine that were asked for, and their models; the newest ones."""
        self._rests = Rests(now)
        self.host_bytes_per_s: float | None = None
        """Measured: bytes of weights that were here by the time an engine waited for them."""

    @property
    def workers(self) -> tuple[Worker, ...]:
        """Every worker that is not gone."""
        return tuple(self._workers.values())

    @property
    def used_bytes(self) -> int:
        """What the workers may take, all together."""
        return sum(worker.room.num_bytes for worker in self._workers.values())

    @property
    def attach_s(self) -> float | None:
        """Measured: a load without its wait for bytes, to a worker that can answer; None before the first."""
        return self._attach_s

    def find(self, revision_id: str | None, model: str) -> Worker:
        """The worker for a request: by revision, or else by the model's name.

        Raises:
            Refusal: 409 `not_resident`.
        """
        if revision_id is not None:
            if (found := self._workers.get(revision_id)) is not None:
                return found
            raise not_resident(model)
        named = [worker for worker in self._workers.values() if worker.revision.model == model]
        if not named:
            raise not_resident(model)
        return max(named, key=lambda worker: worker.state is State.RESIDENT)

    def is_outside(self, revision_id: str | None, model: str) -> bool:
        """Whether a request is one for an external engine, as far as this node knows the model."""
        return revision_id in self._outside if revision_id is not None else model in self._outside.values()

    async def engine_pages(self) -> list[tuple[str, str, bytes]]:
        """The /metrics pages of the engines that have one of their own: (engine, model, page)."""
        workers = self.workers
        pages = await asyncio.gather(*(worker.metrics() for worker in workers))
        return [
            (str(worker.revision.spec.engine), worker.revision.model, page)
            for worker, page in zip(workers, pages, strict=True)
            if page is not None
        ]

    def reason(self, revision_id: str) -> str:
        """Why a revision was loaded: `request`, `probe` or `prewarm`."""
        tenure = self._tenures.get(revision_id)
        return tenure.reason if tenure else ""

    def load(self, revision: Revision, tenure: Tenure) -> Board:
        """Make a revision resident; every asker gets the same board while one load runs."""
        if revision.spec.engine not in {None, OWN}:
            self._outside[revision.id] = revision.model
            while len(self._outside) > MAX_OUTSIDE:
                del self._outside[next(iter(self._outside))]
        worker = self._workers.get(revision.id)
        if worker is not None and worker.state is State.RESIDENT:
            tenure.reason = self._tenures[revision.id].reason
            self._tenures[revision.id] = tenure
            board = Board()
            board.finish(worker.report.line() | {"start": "resident", "total_ms": 0.0, "phases": {}})
            return board
        self._tenures[revision.id] = tenure
        if (running := self._loads.get(revision.id)) is not None and not running.is_final:
            return running
        board = self._loads[revision.id] = Board()
        self._start(self._serve(revision, board))
        return board

    async def unload(self, revision_id: str, *, to_region: bool) -> int:
        """Stop a revision's worker and, on the way to the region, forget its weights; the bytes freed."""
        freed_bytes = 0
        self._rests.give_up(revision_id)
        if (worker := self._workers.get(revision_id)) is not None:
            await worker.drain()
            freed_bytes = worker.room.num_bytes
        if to_region:
            await asyncio.to_thread(self._parts.tier.evict, revision_id)
        return freed_bytes

    async def tend(self) -> None:
        """Stop workers that nobody uses. Runs until cancelled."""
        while True:
            await asyncio.sleep(self._next_look_s())
            for revision_id, worker in list(self._workers.items()):
                tenure = self._tenures[revision_id]
                worker.look_after()
                if idle_too_long(worker.tenancy(), tenure.idle_timeout_s, tenure.min_replicas):
                    self._start(worker.drain())

    def _next_look_s(self) -> float:
        tenures = self._tenures
        terms = ((worker.tenancy(), tenures[name]) for name, worker in self._workers.items())
        return next_look_s((each, tenure.idle_timeout_s, tenure.min_replicas) for each, tenure in terms)

    @property
    def stalled(self) -> tuple[str, ...]:
        """Models whose engine has made no step for longer than its pace lets expect."""
        return tuple(worker.revision.model for worker in self.workers if worker.stalled_s)

    async def close(self) -> None:
        """Stop every worker; running requests may finish for a while."""
        self._closing = True
        self._rests.give_up_all()
        await asyncio.gather(*(worker.drain(CLOSE_S) for worker in self.workers))
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _start(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a worker's task failed", exc_info=error)

    async def _serve(self, revision: Revision, board: Board) -> None:
        """One worker's whole life, from making room for it to its end."""
        asked_at, tenure, worker = self._now(), self._tenures[revision.id], None
        try:
            await self._rests.sit_out(revision.id, board)
            worker = await self._seat(revision, board, asked_at)
            watch = asyncio.create_task(self._note_load(worker))
            await worker.run()
            await watch
        except LoadFailure as failure:
            self.figures.failed(revision.model, failure.code, failure.message)
            board.finish(failure.line())
        finally:
            tenure = self._tenures.get(
                revision.id, tenure
            )  # whoever loaded it again may have changed the terms
            self._forget(revision.id, board)
        if worker is not None:
            self._after(worker, tenure, asked_at)

    def _after(self, worker: Worker, tenure: Tenure, began_at: float) -> None:
        """An engine has ended: count it if it fell, and bring it back if it was lost."""
        revision = worker.revision
        if worker.maker.backs_off and worker.fell:
            self._rests.fell(revision.id, began_at)
            self.figures.fell(str(revision.spec.engine))
        elif not worker.fell:
            self._rests.forget(revision.id)
        if worker.was_lost:
            self._bring_back(worker, tenure)

    def _bring_back(self, worker: Worker, tenure: Tenure) -> None:
        """Start a lost engine again before anybody asks: its weights are still here.

        Not one of ours that served nobody since it was last brought back: what ends it may come again at once. Others
        wait longer each time.
        """
        worth = worker.num_served > 0 or worker.maker.backs_off
        if worth and not self._closing and worker.revision.id not in self._loads:
            log.warning("the engine of %s ended by itself; starting another", worker.revision.model)
            self.load(worker.revision, tenure)

    def _forget(self, revision_id: str, board: Board) -> None:
        """Take a worker off the lists, unless its place is taken by the next load of the same revision."""
        worker = self._workers.get(revision_id)
        if worker is not None and worker.board is board:
            self.totals.keep(worker.revision.model, worker.stats)
            del self._workers[revision_id]
        if self._loads.get(revision_id) is board:
            del self._loads[revision_id]
            del self._tenures[revision_id]

    async def _note_load(self, worker: Worker) -> None:
        line = await worker.board.outcome()
        if line["phase"] == "failed":
            self.figures.failed(worker.revision.model, line["code"], line["message"])
            return
        report = worker.report
        waited_ms = report.phases.get("fetch", 0.0) + report.phases.get("verify", 0.0)
        self._attach_s = (report.total_ms - waited_ms - report.phases["queue"]) / 1000
        if report.start == "host":
            self.host_bytes_per_s = report.bytes["host"] / max(waited_ms, LEAST_WAIT_MS) * 1000
        self.figures.started(worker.revision.model, await worker.landed(), worker.lack)

    async def _seat(self, revision: Revision, board: Board, asked_at: float) -> Worker:
        """Make room, one load at a time, and take it."""
        maker = self._parts.makers.of(revision)
        room = maker.room(revision, self._means)
        async with self._room:
            while (old := self._workers.get(revision.id)) is not None:
                await old.gone.wait()
                await asyncio.sleep(0)  # its task takes it off the list
            await self._make_room(revision, room)
            if self._closing:
                raise LoadFailure("draining", "this node is stopping", "ask another one")
            way = partial(make_way, self._workers, revision.id, self._awake(revision.id))
            worker = Worker(
                revision, room, board, self._parts, maker, now=self._now, make_way=way, asked_at=asked_at
            )
            self._workers[revision.id] = worker
            return worker

    async def _make_room(self, revision: Revision, room: Room) -> None:
        """Stop the longest idle workers until there is room, for its process and for its weights."""
        means = self._means
        stopping = in_the_way(self._workers, revision, room, means, self._awake(revision.id))
        await asyncio.gather(*(worker.drain() for worker in stopping))
        for worker in self.workers:
            if (
                self.used_bytes + room.num_bytes > means.memory_budget_bytes
                and worker.state is State.DRAINING
            ):
                await worker.gone.wait()

    def _awake(self, revision_id: str) -> frozenset[str]:
        """Whom a load must not stop: those that are to stay awake, if nobody waits for it.

        A schedule asks again for what was stopped, and two that have room for one would stop each other for ever.
        """
        if self.reason(revision_id) != "prewarm":
            return frozenset()
        return frozenset(name for name, tenure in self._tenures.items() if tenure.min_replicas >= 1)

    def status_workers(self) -> list[Mapping[str, Any]]:
        """The workers as `/status` says them."""
        return [worker_value(worker) for worker in self._workers.values()]

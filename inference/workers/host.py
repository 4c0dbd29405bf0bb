"""One host's workers: who is resident, who makes room for whom, and one load for any number of askers."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inference.engine.slots import PAGES_SHARE
from inference.workers.board import Board, LoadFailure
from inference.workers.engine_totals import EngineTotals
from inference.workers.figures import StartFigures
from inference.workers.life import State, idle_too_long, stops_for_room
from inference.workers.loading import Room
from inference.workers.worker import Parts, Worker, not_resident
from wire.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from weights_cache.revision import Revision

WORKER_BYTES = 96 * 1024 * 1024
"""What a forked engine takes beside weights and slots: private pages of Python and torch, activations."""
KV_SHARE = 0.25
"""Of the memory budget, for one model's slots at most: two models and their slots fit a small node."""
LEAST_WAIT_MS = 1.0
"""Mapped memory is there at once: a shorter wait says nothing of bandwidth."""
TEND_S = 0.25
"""Between two looks for idle workers; idle timeouts are seconds."""
CLOSE_S = 10.0
"""Running requests may finish for so long when the node stops."""

log = logging.getLogger("nearfield.node")


@dataclass(frozen=True, slots=True)
class Means:
    """What this host gives to workers. `host_cache_bytes` bounds the weights of all that are resident."""

    memory_budget_bytes: int
    host_cache_bytes: int
    max_slots: int
    num_threads: int


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
        *,
        figures: StartFigures | None = None,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._means, self._parts, self._now = means, parts, now
        self.figures = figures or StartFigures(Metrics())
        self._workers: dict[str, Worker] = {}
        self._tenures: dict[str, Tenure] = {}
        self._loads: dict[str, Board] = {}
        self._room = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._attach_s: float | None = None
        self._closing = False
        self.totals = EngineTotals()
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

    def reason(self, revision_id: str) -> str:
        """Why a revision was loaded: `request`, `probe` or `prewarm`."""
        tenure = self._tenures.get(revision_id)
        return tenure.reason if tenure else ""

    def load(self, revision: Revision, tenure: Tenure) -> Board:
        """Make a revision resident; every asker gets the same board while one load runs."""
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
        if (worker := self._workers.get(revision_id)) is not None:
            await worker.drain()
            freed_bytes = worker.room.num_bytes
        if to_region:
            await asyncio.to_thread(self._parts.tier.evict, revision_id)
        return freed_bytes

    async def tend(self) -> None:
        """Stop workers that nobody uses. Runs until cancelled."""
        while True:
            await asyncio.sleep(TEND_S)
            for revision_id, worker in list(self._workers.items()):
                tenure = self._tenures[revision_id]
                worker.look_after()
                if idle_too_long(worker.tenancy(), tenure.idle_timeout_s, tenure.min_replicas):
                    self._start(worker.drain())

    @property
    def stalled(self) -> tuple[str, ...]:
        """Models whose engine has made no step for longer than its pace lets expect."""
        return tuple(worker.revision.model for worker in self.workers if worker.stalled_s)

    async def close(self) -> None:
        """Stop every worker; running requests may finish for a while."""
        self._closing = True
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
            worker = await self._seat(revision, board, asked_at)
            watch = asyncio.create_task(self._note_load(worker))
            await worker.run()
            await watch
        except LoadFailure as failure:
            self.figures.failed(revision.model, failure.code, failure.message)
            board.finish(failure.line())
        finally:
            self._forget(revision.id, board)
        if worker is not None and worker.was_lost:
            self._bring_back(worker, tenure)

    def _bring_back(self, worker: Worker, tenure: Tenure) -> None:
        """Start a lost engine again before anybody asks: its weights are still here.

        Not one that served nobody since it was last brought back: what ends it may come again at once.
        """
        if worker.num_served and not self._closing and worker.revision.id not in self._loads:
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
        self.figures.started(worker.revision.model, report)
        waited_ms = report.phases.get("fetch", 0.0) + report.phases.get("verify", 0.0)
        self._attach_s = (report.total_ms - waited_ms - report.phases["queue"]) / 1000
        if report.start == "host":
            self.host_bytes_per_s = report.bytes["host"] / max(waited_ms, LEAST_WAIT_MS) * 1000

    async def _seat(self, revision: Revision, board: Board, asked_at: float) -> Worker:
        """Make room, one load at a time, and take it."""
        room = self._wanted(revision)
        async with self._room:
            while (old := self._workers.get(revision.id)) is not None:
                await old.gone.wait()
                await asyncio.sleep(0)  # its task takes it off the list
            await self._make_room(revision, room)
            if self._closing:
                raise LoadFailure("draining", "this node is stopping", "ask another one")
            worker = Worker(revision, room, board, self._parts, now=self._now, asked_at=asked_at)
            self._workers[revision.id] = worker
            return worker

    def _wanted(self, revision: Revision) -> Room:
        """What a worker of this revision takes; the engine plans its slots within `kv_bytes`.

        Raises:
            LoadFailure: it does not fit, even alone.
        """
        facts, means = revision.facts, self._means
        num_slots = min(means.max_slots, revision.spec.max_batch or means.max_slots)
        one_context = facts.context_tokens * facts.kv_bytes_per_token
        slots_bytes = int(num_slots * one_context / (1 - PAGES_SHARE))
        kv_bytes = min(slots_bytes, max(int(means.memory_budget_bytes * KV_SHARE), facts.kv_bytes_per_token))
        need_bytes = facts.weight_bytes + kv_bytes + WORKER_BYTES
        if need_bytes > means.memory_budget_bytes or facts.weight_bytes > means.host_cache_bytes:
            raise _too_large(revision.model, need_bytes, means)
        return Room(need_bytes, kv_bytes, num_slots, means.num_threads)

    async def _make_room(self, revision: Revision, room: Room) -> None:
        """Stop the longest idle workers until there is room, for its process and for its weights."""
        means = self._means
        tenancies = [worker.tenancy() for worker in self._workers.values()]
        weights = {
            worker.revision.id: worker.revision.facts.weight_bytes for worker in self._workers.values()
        }
        by_memory = stops_for_room(tenancies, room.num_bytes, means.memory_budget_bytes)
        by_weights = stops_for_room(
            [one.sized(weights[one.revision_id]) for one in tenancies],
            revision.facts.weight_bytes,
            means.host_cache_bytes,
        )
        if by_memory is None or by_weights is None:
            message = f"{revision.model} needs {room.num_bytes:,} bytes, and the models in use leave no room"
            raise LoadFailure("memory_short", message, "wait until another model is idle, or add memory")
        stopping = [self._workers[revision_id] for revision_id in {*by_memory, *by_weights}]
        await asyncio.gather(*(worker.drain() for worker in stopping))
        for worker in self.workers:
            if (
                self.used_bytes + room.num_bytes > means.memory_budget_bytes
                and worker.state is State.DRAINING
            ):
                await worker.gone.wait()

    def status_workers(self) -> list[Mapping[str, Any]]:
        """The workers as `/status` says them."""
        return [_worker_value(worker) for worker in self._workers.values()]


def _worker_value(worker: Worker) -> Mapping[str, Any]:
    stats = worker.stats
    return {
        "model": worker.revision.model,
        "revision": worker.revision.id,
        "state": worker.state.value,
        "pid": worker.pid,
        "running": int(stats.get("running") or 0),
        "waiting": int(stats.get("waiting") or 0),
        "slots": int(worker.ready.get("slots") or 0),
        "idle_s": round(worker.idle_s, 3),
        "prefill_ms_per_token": stats.get("prefill_ms_per_token"),
        "step_ms": stats.get("step_ms"),
        "phases": {name: round(ms, 3) for name, ms in worker.report.phases.items()},
        "bytes": worker.room.num_bytes,
        "requests": worker.num_requests,
        "served": worker.num_served,
        "stalled_s": round(worker.stalled_s, 3),
        "progress": worker.board.line,
    }


def _too_large(model: str, need_bytes: int, means: Means) -> LoadFailure:
    return LoadFailure(
        "model_too_large",
        f"{model} needs {need_bytes:,} bytes; this node has {means.memory_budget_bytes:,} for models "
        f"and {means.host_cache_bytes:,} for their weights",
        "give the node more memory, or push a smaller model or dtype",
    )

"""One region's control loop: what the home region's pointers name is brought here, probed, and made live.

Rule 1: the local record is written before anything that cannot be taken back (a drain, a deletion) begins.
Rule 2: what is live stays live until another is, or until a home that answers says that the pointer is gone.
Rule 3: every step may be the last one: a restart finds the record and the blobs that are whole, and goes on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from regions.deployments import Deployment
from regions.map.region import RolloutState
from regions.objects.changes import follow
from regions.objects.ledger import CANARY, POINTERS, POLICY, model_of
from regions.objects.pointer import PointerError
from regions.rollout.lag import Listened
from regions.rollout.life import Event, Rollout
from regions.rollout.loops import KeyedLoops
from regions.rollout.tracked import Tracked
from regions.rollout.word import Word
from storage.client.sdk import StoreError
from weights_cache.model.revision import RevisionError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from regions.deployments import Blobs, Deployments
    from regions.map.region import ModelFault
    from regions.objects.blobs import Holdings
    from regions.objects.changes import Feed
    from regions.objects.ledger import Ledger
    from regions.objects.pointer import LocalRecord, Pointer
    from regions.rollout.canary import Verdict
    from regions.rollout.life import Task, Work
    from regions.rollout.works import Works
    from weights_cache.model.revision import LeftOut, Revision

log = logging.getLogger("nearfield.regions")

RETRY_S = 0.25  # after the home store or the own one did not answer; doubles
MAX_RETRY_S = 10.0  # a home that comes back is noticed within this, and by its feed at once


class Controller:
    """Brings a region to what the pointers say. It is also the ingest's Audience."""

    def __init__(
        self,
        region: str,
        ledger: Ledger,
        home: Ledger,
        holdings: Holdings,
        works: Works,
        blobs: Blobs,
        deployments: Deployments,
        *,
        is_home: bool,
        idle_timeout_s: float,
        first: Callable[[Pointer], str | None] = lambda _pointer: None,
    ) -> None:
        self._first = first  # the region that goes first with what a pointer names
        self._aside: set[asyncio.Task[None]] = set()
        self._region = region
        self._ledger = ledger
        self._home = home
        self._holdings = holdings
        self._works = works
        self._word = Word(region, home, works, is_home=is_home)
        self._blobs = blobs
        self._deployments = deployments
        self._is_home = is_home
        self._idle_timeout_s = idle_timeout_s
        self._tracked: dict[str, Tracked] = {}
        self._loops = KeyedLoops("rollout", self.step)

    async def recover(self) -> None:
        """Brings back what the region served, from its own store alone. Raises StoreError, PointerError."""
        for record in await self._ledger.locals():
            tracked = self._follow(record.pointer.model)
            tracked.take(record.pointer, self._region, self._idle_timeout_s)
            tracked.hear(self._first(record.pointer), None)
            tracked.proven = record.live
            if record.fault is not None and record.pointer.revision != record.live:
                failed = Rollout(record.pointer.revision, RolloutState.FAILED, record.fault)
                tracked.rollouts[failed.revision] = failed
            if record.live is not None:
                await self._revive(tracked, record)
            tracked.written = record.to_json()
            self._show(tracked)

    async def run(self, feed: Feed, verdicts: Feed) -> None:
        """Follows the home region's pointers and verdicts until cancelled; work under way ends with it."""
        for model in self._tracked:
            self._loops.poke(model)
        listened = Listened(feed, self._deployments.lag, time.monotonic)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(follow(listened, POINTERS, self._changed))
                group.create_task(follow(verdicts, CANARY, self._judged))
        finally:
            await self.close()

    async def close(self) -> None:
        """Stops following, and all work."""
        await self._loops.close()
        tasks = [task for tracked in self._tracked.values() for _, task in tracked.running.values()]
        tasks += self._aside
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def sweep(self, now_s: float) -> int:
        """Deletes blobs that no revision names. How many. Raises unless every revision is known, deleting none."""
        for model in await self._home.models() if self._is_home else ():
            found = await self._home.pointer(model)
            if found is None and model not in self._tracked:
                continue  # removed: a hint without a value is left of it
            tracked = self._follow(model)
            await self._hold_needed(tracked, found[0] if found else tracked.pointer)
        return await self._holdings.sweep(now_s)

    def _changed(self, key: str) -> None:
        model = model_of(key, POINTERS, ".json")
        if model is not None:
            self._loops.poke(model)

    def _judged(self, key: str) -> None:
        model = model_of(key, CANARY, ".json")
        if model in self._tracked:
            self._loops.poke(model)

    # ---- what the ingest tells (ingest.Audience)

    def refused(
        self,
        model: str,
        fault: ModelFault | None,
        left_out: Sequence[LeftOut],
        *,
        is_moved_since: bool = False,
    ) -> None:
        """See ingest.Audience."""
        if fault is None and model not in self._tracked:
            return
        tracked = self._follow(model)
        tracked.refuse(fault, is_moved_since=is_moved_since)
        tracked.deployment.refused_left_out = tuple(left_out)
        self._show(tracked)

    def committed(self, model: str, revision: Revision) -> None:
        """See ingest.Audience."""
        self._follow(model).revisions[revision.id] = revision
        self._loops.poke(model)

    # ---- one look at one model

    async def step(self, model: str) -> float | None:
        """Looks where a model stands and starts what that calls for. Seconds until the next look, or None."""
        tracked = self._follow(model)
        looked = await self._look(tracked)
        settled = await self._settle(tracked)
        self._show(tracked)
        if looked and settled:
            tracked.retry_s = RETRY_S
            return None
        again_s, tracked.retry_s = tracked.retry_s, min(2 * tracked.retry_s, MAX_RETRY_S)
        return again_s

    async def _look(self, tracked: Tracked) -> bool:
        """Takes in the pointer as the home region has it now, and the canary's word with it. Whether it said.

        Nothing is awaited between the two: a row says nothing of a move that only half of is known.
        """
        try:
            pointer = await self._pointer(tracked)
            first, verdict = await self._canary(tracked, pointer)
            tracked.take(pointer, self._region, self._idle_timeout_s)
            tracked.hear(first, verdict)
            await self._hold_needed(tracked, pointer)
        except (StoreError, PointerError, RevisionError) as error:
            log.warning("the pointer of %s is not known: %s", tracked.model, error)
            return False
        return True

    async def _settle(self, tracked: Tracked) -> bool:
        """Writes the record, starts the work that is due, tells the pusher. Whether all was written."""
        try:
            self._start(tracked, await self._write_down(tracked))
            if not tracked.rollouts:
                await self._works.release(tracked)
            await self._word.told(tracked)
        except (StoreError, PointerError) as error:
            log.warning("%s is not written down: %s", tracked.model, error)
            return False
        return True

    async def _pointer(self, tracked: Tracked) -> Pointer | None:
        """What the home says now. Raises StoreError also when a home that lost its data knows nothing."""
        found = await self._home.pointer(tracked.model)
        if found is not None:
            return found[0]
        if tracked.pointer is not None and await self._home.read(POLICY) is None:
            raise StoreError("empty_home", "the home store holds no policy: it is not believed to be whole")
        return None

    async def _canary(self, tracked: Tracked, pointer: Pointer | None) -> tuple[str | None, Verdict | None]:
        """Who goes first with what `pointer` names, and its word on it. Raises StoreError, PointerError."""
        first = None if pointer is None else self._first(pointer)
        if pointer is None or first is None or not pointer.names(self._region):
            return first, None
        if pointer.revision == tracked.proven:
            return first, None
        verdict = await self._home.verdict(tracked.model)
        return first, verdict if verdict is not None and verdict.is_about(pointer) else None

    async def _write_down(self, tracked: Tracked) -> tuple[Task, ...]:
        """Settles, and writes the record until it says what was settled. The work that is left."""
        while True:
            tasks, record = tracked.settle(self._region), tracked.record()
            if record == tracked.written:
                return tasks
            if record is None:
                await self._ledger.drop_local(tracked.model)
            else:
                await self._ledger.keep_local(tracked.model, record)
            tracked.written = record

    def _start(self, tracked: Tracked, tasks: Sequence[Task]) -> None:
        """Starts the work that is not under way, and cancels what nobody wants any more."""
        wanted = {task.revision: task.work for task in tasks}
        for revision, (work, running) in list(tracked.running.items()):
            if wanted.get(revision) is not work:
                running.cancel()
                del tracked.running[revision]
        for revision, work in wanted.items():
            if revision not in tracked.running:
                doing = asyncio.create_task(self._work(tracked, revision, work))
                doing.add_done_callback(_log_failure)
                tracked.running[revision] = (work, doing)

    async def _work(self, tracked: Tracked, revision: str, work: Work) -> None:
        """Does one piece of work and applies its event, unless it was cancelled at the last moment."""
        outcome = await self._works.do(work, tracked, revision)
        if tracked.running.get(revision, (None, None))[1] is not asyncio.current_task():
            return
        del tracked.running[revision]
        if outcome.event is None:
            tracked.forget(revision)
        else:
            tracked.apply(revision, outcome.event, outcome.fault)
            log.info("%s %s is %s", tracked.model, revision[:12], tracked.rollouts[revision].state)
        if outcome.event is Event.FELL:
            unload = asyncio.create_task(self._works.unload(tracked, revision))
            self._aside.add(unload)
            unload.add_done_callback(self._aside.discard)
        self._show(tracked)
        self._loops.poke(tracked.model)

    async def _hold_needed(self, tracked: Tracked, pointer: Pointer | None) -> None:
        """Holds the blobs of every revision that must stay: at home all, elsewhere what was there.

        Raises StoreError, RevisionError.
        """
        known = self._works.known if self._is_home else self._ledger.revision
        for each in tracked.needed(pointer, is_home=self._is_home) - self._holdings.held(tracked.model):
            revision = await known(each)
            if revision is not None:
                self._holdings.hold(revision, tracked.model)

    async def _revive(self, tracked: Tracked, record: LocalRecord) -> None:
        """Lets the recorded revision serve again: it was probed before. Raises StoreError."""
        live = record.live or ""
        try:
            revision = await self._ledger.revision(live)
        except RevisionError as error:
            log.warning("the region's copy of %s %s: %s", tracked.model, live[:12], error)
            return
        if revision is None:
            return
        self._holdings.hold(revision, tracked.model)
        tracked.revisions[live] = revision
        tracked.rollouts[live] = Rollout(live, RolloutState.LIVE)
        tracked.show()
        tracked.deployment.in_region = await self._works.is_whole(revision)

    def _follow(self, model: str) -> Tracked:
        if model not in self._tracked:
            self._tracked[model] = Tracked(model, Deployment(model, self._blobs))
        return self._tracked[model]

    def _show(self, tracked: Tracked) -> None:
        """Brings the deployments up to date; a model that is gone is taken out, its last blobs may still be here."""
        tracked.show()
        tracked.deployment.waits_for = tracked.waits_for(self._region)
        tracked.tell_lag(self._deployments.lag, time.monotonic())
        if tracked.is_over() and not tracked.running:
            self._tracked.pop(tracked.model, None)
        if tracked.is_shown():
            self._deployments.models[tracked.model] = tracked.deployment
        else:
            self._deployments.models.pop(tracked.model, None)
        self._deployments.touch()


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("a rollout stopped", exc_info=error)

"""The home region's loop over the bucket `models`: a pushed prefix becomes a revision, or is refused.

Level-triggered: a change only says *look again*. What was decided about a listing is written down with the
listing's fingerprint, so a restart neither decides again nor forgets what it told.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from regions.map.region import ModelFault
from regions.nodes.client import NodeError
from regions.objects.changes import follow
from regions.objects.ledger import misplaced_folder, model_below
from regions.objects.pointer import Judged, PointerError, Status
from regions.push.commit import Complete, Patience, Refused, Waiting, judge
from regions.push.fit import misfit, misplaced
from regions.push.folder import MANIFEST, STATUS, left_out
from regions.push.prefix import Prefix, fingerprint
from regions.push.seal import ChangedError
from regions.rollout.loops import KeyedLoops
from storage.client.sdk import NotFound, PreconditionFailed, StoreError
from weights_cache.model.revision import RevisionError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from regions.nodes.client import Inspected, Node
    from regions.objects.changes import Feed
    from regions.objects.ledger import Ledger
    from regions.objects.store import Store
    from regions.push.commit import Verdict
    from regions.push.folder import Listed
    from regions.push.seal import Sealer
    from weights_cache.model.revision import LeftOut, ModelFacts, Revision, Spec

log = logging.getLogger("nearfield.regions")

RETRY_S = 0.5  # after a store or a node did not answer
MAX_RETRY_S = 30.0  # the pause doubles up to this
TELL_WAITING_S = 20.0  # a push that waits for less is simply under way
COMMITS_AT_ONCE = 2  # verified reads share the home store's disk and the hashing cores
MISPLACED = ModelFault(
    "bad_prefix",
    "a model lies at org/name/ in this bucket, these files lie at name/",
    "push them to models/ORG/NAME/",
)


class Audience(Protocol):
    """Who is told what became of a push: the region's controller."""

    def refused(
        self,
        model: str,
        fault: ModelFault | None,
        left_out: Sequence[LeftOut],
        *,
        is_moved_since: bool = False,
    ) -> None:
        """The newest push of a model is refused, and the pointer was moved after it or not; None: no longer."""

    def committed(self, model: str, revision: Revision) -> None:
        """A model's pointer has moved to that revision."""


@dataclass(slots=True)
class Watched:
    """What the loop knows of one prefix. `mark` is its fingerprint, unchanged since `since_s` (monotonic)."""

    prefix: Prefix
    mark: str = ""
    since_s: float = 0.0
    decided: frozenset[str] | None = None  # fingerprints that were decided upon; None: not read yet
    retry_s: float = RETRY_S


class Ingest:
    """Follows every prefix of the bucket `models` to a verdict."""

    def __init__(
        self,
        store: Store,
        ledger: Ledger,
        sealer: Sealer,
        nodes: Sequence[Node],
        audience: Audience,
        *,
        all_regions: Sequence[str],
        engines: Sequence[str] = (),
        patience: Patience,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._sealer = sealer
        self._nodes = nodes
        self._audience = audience
        self._all_regions, self._engines = all_regions, engines
        self._patience = patience
        self._clock = clock
        self._wall = wall
        self._watched: dict[str, Watched] = {}
        self._gate = asyncio.Semaphore(COMMITS_AT_ONCE)
        self.loops = KeyedLoops("ingest", self.step)

    async def run(self, feed: Feed) -> None:
        """Follows the bucket's changes until cancelled."""
        try:
            await follow(feed, "", self._changed)
        finally:
            await self.loops.close()

    def _changed(self, key: str) -> None:
        model, path = model_below(key)
        if model is not None and path != STATUS:
            self.loops.poke(model)
        elif (folder := misplaced_folder(key)) is not None:
            self.loops.poke(folder)

    async def step(self, model: str) -> float | None:
        """Looks at one prefix and does what it calls for. Seconds until the next look, or None."""
        if "/" not in model:
            await self._tell(model, Status("refused", fault=MISPLACED))
            return None
        watched = self._watched.setdefault(model, Watched(Prefix(self._store, model)))
        try:
            again_s = await self._look(watched)
        except (ChangedError, PreconditionFailed, NotFound):
            return self._patience.quiet_s
        except NodeError as error:
            if self._clock() - watched.since_s >= TELL_WAITING_S:
                await self._tell(model, Status("waiting", fault=error.fault))
            return self._backoff(watched, str(error))
        except (StoreError, PointerError) as error:
            return self._backoff(watched, str(error))
        watched.retry_s = RETRY_S
        return again_s

    def _backoff(self, watched: Watched, cause: str) -> float:
        log.warning("ingest of %s waits: %s", watched.prefix.model, cause)
        again_s, watched.retry_s = watched.retry_s, min(2 * watched.retry_s, MAX_RETRY_S)
        return again_s

    async def _look(self, watched: Watched) -> float | None:
        listing = await watched.prefix.listing()
        mark, now_s = fingerprint(listing), self._clock()
        if mark != watched.mark:
            watched.mark, watched.since_s = mark, now_s
            self._audience.refused(watched.prefix.model, None, ())  # that was about other bytes
        if watched.decided is None:
            watched.decided = await self._recall(watched.prefix.model, mark)
        if not listing:
            await self._gone(watched)
            return None
        if mark in watched.decided:
            return None
        quiet_for_s = now_s - watched.since_s
        if quiet_for_s < self._patience.quiet_s and MANIFEST not in {each.path for each in listing}:
            return self._patience.quiet_s - quiet_for_s
        return await self._act(
            watched, listing, await self._verdict(watched, listing, quiet_for_s), quiet_for_s
        )

    async def _recall(self, model: str, mark: str) -> frozenset[str]:
        """What was decided before this process began; a refusal that still holds is told again."""
        found = await self._ledger.pointer(model)
        judged = await self._ledger.judged(model)
        if judged is not None and judged.fault is not None and judged.fingerprint == mark:
            moved = found is not None and judged.serial is not None and found[0].serial > judged.serial
            self._audience.refused(model, judged.fault, judged.left_out, is_moved_since=moved)
            await self._tell(model, Status("refused", fault=judged.fault, left_out=judged.left_out))
        marks = (found[0].fingerprint if found else "", judged.fingerprint if judged else "")
        return frozenset(each for each in marks if each)

    async def _verdict(self, watched: Watched, listing: Sequence[Listed], quiet_for_s: float) -> Verdict:
        return judge(
            listing,
            await watched.prefix.bytes_of(listing),
            quiet_for_s=quiet_for_s,
            patience=self._patience,
            all_regions=self._all_regions,
            engines=self._engines,
            unfinished=await watched.prefix.unfinished(listing, self._wall()),
        )

    async def _act(
        self, watched: Watched, listing: Sequence[Listed], verdict: Verdict, quiet_for_s: float
    ) -> float | None:
        model = watched.prefix.model
        if isinstance(verdict, Waiting):
            if quiet_for_s >= TELL_WAITING_S:
                await self._tell(model, Status("waiting", fault=ModelFault("incomplete", verdict.reason, "")))
            return verdict.retry_s
        if isinstance(verdict, Complete):
            async with self._gate:
                verdict = await self._commit(watched, listing, verdict)
        if isinstance(verdict, Refused):
            await self._refuse(watched, verdict)
        return None

    async def _commit(
        self, watched: Watched, listing: Sequence[Listed], complete: Complete
    ) -> Complete | Refused:
        """Commits, or says why not. Raises ChangedError, NodeError when no node can answer, StoreError."""
        model = watched.prefix.model
        try:
            inspected = await self._inspect(model, complete)
            complete = replace(complete, left_out=left_out((), complete.left_out + inspected.left_out))
            await self._check_fit(inspected.facts, complete.spec)
            revision = await self._sealer.commit(watched.prefix, listing, complete, inspected.facts)
        except NodeError as error:
            if error.passing:
                raise
            return _refused(error.fault, complete)
        except RevisionError as error:
            next_step = "save the model again with save_pretrained and push it"
            return _refused(ModelFault("bad_model", str(error), next_step), complete)
        watched.decided = frozenset((watched.mark,))
        self._audience.refused(model, None, ())
        self._audience.committed(model, revision)
        await self._ledger.keep_judged(Judged(model, watched.mark))
        return complete

    async def _inspect(self, model: str, complete: Complete) -> Inspected:
        """What the first node that answers says. Raises NodeError."""
        files = [{"path": each.path, "size": each.size, "etag": each.etag} for each in complete.files]
        tensors = [
            {"name": each.name, "dtype": each.dtype, "shape": list(each.shape)}
            for _, header in complete.weights
            for each in header.tensors
        ]
        failure = NodeError(
            ModelFault("no_node", "no node of the home region answers", "start one"), passing=True
        )
        for node in self._nodes:
            try:
                return await node.inspect("models", f"{model}/", files, tensors, complete.spec.quantize)
            except NodeError as error:
                if not error.passing:
                    raise
                failure = error
        raise failure

    async def _check_fit(self, facts: ModelFacts, spec: Spec) -> None:
        """Raises NodeError: `bad_model_toml`, `does_not_fit`, or passing when no node says what it has."""
        if (fault := misplaced(facts, spec)) is not None:
            raise NodeError(fault, passing=False)
        budgets = []
        for node in self._nodes:
            try:
                budgets.append((await node.status()).budget_bytes)
            except NodeError as error:
                log.info("no budget from %s: %s", node.address, error)
        fault = misfit(facts, budgets, spec)
        if fault is not None:
            raise NodeError(fault, passing=not budgets)

    async def _refuse(self, watched: Watched, refused: Refused) -> None:
        model = watched.prefix.model
        fault = ModelFault(refused.code, refused.message, refused.next_step)
        found = await self._ledger.pointer(model)  # now: whoever hears of it may move it
        serial = found[0].serial if found else 0
        log.info("refused %s: %s", model, refused.message)
        self._audience.refused(model, fault, refused.left_out)
        await self._tell(model, Status("refused", fault=fault, left_out=refused.left_out))
        await self._ledger.keep_judged(Judged(model, watched.mark, fault, refused.left_out, serial))
        watched.decided = frozenset((watched.mark,))

    async def _gone(self, watched: Watched) -> None:
        """An empty prefix: nothing is told about it any more, unless a committed revision still is."""
        model = watched.prefix.model
        self._audience.refused(model, None, ())
        await self._ledger.drop_judged(model)
        if await self._ledger.pointer(model) is None:
            await self._ledger.untell(model)
        self._watched.pop(model, None)

    async def _tell(self, model: str, status: Status) -> None:
        try:
            await self._ledger.tell(model, status)
        except StoreError as error:
            log.warning("the status of %s was not written: %s", model, error)


def _refused(fault: ModelFault, complete: Complete) -> Refused:
    return Refused(fault.code, fault.message, fault.next, complete.left_out)

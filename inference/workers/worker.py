"""One worker: a revision's engine process from its load to its end, moved only by the table in `workers.py`."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inference.api.sequences import ModelLimits
from inference.workers.board import Board, LoadFailure
from inference.workers.engines import Load
from inference.workers.life import Act, Event, State, Tenancy, move
from inference.workers.loading import LoadReport, Room, is_short, stopped, unreadable
from inference.workers.pulse import GIVEN_UP, Pulse, patience_s
from inference.workers.resident import OutsideModel, Resident, ResidentModel, not_resident
from weights_cache.view import LandingError
from wire.timing import Phases

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from inference.api.modeltext import ModelText, TextShelf
    from inference.link import Message
    from inference.workers.engines import Engine, Maker, Makers
    from inference.workers.seams import Landing, Tier
    from inference.workers.store_threads import StoreThreads
    from weights_cache.revision import Revision

__all__ = ["OutsideModel", "Parts", "ResidentModel", "Worker", "not_resident"]

DRAIN_DEADLINE_S = 60.0
"""Running requests may finish for so long once their worker is to go."""
POLL_S = 0.1
"""Between two looks at how far a landing is."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What every worker of a host is made with."""

    tier: Tier
    makers: Makers
    texts: TextShelf
    threads: StoreThreads


class Worker:
    """One engine process and its requests. `run` is its whole life."""

    def __init__(
        self,
        revision: Revision,
        room: Room,
        board: Board,
        parts: Parts,
        maker: Maker,
        *,
        now: Callable[[], float],
        make_way: Callable[[], Awaitable[bool]],
        asked_at: float | None = None,
    ) -> None:
        """`asked_at`: when the load was asked for, on the clock `now`; what lies between is its queue.

        `make_way`: has the weights of another worker go; False if all that are here are in use.
        """
        self.revision = revision
        self.room = room
        self.board = board
        self.state = State.LOADING
        self.num_served = 0
        self.fell = False
        """Whether it ended, or never began, with nobody having asked it to end."""
        self.ready: Message = {}
        self.report = LoadReport()
        self.gone = asyncio.Event()
        self.maker = maker
        self._parts, self._now, self._make_way = parts, now, make_way
        self._laps = Phases("node", now, asked_at)
        self._model: Resident | None = None
        self._landing: Landing | None = None
        self._engine: Engine | None = None
        self._heard_ready = asyncio.Event()
        self._fatal: Message = {}
        self._failure = stopped()
        self._pulse = Pulse(now())
        self.was_lost = False
        """It could answer, and ended without having been told to."""
        self._num_requests = 0
        self._rested_at = now()

    @property
    def pid(self) -> int | None:
        """The engine's process, once there is one."""
        return self._engine.pid if self._engine else None

    @property
    def stats(self) -> Message:
        """The engine's latest figures."""
        return self._engine.stats if self._engine else {}

    @property
    def num_requests(self) -> int:
        """Requests between `enter` and `leave`."""
        return self._num_requests

    @property
    def idle_s(self) -> float:
        """Seconds without a request; 0 while one runs."""
        return 0.0 if self._num_requests else self._now() - self._rested_at

    @property
    def stalled_s(self) -> float:
        """Seconds without a step beyond what its pace lets expect; 0 while its loop goes on, or waits for weights."""
        if self._engine is not None and self._engine.stalled_s:
            return self._engine.stalled_s  # one that has its own way to tell
        patience = patience_s(self.stats, is_busy=self._num_requests > 0)
        silent_s = self._pulse.silent_s(self._now())
        return silent_s if silent_s > patience and not self._is_landing else 0.0

    @property
    def _is_landing(self) -> bool:
        progress = self._landing.progress() if self._landing else None
        return progress is not None and progress.done_bytes < progress.total_bytes

    def look_after(self) -> None:
        """Ping the engine now and then; end one that has been silent for so long that it will not come back."""
        if self.state is not State.RESIDENT or self._engine is None or not self.ready.get("pongs"):
            return
        is_busy, now = self._num_requests > 0, self._now()
        if self._pulse.is_due(now, is_busy=is_busy):
            self._pulse.asked(now)
            self._engine.ping()
        if self.stalled_s > GIVEN_UP * patience_s(self.stats, is_busy=is_busy):
            self.was_lost = True
            self._happen(Event.FAILED)

    async def metrics(self) -> bytes | None:
        """Its engine's own page of figures, if it has one."""
        return None if self._engine is None else await self._engine.metrics()

    def tenancy(self) -> Tenancy:
        """This worker as the choice of whom to stop sees it."""
        return Tenancy(self.revision.id, self.state, self.room.num_bytes, self.idle_s, self._num_requests)

    def enter(self) -> Resident:
        """A request begins; leave it again with `leave`.

        Raises:
            Refusal: 409 `not_resident`, when requests cannot be taken (any more).
        """
        if self.state is not State.RESIDENT or self._model is None:
            raise not_resident(self.revision.model)
        self._num_requests += 1
        return self._model

    def found(self) -> LoadReport:
        """The load's report, its bytes as they stand now."""
        if self._landing is not None:
            self.report.note_bytes(self._landing)
        return self.report

    async def landed(self) -> LoadReport:
        """The report once its weights are all here, or will not be: its bytes are what was really read and found."""
        while self._is_landing:  # noqa: ASYNC110 - threads land it, and have no event of this loop
            await asyncio.sleep(POLL_S)
        return self.found()

    def leave(self) -> None:
        """A request has ended, one way or another; the last one of a worker that is to go lets it go."""
        self._num_requests -= 1
        self._rested_at = self._now()
        if self.state is State.DRAINING:
            self._stop()

    async def drain(self, deadline_s: float = DRAIN_DEADLINE_S) -> None:
        """End it: running requests may finish within the deadline. Returns when it is gone."""
        self._happen(Event.DRAIN)
        try:
            async with asyncio.timeout(deadline_s):
                await self.gone.wait()
        except TimeoutError:
            self._happen(Event.OVERDUE)
            await self.gone.wait()

    async def run(self) -> None:
        """Load, serve, end. The board has its last line by then, and nothing is held."""
        try:
            await self._load()
            self._happen(Event.READY)
            await self._until_lost()
        except LoadFailure as failure:
            self._failure = failure  # told once the room it took is free again
        finally:
            self.was_lost = self.was_lost or self.state is State.RESIDENT
            self.fell = self.was_lost or self.state is State.LOADING
            self._happen(Event.FAILED)
            await self._end()
            self._happen(Event.EXITED)

    async def _load(self) -> None:
        laps = self._laps
        laps.mark("queue")
        try:
            async with asyncio.timeout(self.maker.load_deadline_s):
                files = await self._prepare()
                laps.mark("prepare")
                await self._fork(files)
                laps.mark("fork")
                await self._until_ready(files)
        except TimeoutError as cause:
            message = f"the model was not ready within {self.maker.load_deadline_s:g} s"
            raise LoadFailure("load_timeout", message, "look at the node's log") from cause
        if self._landing is None or self._engine is None:
            raise stopped()
        birth = self.maker.birth, self._engine.birth_ms
        self.report.note_ready(self.ready, self._landing, laps.items, birth, sum(laps.items.values()))

    async def _prepare(self) -> Mapping[str, bytes]:
        """Start the landing and read the small files, side by side."""
        self.board.post("fork", 0, 1)
        threads, tier = self._parts.threads, self._parts.tier
        files = asyncio.create_task(threads.call(tier.small_files, self.revision))
        try:
            self._landing = await self._land()
            return await files
        except LandingError as cause:
            raise unreadable(cause) from cause
        finally:
            await _settled(files)

    async def _land(self) -> Landing:
        """The weights, there or on their way. Raises LandingError."""
        while True:
            try:
                return await self._parts.threads.call(self._parts.tier.land, self.revision, pin=True)
            except LandingError as cause:
                if not is_short(cause) or self.state is not State.LOADING or not await self._make_way():
                    raise

    async def _fork(self, files: Mapping[str, bytes]) -> None:
        if self._landing is None or self.state is not State.LOADING:
            raise stopped()
        load = Load(self.revision, self.room, files, self._landing, self._hear, self._note_life)
        self._engine = await self.maker.start(load)

    async def _until_ready(self, files: Mapping[str, bytes]) -> None:
        """Wait for the engine; read the tokenizer meanwhile and say how far the landing is."""
        if self._engine is None:
            raise stopped()
        text = asyncio.create_task(self._parts.texts.text_of(self.revision.id, files))
        ready = asyncio.create_task(self._heard_ready.wait())
        silent = asyncio.create_task(self._engine.until_silent())
        try:
            while not (ready.done() or silent.done() or (text.done() and text.exception())):
                self._post_landing()
                await asyncio.wait({ready, silent}, timeout=POLL_S, return_when=asyncio.FIRST_COMPLETED)
            if silent.done() and not ready.done():
                raise self._why_lost()
            self._laps.mark("engine")
            self._admit(await text, self._engine)
            self._laps.mark("text")
        finally:
            await _settled(ready, silent, text)

    def _admit(self, text: ModelText, engine: Engine) -> None:
        facts = self.revision.facts
        max_len = min(facts.context_tokens, int(self.ready.get("max_len") or facts.max_len))
        limits = ModelLimits(max_len, facts.vocab_size or text.vocabulary.num_ids, facts.eos_token_ids)
        self._model = engine.resident(self.revision, text, limits)

    def _post_landing(self) -> None:
        progress = self._landing.progress() if self._landing else None
        if progress is not None and progress.done_bytes < progress.total_bytes:
            self.board.post("fetch", progress.done_bytes, progress.total_bytes, progress.eta_s)

    async def _until_lost(self) -> None:
        if self._engine is not None:
            await self._engine.until_silent()

    async def _end(self) -> None:
        """Wait for the process, then give everything back.

        And let go of the landing: a worker is part of cycles, and what the garbage collector finds it frees in the
        event loop, where a gigabyte of weights stops everything for as long as the kernel takes (0.6 s and more).
        """
        if self._engine is not None:
            await self._engine.ended()
            await self._engine.close()
        self.found()
        landing, self._landing = self._landing, None
        if landing is not None:
            await asyncio.to_thread(landing.release)

    def _note_life(self) -> None:
        self._pulse.heard(self._now())

    def _hear(self, message: Message) -> None:
        """What the engine says of itself."""
        match message.get("op"):
            case "ready":
                self.ready = message
                self._heard_ready.set()
            case "progress":
                self.board.post(
                    str(message.get("phase")), int(message.get("done") or 0), int(message.get("total") or 0)
                )
            case "fatal":
                self._fatal = message
            case "stats":  # the calls keep them; whose request is answered now may have the report already
                self.report.note_stats(message)
            case _:
                pass  # a pong has said all

    def _why_lost(self) -> LoadFailure:
        error = self._landing.error if self._landing else None
        if isinstance(error, LandingError):
            return unreadable(error)
        if self.state is not State.LOADING:
            return stopped()
        why, fatal = self._fatal.get("message") or "its process ended before it was ready", self._fatal
        return LoadFailure(
            str(fatal.get("failure") or "engine_failed"),
            f"the engine did not start: {why}",
            str(fatal.get("next") or "look at the node's log"),
        )

    def _happen(self, event: Event) -> None:
        self.state, acts = move(self.state, event)
        for act in acts:
            self._act(act)

    def _act(self, act: Act) -> None:
        match act:
            case Act.ANNOUNCE:
                self._rested_at = self._now()
                self.board.finish(self.report.line())
            case Act.STOP:
                self._stop()
            case Act.KILL if self._engine is not None:
                self._engine.kill()
            case Act.FAIL_CALLS if self._engine is not None:
                self._engine.fail_all()
            case Act.RELEASE:
                self._model = None
                self.board.finish(self._failure.line())
                self.gone.set()
            case _:
                pass  # there is no process yet: the load sees the state at its next step

    def _stop(self) -> None:
        """Have the engine exit, once no request is on it: one that has entered may not have sent its order yet."""
        if self._engine is not None and not self._num_requests:
            self._engine.stop()


async def _settled(*tasks: asyncio.Task[Any]) -> None:
    """End tasks whose outcome is not wanted any more, without leaving one unlooked at."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()

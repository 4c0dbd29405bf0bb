"""The start of one worker: its weights land, its engine is forked, and what it says is heard from then on."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inference.api.answer.sequences import ModelLimits
from inference.workers.board import Board, LoadFailure
from inference.workers.engines.protocols import Load
from inference.workers.loading import LoadReport, Room, is_short, stopped, unreadable
from inference.workers.vigil import LIFELESS_S, Vigil
from weights_cache.memory.view import LandingError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from inference.api.modeltext import ModelText, TextShelf
    from inference.link import Message
    from inference.workers.engines.protocols import Engine, Maker, Makers
    from inference.workers.entry.resident import Resident
    from inference.workers.seams import Landing, LandingProgress, Tier
    from inference.workers.store_threads import StoreThreads
    from weights_cache.model.revision import Revision
    from wire.timing import Phases

POLL_S = 0.1
"""Between two looks at how far a landing is."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What every worker of a host is made with."""

    tier: Tier
    makers: Makers
    texts: TextShelf
    threads: StoreThreads


class Start:
    """One revision's. `engine` and `landing` are there once they are; `end` gives both back."""

    def __init__(
        self,
        revision: Revision,
        room: Room,
        board: Board,
        parts: Parts,
        maker: Maker,
        laps: Phases,
        *,
        is_wanted: Callable[[], bool],
        make_way: Callable[[], Awaitable[bool]],
        note_life: Callable[[], None],
    ) -> None:
        """`is_wanted`: False once the worker was told to end before it could answer.

        `make_way`: has the weights of another worker go; False if all that are here are in use. `note_life`: called
        whenever the engine says something.
        """
        self.report = LoadReport()
        self.ready: Message = {}
        self.landing: Landing | None = None
        self.engine: Engine | None = None
        self.lack: LoadFailure | None = None
        """Why weights did not come for which an engine waited that had begun before them."""
        self._revision, self._room, self._board = revision, room, board
        self._parts, self._maker, self._laps = parts, maker, laps
        self._is_wanted, self._make_way, self._note_life = is_wanted, make_way, note_life
        self._heard_ready = asyncio.Event()
        self._fatal: Message = {}
        self._num_heard = 0

    def found(self) -> LoadReport:
        """The load's report, its bytes as they stand now."""
        if self.landing is not None:
            self.report.note_bytes(self.landing)
        return self.report

    async def landed(self) -> LoadReport:
        """The report once its weights are all here, or will not be: its bytes are what was really read and found."""
        while self.on_its_way is not None:  # noqa: ASYNC110 - threads land it, and have no event of this loop
            await asyncio.sleep(POLL_S)
        return self.found()

    @property
    def on_its_way(self) -> LandingProgress | None:
        """How far the weights are, while bytes of them are still to come."""
        progress = self.landing.progress() if self.landing else None
        return progress if progress is not None and progress.done_bytes < progress.total_bytes else None

    async def run(self) -> Resident:
        """From nothing to a model that answers, with its report.

        Raises:
            LoadFailure: it could not be loaded, or is not wanted any more.
        """
        laps = self._laps
        laps.mark("queue")
        try:
            async with asyncio.timeout(self._maker.load_deadline_s) as limit:
                files = await self._prepare()
                laps.mark("prepare")
                await self._fork(files)
                laps.mark("fork")
                if self.engine is not None and self.engine.signs is not None:
                    limit.reschedule(None)
                model = await self._until_ready(files)
        except TimeoutError as cause:
            message = f"the model was not ready within {self._maker.load_deadline_s:g} s"
            raise LoadFailure("load_timeout", message, "look at the node's log") from cause
        if self.landing is None or self.engine is None:
            raise stopped()
        birth = self._maker.birth, self.engine.birth_ms
        self.report.note_ready(self.ready, self.landing, laps.items, birth, sum(laps.items.values()))
        return model

    async def _prepare(self) -> Mapping[str, bytes]:
        """Start the landing and read the small files, side by side."""
        self._board.post("fork", 0, 1)
        threads, tier = self._parts.threads, self._parts.tier
        files = asyncio.create_task(threads.call(tier.small_files, self._revision))
        try:
            self.landing = await self._land()
            return await files
        except LandingError as cause:
            raise unreadable(cause) from cause
        finally:
            await _settled(files)

    async def _land(self) -> Landing:
        """The weights, there or on their way. Raises LandingError."""
        while True:
            try:
                return await self._parts.threads.call(self._parts.tier.land, self._revision, pin=True)
            except LandingError as cause:
                if not is_short(cause) or not self._is_wanted() or not await self._make_way():
                    raise

    async def _fork(self, files: Mapping[str, bytes]) -> None:
        if self.landing is None or not self._is_wanted():
            raise stopped()
        load = Load(self._revision, self._room, files, self.landing, self.hear, self._note_life)
        self.engine = await self._maker.start(load)

    async def _until_ready(self, files: Mapping[str, bytes]) -> Resident:
        """Wait for the engine; read the tokenizer meanwhile and say how far the landing is."""
        if self.engine is None:
            raise stopped()
        text = asyncio.create_task(self._parts.texts.text_of(self._revision.id, files))
        ready = asyncio.create_task(self._heard_ready.wait())
        silent = asyncio.create_task(self.engine.until_silent())
        vigil = Vigil(asyncio.get_running_loop().time())
        try:
            while not (ready.done() or silent.done() or (text.done() and text.exception())):
                self._post_landing()
                self._check_life(vigil)
                await asyncio.wait({ready, silent}, timeout=POLL_S, return_when=asyncio.FIRST_COMPLETED)
            if silent.done() and not ready.done():
                raise self._why_lost()
            self._laps.mark("engine")
            model = self._resident(await text, self.engine)
            self._laps.mark("text")
            return model
        finally:
            await _settled(ready, silent, text)

    def _check_life(self, vigil: Vigil) -> None:
        """Raises LoadFailure: the engine's process has done nothing for too long, and had nothing to wait for.

        While weights are on their way it may rightly do nothing; how long a store may be silent the landing knows.
        """
        signs, now = None if self.engine is None else self.engine.signs, asyncio.get_running_loop().time()
        if signs is None:
            return
        moved = now if self.on_its_way else (signs, self._num_heard)
        if vigil.look(moved, now) >= LIFELESS_S:
            message = f"its engine did nothing for {LIFELESS_S:g} s before it was ready"
            raise LoadFailure("load_timeout", message, "it is tried again; look at the node's log")

    def _resident(self, text: ModelText, engine: Engine) -> Resident:
        facts = self._revision.facts
        max_len = min(facts.context_tokens, int(self.ready.get("max_len") or facts.max_len))
        limits = ModelLimits(max_len, facts.vocab_size or text.vocabulary.num_ids, facts.eos_token_ids)
        return engine.resident(self._revision, text, limits)

    def _post_landing(self) -> None:
        progress = self.on_its_way
        if progress is not None:
            self._board.post("fetch", progress.done_bytes, progress.total_bytes, progress.eta_s)

    async def end(self) -> None:
        """Wait for the process, then give everything back.

        And let go of the landing: this is part of cycles, and what the garbage collector finds it frees in the
        event loop, where a gigabyte of weights stops everything for as long as the kernel takes (0.6 s and more).
        """
        if self.engine is not None:
            await self.engine.ended()
            await self.engine.close()
        self.found()
        landing, self.landing = self.landing, None
        if landing is not None:
            self.lack = unreadable(landing.error) if isinstance(landing.error, LandingError) else None
            await asyncio.to_thread(landing.release)

    def hear(self, message: Message) -> None:
        """What the engine says of itself."""
        self._num_heard += 1
        match message.get("op"):
            case "ready":
                self.ready = message
                self._heard_ready.set()
            case "progress":
                self._board.post(
                    str(message.get("phase")), int(message.get("done") or 0), int(message.get("total") or 0)
                )
            case "fatal":
                self._fatal = message
            case "stats":  # the calls keep them; whose request is answered now may have the report already
                self.report.note_stats(message)
            case _:
                pass  # a pong has said all

    def _why_lost(self) -> LoadFailure:
        error = self.landing.error if self.landing else None
        if isinstance(error, LandingError):
            return unreadable(error)
        if not self._is_wanted():
            return stopped()
        why, fatal = self._fatal.get("message") or "its process ended before it was ready", self._fatal
        return LoadFailure(
            str(fatal.get("failure") or "engine_failed"),
            f"the engine did not start: {why}",
            str(fatal.get("next") or "look at the node's log"),
        )


async def _settled(*tasks: asyncio.Task[Any]) -> None:
    """End tasks whose outcome is not wanted any more, without leaving one unlooked at."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()

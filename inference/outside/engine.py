"""One external engine of one revision: from its weights' folder to its end. Fits `workers.engines.protocols.Engine`.

    landing whole -> folder -> prepare -> spawn -> health good -> first request -> ready -> looked at until it ends

Its process runs under a keeper, so whatever ends it, or the node, ends all that it started.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from typing import TYPE_CHECKING, Any

from inference.outside.door import Door
from inference.outside.first import LOG_HAS_MORE, first_request
from inference.outside.folder import make_folder
from inference.outside.site import Site
from inference.workers.board import LoadFailure
from inference.workers.entry.resident import OutsideModel
from weights_cache.memory.view import LandingError

if TYPE_CHECKING:
    from pathlib import Path

    from inference.api.answer.sequences import ModelLimits
    from inference.api.modeltext import ModelText
    from inference.link import Message
    from inference.outside.definition import Definition
    from inference.outside.folder import WeightsFolder
    from inference.outside.process import KeptProcess
    from inference.workers.engines.protocols import Load
    from weights_cache.model.revision import Revision

FIRST_LOOK_S, LAST_LOOK_S = 0.05, 0.5
"""Between two looks at a server that starts; imports take seconds."""
LANDING_LOOK_S = 0.2
"""Between two looks whether a load is still wanted, while its bytes come."""
NUM_BAD_LOOKS = 3
"""Failed looks at `health` in a row, with nothing else heard, before an engine counts as hung. One that has requests
may be busy with a long prompt, which in some servers holds up `health` too: it has `stall_s`."""
METRICS_S = 2.0

log = logging.getLogger("nearfield.engines")


class OutsideEngine:
    """`start` begins; everything it holds is given back by the time `ended` returns."""

    def __init__(self, made: Definition, load: Load, place: Path, took_s: dict[str, float]) -> None:
        """`took_s`: what the last start of each revision took, from its first process until it was ready."""
        self.birth_ms = 0.0
        self._bad_since: float | None = None
        self._made, self._load, self._took_s = made, load, took_s
        self._site = Site(made, load.revision, load.room.num_threads, place)
        self._phases: dict[str, float] = {}
        self._folder: WeightsFolder | None = None
        self._process: KeptProcess | None = None
        self._door: Door | None = None
        self._is_unwanted = False
        self._task = asyncio.create_task(self._live())

    @property
    def pid(self) -> int | None:
        """See `Engine`: its keeper's."""
        return self._process.pid if self._process else None

    @property
    def stats(self) -> Message:
        """See `Engine`: how many are inside, and how many wait to be."""
        door = self._door
        running, waiting = (door.num_open, door.entrance.num_waiting) if door else (0, 0)
        return {"op": "stats", "running": running, "waiting": waiting}

    @property
    def stalled_s(self) -> float:
        """See `Engine`: from the last good look at `health` on."""
        if self._bad_since is None or self._door is None:
            return 0.0
        return self._door.now() - self._bad_since

    def ping(self) -> None:
        """See `Engine`: it is asked by `health`."""

    def resident(self, revision: Revision, text: ModelText, limits: ModelLimits) -> OutsideModel:
        """See `Engine`."""
        if self._door is None:
            raise LoadFailure("engine_failed", "the engine ended as it became ready", "it is tried again")
        return OutsideModel(revision, text, limits, self._door)

    @property
    def signs(self) -> None:
        """See `Engine`: its start has a deadline of its own, and its health is asked for."""

    async def until_silent(self) -> None:
        """See `Engine`."""
        await asyncio.wait({self._task})

    def stop(self) -> None:
        """See `Engine`."""
        if self._process is not None:
            self._process.stop()

    def kill(self) -> None:
        """See `Engine`."""
        if not self._is_unwanted:
            self._is_unwanted = True
            self._task.cancel()

    def fail_all(self) -> None:
        """See `Engine`: a connection that breaks is each request's own error."""
        if self._door is not None:
            self._door.cut()

    async def ended(self) -> None:
        """See `Engine`."""
        await asyncio.wait({self._task})

    async def close(self) -> None:
        """See `Engine`: no more is left by then than the landing."""
        del self._load

    async def metrics(self) -> bytes | None:
        """Its own page of figures, if it has one and gives it now."""
        if self._door is None or not self._made.metrics:
            return None
        return await self._door.get(self._made.metrics, METRICS_S, max_bytes=1 << 20)

    async def _live(self) -> None:
        try:
            await self._start()
            await self._look_after()
        except LoadFailure as failure:
            log.warning("%s: %s; its last lines: %s", self._made.name, failure.message, self._last_words())
            fatal = {"failure": failure.code, "message": failure.message, "next": failure.next_step}
            self._load.hear({"op": "fatal", **fatal})
        except LandingError:
            pass  # the worker says so: the landing has the reason
        finally:
            self._bad_since = None
            await self._end()

    async def _start(self) -> None:
        await self._make_folder()
        began = time.perf_counter()
        telling = asyncio.create_task(self._tell(began))
        try:
            async with asyncio.timeout(self._made.start_deadline_s):
                await self._prepare()
                await self._spawn()
                await self._until_healthy()
                await self._warm()
        except TimeoutError as cause:
            message = (
                f"{self._made.name} was not ready within start_deadline_s = {self._made.start_deadline_s:g}"
            )
            raise LoadFailure("load_timeout", message, "look at the node's log, or give it longer") from cause
        finally:
            telling.cancel()
        self._took_s[self._load.revision.id] = time.perf_counter() - began
        copied_bytes = self._folder.copied_bytes if self._folder else 0
        figures = {"slots": self._made.max_requests, "copied_bytes": copied_bytes, "phases": self._phases}
        self._load.hear({"op": "ready", **figures})

    async def _make_folder(self) -> None:
        """Wait for every byte, then lay the files out. Raises LandingError, LoadFailure."""
        landing, began = self._load.landing, time.perf_counter()
        while not await asyncio.to_thread(landing.wait, LANDING_LOOK_S):
            pass
        self._lap("wait", began)
        began = time.perf_counter()
        making = asyncio.to_thread(self._lay_out)
        try:
            self._folder = await _finished(making)
        except OSError as cause:
            raise LoadFailure(
                "memory_short", f"no room for the weights: {cause}", "give the node memory"
            ) from cause
        if not self._folder.linked_bytes:
            await asyncio.to_thread(
                landing.release
            )  # the files are copies: the landing may go when room is short
        self._lap("folder", began)

    def _lay_out(self) -> WeightsFolder:
        self._site.work.mkdir(parents=True, mode=0o700)
        load = self._load
        return make_folder(self._site.model, load.revision, load.landing, load.files)

    async def _prepare(self) -> None:
        """Run the operator's own step before the server, such as a converter."""
        if not self._made.prepare:
            return
        began = time.perf_counter()
        process = self._process = await self._site.start(self._made.prepare, {})
        if (status := await asyncio.shield(process.exited)) != 0:
            message = f"{self._made.name}: prepare ended with status {status}"
            raise LoadFailure("engine_failed", message, "the node's log has its last lines")
        self._lap("convert", began)

    async def _spawn(self) -> None:
        began = time.perf_counter()
        address, pool = self._site.address()
        self._process = await self._site.start(self._made.words, address)
        served = self._site.filled((self._made.model_name,), address)[0]
        self._door = Door(self._made, self._load.revision.model, served, str(self._site.model), pool)
        self.birth_ms = (time.perf_counter() - began) * 1000

    async def _until_healthy(self) -> None:
        began, pause_s = time.perf_counter(), FIRST_LOOK_S
        while not await self._is_healthy():
            await self._sleep(pause_s)
            pause_s = min(pause_s * 1.5, LAST_LOOK_S)
        self._lap("load", began)

    async def _warm(self) -> None:
        revision, began = self._load.revision, time.perf_counter()
        if self._door is not None and self._process is not None:
            is_asked = await first_request(self._door, self._made, revision)
            if is_asked:
                self._lap("warm", began)

    async def _look_after(self) -> None:
        """Look at its health until it ends, or has hung."""
        num_bad, door, process = 0, self._door, self._process
        while door is not None and process is not None:
            looked_at = door.now()
            await asyncio.wait({process.exited}, timeout=self._made.check_s)
            if process.exited.done():
                return
            good = await self._is_healthy() or door.heard_at > looked_at
            num_bad = 0 if good else num_bad + 1
            if good and not door.has_hung:
                self._bad_since = None
            elif self._bad_since is None:
                self._bad_since = looked_at
            if (num_bad >= NUM_BAD_LOOKS and not door.may_be_busy) or door.has_hung:
                raise LoadFailure("engine_failed", f"{self._made.name} has hung and is ended", LOG_HAS_MORE)

    async def _end(self) -> None:
        """Nothing of it is left when this returns."""
        self._is_unwanted = True
        if self._door is not None:
            await self._door.close()
        if self._process is not None:
            self._process.kill()
            await asyncio.wait({self._process.exited})
        await asyncio.to_thread(self._clear)

    def _clear(self) -> None:
        if self._folder is not None:
            self._folder.close()
        shutil.rmtree(self._site.path, ignore_errors=True)

    async def _is_healthy(self) -> bool:
        return (
            self._door is not None and await self._door.get(self._made.health, self._made.check_s) is not None
        )

    async def _sleep(self, pause_s: float) -> None:
        """Raises LoadFailure: it ended meanwhile."""
        if self._process is None:
            return
        await asyncio.wait({self._process.exited}, timeout=pause_s)
        if self._process.exited.done():
            message = (
                f"{self._made.name} ended with status {self._process.exited.result()} before it was ready"
            )
            raise LoadFailure("engine_failed", message, LOG_HAS_MORE)

    async def _tell(self, began: float) -> None:
        """Say once a second that it starts: whoever waits would think it dead."""
        while True:
            spent_s = time.perf_counter() - began
            whole_s = self._took_s.get(self._load.revision.id, self._made.start_deadline_s)
            done = int(1000 * min(spent_s, whole_s))
            self._load.hear({"op": "progress", "phase": "load", "done": done, "total": int(1000 * whole_s)})
            await asyncio.sleep(1.0)

    def _lap(self, name: str, began: float) -> None:
        self._phases[name] = (time.perf_counter() - began) * 1000

    def _last_words(self) -> str:
        return self._process.last_words() if self._process else ""


async def _finished(work: Any) -> Any:
    """Await what runs in a thread to its end even when cancelled, so that nothing it made is lost."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled() and task.exception() is None:
            task.result().close()
        raise

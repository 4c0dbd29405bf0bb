"""One worker: a revision's engine process from its load to its end, moved only by the table in `life.py`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from inference.workers.board import Board, LoadFailure
from inference.workers.engines.pulse import GIVEN_UP, Pulse, patience_s
from inference.workers.entry.resident import OutsideModel, Resident, ResidentModel, not_resident
from inference.workers.loading import LoadReport, Room, stopped
from inference.workers.residency.life import Act, Event, State, Tenancy, move
from inference.workers.start import Start
from inference.workers.vigil import LIFELESS_S, Vigil
from wire.timing import Phases

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from inference.link import Message
    from inference.workers.engines.protocols import Maker
    from inference.workers.seams import LandingProgress
    from inference.workers.start import Parts
    from weights_cache.model.revision import Revision

__all__ = ["OutsideModel", "ResidentModel", "Worker", "not_resident"]

DRAIN_DEADLINE_S = 60.0
"""Running requests may finish for so long once their worker is to go."""


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
        self.gone = asyncio.Event()
        self.maker = maker
        self._now = now
        self._model: Resident | None = None
        self._failure = stopped()
        self._pulse = Pulse(now())
        self._vigil = Vigil(now())  # of one whose steps are not measured yet it knows sooner
        self._num_heard = 0
        self._start = Start(
            *(revision, room, board, parts, maker, Phases("node", now, asked_at)),
            is_wanted=lambda: self.state is State.LOADING,
            make_way=make_way,
            note_life=self._note_life,
        )
        self.report = self._start.report
        self.was_lost = False
        """It could answer, and ended without having been told to."""
        self._num_requests = 0
        self._rested_at = now()

    @property
    def pid(self) -> int | None:
        """The engine's process, once there is one."""
        return self._start.engine.pid if self._start.engine else None

    @property
    def stats(self) -> Message:
        """The engine's latest figures."""
        return self._start.engine.stats if self._start.engine else {}

    @property
    def ready(self) -> Message:
        """What the engine said when it was ready; empty before."""
        return self._start.ready

    def found(self) -> LoadReport:
        """See `Start`."""
        return self._start.found()

    async def landed(self) -> LoadReport:
        """See `Start`."""
        return await self._start.landed()

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
        if self._start.engine is not None and self._start.engine.stalled_s:
            return self._start.engine.stalled_s  # one that has its own way to tell
        patience = patience_s(self.stats, is_busy=self._num_requests > 0)
        silent_s = self._pulse.silent_s(self._now())
        return silent_s if silent_s > patience and self.landing is None else 0.0

    @property
    def lack(self) -> LoadFailure | None:
        """Why weights did not come for which its requests waited; known once it has ended over that."""
        return self._start.lack

    @property
    def landing(self) -> LandingProgress | None:
        """How far its weights are, while they are on their way: requests may be on it already, and wait for them."""
        return self._start.on_its_way

    def look_after(self) -> None:
        """Ping the engine now and then; end one that has been silent for so long that it will not come back."""
        if (
            self.state is not State.RESIDENT
            or self._start.engine is None
            or not self._start.ready.get("pongs")
        ):
            return
        is_busy, now = self._num_requests > 0, self._now()
        if self._pulse.is_due(now, is_busy=is_busy):
            self._pulse.asked(now)
            self._start.engine.ping()
        lifeless_s = self._vigil.look((self._start.engine.signs, self._num_heard), now)
        is_frozen = lifeless_s >= LIFELESS_S and self._pulse.silent_s(now) > 0 and self.landing is None
        if is_frozen or self.stalled_s > GIVEN_UP * patience_s(self.stats, is_busy=is_busy):
            self.was_lost = True
            self._happen(Event.FAILED)

    async def metrics(self) -> bytes | None:
        """Its engine's own page of figures, if it has one."""
        return None if self._start.engine is None else await self._start.engine.metrics()

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
            self._model = await self._start.run()
            self._happen(Event.READY)
            if self._start.engine is not None:
                await self._start.engine.until_silent()
        except LoadFailure as failure:
            self._failure = failure  # told once the room it took is free again
        finally:
            self.was_lost = self.was_lost or self.state is State.RESIDENT
            self.fell = self.was_lost or self.state is State.LOADING
            self._happen(Event.FAILED)
            await self._start.end()
            self._happen(Event.EXITED)

    def _note_life(self) -> None:
        self._num_heard += 1
        self._pulse.heard(self._now())

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
            case Act.KILL if self._start.engine is not None:
                self._start.engine.kill()
            case Act.FAIL_CALLS if self._start.engine is not None:
                self._start.engine.fail_all()
            case Act.RELEASE:
                self._model = None
                self.board.finish(self._failure.line())
                self.gone.set()
            case _:
                pass  # there is no process yet: the load sees the state at its next step

    def _stop(self) -> None:
        """Have the engine exit, once no request is on it: one that has entered may not have sent its order yet."""
        if self._start.engine is not None and not self._num_requests:
            self._start.engine.stop()

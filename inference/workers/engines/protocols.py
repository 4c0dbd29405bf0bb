"""What a worker drives: one running engine, and who starts it. Our own and external ones fit the same two Protocols."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from inference.api.answer.sequences import ModelLimits
    from inference.api.modeltext import ModelText
    from inference.link import Message
    from inference.workers.entry.resident import Resident
    from inference.workers.loading import Room
    from inference.workers.residency.room import Means
    from inference.workers.seams import Landing
    from inference.workers.vigil import Signs
    from weights_cache.model.revision import Revision


@dataclass(frozen=True, slots=True)
class Load:
    """What an engine is started with. `hear` takes what it says of itself: ready, progress, fatal (inference.link).

    `alive` is called whenever it says anything.
    """

    revision: Revision
    room: Room
    files: Mapping[str, bytes]
    landing: Landing
    hear: Callable[[Message], None]
    alive: Callable[[], None]


class Engine(Protocol):
    """One engine of one revision. It is `ready` once `hear` was told so, and ends by `stop`, `kill` or itself."""

    @property
    def pid(self) -> int | None:
        """Its process; None before there is one."""

    @property
    def birth_ms(self) -> float:
        """Milliseconds until its process ran."""

    @property
    def stats(self) -> Message:
        """Its latest figures; may be empty."""

    @property
    def stalled_s(self) -> float:
        """Seconds without a sign of life that it should have given; 0 for one that is asked by `ping`."""

    def ping(self) -> None:
        """Have it say something. Asked only of one whose `ready` has `pongs`."""

    def resident(self, revision: Revision, text: ModelText, limits: ModelLimits) -> Resident:
        """What requests use of it, once it is ready."""

    @property
    def signs(self) -> Signs | None:
        """What tells that it does something before it is ready (`vigil`); None: it has its own way to tell."""

    async def metrics(self) -> bytes | None:
        """Its own page of figures; None if it has none, or does not give it now."""

    async def until_silent(self) -> None:
        """Wait until nothing more will be heard of it."""

    def stop(self) -> None:
        """Have it exit; no request is on it."""

    def kill(self) -> None:
        """End it now."""

    def fail_all(self) -> None:
        """Give each request that runs on it one clean error."""

    async def ended(self) -> None:
        """Wait until its processes are gone."""

    async def close(self) -> None:
        """Give everything back, and hold the landing no longer. Called once, when it has ended."""


class Maker(Protocol):
    """Who starts engines of one kind."""

    @property
    def birth(self) -> str:
        """The name of the phase `birth_ms`: fork or spawn."""

    @property
    def load_deadline_s(self) -> float:
        """Until an engine has begun, and of one without `signs` until it is ready: what takes longer has hung."""

    @property
    def backs_off(self) -> bool:
        """Whether one that fell is started again later each time (`backoff`)."""

    def room(self, revision: Revision, means: Means) -> Room:
        """What an engine of this revision takes. Raises LoadFailure: it does not fit, even alone."""

    async def start(self, load: Load) -> Engine:
        """Start one; what is slow may go on after this returned. Raises LoadFailure, and holds nothing then."""


class Makers(Protocol):
    """The engines that this node has."""

    def of(self, revision: Revision) -> Maker:
        """The one that a revision names, or ours. Raises LoadFailure: there is none of that name."""

"""Requests that wait while their model wakes: a bounded number, each within its time, told how far it is."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from wire.refused.refusal import Refusal
from wire.turnover import Turnover

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from regions.gateway.wake import Wake, Woken
    from regions.map.region import Progress

MAX_HELD: Final = 512  # requests; a herd on one cold model is answered 503 beyond this, and comes back
MAX_HELD_BYTES: Final = 64 << 20  # of their bodies, which stay in memory while they are held
TICK_S: Final = 0.25  # at most four comments a second
REPEAT_S: Final = 1.0  # a comment with nothing new only shows that the connection lives
MIN_RETRY_S: Final = 1.0  # before a client asks again


class Seats:
    """How many requests are held, and how many bytes of bodies."""

    def __init__(self, max_held: int = MAX_HELD, max_bytes: int = MAX_HELD_BYTES) -> None:
        self._max_held = max_held
        self._max_bytes = max_bytes
        self.num_held = 0
        self.num_bytes = 0
        self._turnover = Turnover()

    @contextmanager
    def seat(self, num_bytes: int) -> Iterator[None]:
        """A place for one request with a body of `num_bytes`. Raises Refusal 503 when all are taken."""
        if self.num_held >= self._max_held or self.num_bytes + num_bytes > self._max_bytes:
            text = "Too many requests wait for models that wake; try again shortly."
            wait_s = self._turnover.wait_s()
            raise Refusal(503, "overloaded", text, "server_error", retry_after_s=wait_s)
        self.num_held += 1
        self.num_bytes += num_bytes
        came = time.monotonic()
        try:
            yield
        finally:
            self.num_held -= 1
            self.num_bytes -= num_bytes
            self._turnover.left(time.monotonic() - came)


class Pace:
    """Which progress is worth a comment: what changed, and otherwise one each REPEAT_S. Pure."""

    def __init__(self) -> None:
        self._said: tuple[str, int] | None = None
        self._at = 0.0

    def due(self, progress: Progress, now: float) -> bool:
        """Whether to say it now (s); what is said is remembered."""
        figure = (progress.phase, int(progress.percent))
        if figure == self._said and now - self._at < REPEAT_S:
            return False
        self._said, self._at = figure, now
        return True


def comment(progress: Progress) -> bytes:
    r"""The SSE comment `: nearfield {"phase","percent","eta_s"}`: no event, so it commits nobody."""
    eta_s = None if progress.eta_s is None else round(progress.eta_s, 1)
    said = {"phase": progress.phase, "percent": round(progress.percent), "eta_s": eta_s}
    return f": nearfield {json.dumps(said)}\n\n".encode()


async def wait_awake(wake: Wake, until: float, say: Callable[[Progress], Awaitable[None]] | None) -> Woken:
    """Waits for a wake until loop time `until`; `say` gets the progress at most each TICK_S.

    Raises:
        Refusal: 503 `model_not_ready` when time is up, or why the wake failed. The wake itself goes on.
    """
    loop, pace = asyncio.get_running_loop(), Pace()
    wake.num_waiting += 1
    try:
        while not wake.task.done():
            left_s = until - loop.time()
            if left_s <= 0:
                raise _not_ready(wake)
            await asyncio.wait([wake.task], timeout=min(left_s, TICK_S) if say else left_s)
            if say and not wake.task.done() and pace.due(wake.told(), loop.time()):
                await say(wake.told())
        return wake.task.result()
    finally:
        wake.num_waiting -= 1


def _not_ready(wake: Wake) -> Refusal:
    progress = wake.told()
    text = f"{wake.revision.model} is waking: {progress.phase}, {progress.percent:.0f} %. Ask again shortly."
    retry_s = max(MIN_RETRY_S, progress.eta_s or 0.0)
    return Refusal(503, "model_not_ready", text, "server_error", retry_after_s=retry_s)

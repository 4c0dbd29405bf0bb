"""The pauses of a host's engines that fell: each start waits its own out, unless nobody wants it any more."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from inference.workers.loading import stopped
from inference.workers.residency.backoff import BackOff

if TYPE_CHECKING:
    from collections.abc import Callable

    from inference.workers.board import Board


class Rests:
    """By revision; `now` is any one clock in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._falls: dict[str, BackOff] = {}
        self._pauses: dict[str, asyncio.Event] = {}

    def of(self, revision_id: str) -> BackOff | None:
        """The falls of a revision's engine; None if it has none."""
        return self._falls.get(revision_id)

    def fell(self, revision_id: str, began_at: float) -> None:
        """An engine that began then has fallen now."""
        self._falls.setdefault(revision_id, BackOff()).fell(began_at, self._now())

    def forget(self, revision_id: str) -> None:
        """An engine ended as it was told to."""
        self._falls.pop(revision_id, None)

    def give_up(self, revision_id: str) -> None:
        """The start that waits is not wanted any more, if one does."""
        if (pause := self._pauses.get(revision_id)) is not None:
            pause.set()

    def give_up_all(self) -> None:
        """No start is wanted any more."""
        for pause in self._pauses.values():
            pause.set()

    async def sit_out(self, revision_id: str, board: Board) -> None:
        """Wait until an engine that fell may start again. Raises LoadFailure: it is not wanted any more."""
        fallen = self._falls.get(revision_id)
        if fallen is None or (left_s := fallen.left_s(self._now())) <= 0:
            return
        pause = self._pauses[revision_id] = asyncio.Event()
        try:
            async with asyncio.timeout(left_s):
                board.post("back_off", 0, 1, left_s)
                await pause.wait()
        except TimeoutError:
            return
        finally:
            del self._pauses[revision_id]
        raise stopped()

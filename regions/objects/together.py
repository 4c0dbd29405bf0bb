"""What several followers of one store ask at once is asked once: each answer of a feed goes to all who wait for it.

A region follows four prefixes of one bucket. After the first answer all of them wait behind the same line, and the
store would wake, read and answer four times for each change, and again each time that a wait ends.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from storage.client.sdk import Changes, Entry

    Question = tuple[str, int, float, int]


class Told(Protocol):
    """What a feed needs of a store: see `regions.objects.store.Store`."""

    def list(self, bucket: str, prefix: str = "", *, start_after: str = "") -> AsyncIterator[Entry]:
        """Every object below a prefix, by key."""

    async def changes(self, bucket: str, since: int, *, wait_s: float = 20.0, limit: int = 1000) -> Changes:
        """The lines behind `since`."""


class Together:
    """A store as several feeds ask it."""

    def __init__(self, store: Told) -> None:
        self.list = store.list
        self._store = store
        self._asked: dict[Question, asyncio.Task[Changes]] = {}
        self._num_waiting: Counter[Question] = Counter()

    async def changes(self, bucket: str, since: int, *, wait_s: float = 20.0, limit: int = 1000) -> Changes:
        """See Told. An answer may have been on its way already: what came after is in the next one."""
        question = bucket, since, wait_s, limit
        asked = self._asked.get(question)
        if asked is None:
            asked = asyncio.create_task(self._store.changes(bucket, since, wait_s=wait_s, limit=limit))
            self._asked[question] = asked
            asked.add_done_callback(lambda asked: self._forget(question, asked))
        self._num_waiting[question] += 1
        try:
            return await asyncio.shield(asked)
        finally:
            await self._left(question, asked)

    async def _left(self, question: Question, asked: asyncio.Task[Changes]) -> None:
        """The last one who leaves before there is an answer ends the question."""
        self._num_waiting[question] -= 1
        if not self._num_waiting[question]:
            del self._num_waiting[question]
            if not asked.done():
                self._forget(question, asked)  # who asks from here on asks anew
                asked.cancel()
                await asyncio.wait([asked])

    def _forget(self, question: Question, asked: asyncio.Task[Changes]) -> None:
        if self._asked.get(question) is asked:
            del self._asked[question]

"""What the home's change feed tells of a bucket: which copies are old, and that a key was deleted.

The place in the feed is kept beside the copies, so a store that was down or cut off hears what it missed, deletions
too. When the feed cannot say (it was cut, or the home began anew), every copy is compared with the home once.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from storage.client.answers import Changes, StoreError
from storage.client.feed import FeedReader
from storage.homes.copies import Copies
from storage.homes.facts import Away, Facts

log = logging.getLogger("nearfield.storage")

WAIT_S = 20.0  # of one long poll
PAGE = 1000  # lines asked for at once
PAUSE_S = 0.2  # after a home that did not answer; doubles
MAX_PAUSE_S = 5.0  # a home that comes back is heard within this
LOOKS_AT_ONCE = 8
EXPIRED = "EventsExpired"
START = -1


class Looker(Protocol):
    """Whoever can say what a key is now: `origin.Origin`."""

    async def look(self, bucket: str, key: str) -> Facts | None:
        """What the home has. Raises: Away."""


class Follower:
    """Follows one bucket.

    Attributes:
        heard_s: when (by `clock`) the home last answered; None before it ever did.
    """

    def __init__(
        self,
        bucket: str,
        feed: FeedReader,
        origin: Looker,
        copies: Copies,
        place: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.bucket = bucket
        self.heard_s: float | None = None
        self._feed = feed
        self._origin = origin
        self._copies = copies
        self._place = place
        self._clock = clock
        self._seq = _read_place(place)

    def silent_s(self) -> float | None:
        """How long the home has not answered here; None if it never did."""
        return None if self.heard_s is None else self._clock() - self.heard_s

    async def run(self) -> None:
        """Until cancelled."""
        pause_s = PAUSE_S
        while True:
            try:
                await self.step()
                pause_s = PAUSE_S
            except (StoreError, Away, OSError) as error:
                log.info("no word of bucket %s for %.1f s: %s", self.bucket, pause_s, error)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, MAX_PAUSE_S)

    async def step(self) -> None:
        """One answer of the feed, taken in. Raises: StoreError, Away; OSError if the place cannot be kept."""
        page = await self._read()
        if page is None:
            await self._compare()
        else:
            for line in page.changes:
                self._copies.heard(self.bucket, line.key, line.etag if line.kind == "put" else None)
            self._move(page.seq)
        self.heard_s = self._clock()

    async def _read(self) -> Changes | None:
        """The next lines; None if the feed does not go on from where we are."""
        if self._seq == START:
            return None
        try:
            page = await self._feed.read(self.bucket, self._seq, WAIT_S, PAGE)
        except StoreError as error:
            if error.code != EXPIRED:
                raise
            return None
        return page if page.seq >= self._seq else None

    async def _compare(self) -> None:
        """The feed's end first, then each copy: what happens between them is told again, not missed."""
        head = await self._feed.read(self.bucket, START, 0.0, 1)
        gate = asyncio.Semaphore(LOOKS_AT_ONCE)

        async def one(key: str) -> None:
            async with gate:
                found = await self._origin.look(self.bucket, key)
            self._copies.heard(self.bucket, key, None if found is None else found.etag)

        for end in await asyncio.gather(*map(one, self._copies.keys(self.bucket)), return_exceptions=True):
            if isinstance(end, BaseException):
                raise end
        self._move(head.seq)

    def _move(self, seq: int) -> None:
        """Keep the place, after what it stands for was taken in: again is no harm, never is."""
        if seq == self._seq:
            return
        self._seq = seq
        draft = self._place.with_name(f"{self._place.name}.draft")
        draft.write_text(json.dumps({"seq": seq}))
        draft.rename(self._place)


def _read_place(place: Path) -> int:
    try:
        seq = json.loads(place.read_bytes())["seq"]
    except (OSError, ValueError, KeyError, TypeError):
        return START
    return seq if isinstance(seq, int) else START

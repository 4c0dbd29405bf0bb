"""One version of an object, fetched once for any number of readers (a single flight), who follow its write heads.

The fetching belongs to no reader: whoever goes away, the others go on. A connection that breaks is begun again at
the byte where it broke, of the same version (`If-Match`); after too many breaks in a row the readers hear of it, and
the next reader goes on from what is here. The last missing byte is given out only after the checksum of the whole
object held.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from functools import partial
from typing import Protocol

from storage.homes.facts import Away, Changed, Facts
from storage.homes.landing import Corrupt, Landing, in_thread
from storage.homes.partial import Partial, Piece, joined_crc64
from storage.homes.plan import Claim, Plan
from storage.homes.spans import Spans

log = logging.getLogger("nearfield.storage")

RESUMES = 5  # breaks in a row without a byte in between: the home is away
PAUSE_S = 0.2  # after a break, times the number of breaks in a row


class Home(Protocol):
    """Where the bytes come from: `origin.Origin`."""

    def read(self, facts: Facts, start: int, end: int) -> AsyncIterator[bytes]:
        """Bytes start..end of exactly this version. Raises: Changed, Away."""


class Budget(Protocol):
    """The room for copies: `copies.Copies`."""

    def take(self, num_bytes: int) -> None:
        """Make room. Raises: NoRoom."""

    def give_back(self, num_bytes: int) -> None:
        """What was taken and is not needed."""


class NoRoom(Exception):
    """Every copy that could make way is being read."""


Failure = Changed | Away | NoRoom | Corrupt | OSError


class Copy:
    """One version.

    Attributes:
        num_users: readers that hold it; the registry closes it behind the last one.
        doomed: not to be read any more by anybody who comes now.
        held_bytes: of the budget: what is here, and what is being fetched.
    """

    def __init__(self, partial: Partial, home: Home, budget: Budget, held_bytes: int = 0) -> None:
        self.num_users = 0
        self.doomed = False
        self.held_bytes = held_bytes
        self._partial = partial
        self._home = home
        self._budget = budget
        self._opening = asyncio.Lock()
        self._plan: Plan | None = None
        self._pieces: list[Piece] = []
        self._fetching: dict[int, asyncio.Task[None]] = {}
        self._failure: Failure | None = None
        self._news = asyncio.Event()

    @property
    def facts(self) -> Facts:
        """What the home said last of this version."""
        return self._partial.facts

    @property
    def fd(self) -> int:
        """The file, while somebody uses the copy."""
        return self._partial.fd

    @property
    def is_closed(self) -> bool:
        """True while nothing reads or writes it."""
        return self.num_users == 0 and not self._fetching and self._partial.fd < 0

    def renew(self, facts: Facts) -> None:
        """The same bytes are described anew: other metadata were put with them. Raises: OSError."""
        if facts != self.facts:
            self._partial.describe(facts)

    async def open(self) -> None:
        """Make it readable: what an earlier process left is looked at once. Raises: OSError."""
        async with self._opening:
            self._partial.open()
            if self._plan is None:
                self._pieces = await in_thread(self._left)
                self._plan = Plan(self.facts.size, Spans((piece.start, piece.end) for piece in self._pieces))
                self._give_back(self.held_bytes - self._plan.covered.num_bytes)
            if not self.doomed:
                self._failure = None  # that was told to who read then

    async def close(self) -> None:
        """Stop fetching and let the file go, unless somebody uses it again by now; what is here stays."""
        async with self._opening:
            if self.num_users == 0:
                await self._stop(tuple(self._fetching))
                self._partial.close()

    def remove(self) -> None:
        """Delete it; only when it is closed."""
        self._partial.remove()
        self._give_back(self.held_bytes)

    def _left(self) -> list[Piece]:
        """(A thread) what is sound of what is here; all or nothing if it is whole."""
        pieces = self._partial.sound_pieces()
        is_whole = sum(piece.length for piece in pieces) == self.facts.size
        return [] if is_whole and joined_crc64(pieces) != self.facts.crc64 else pieces

    def _take(self, num_bytes: int) -> None:
        self._budget.take(num_bytes)
        self.held_bytes += num_bytes

    def _give_back(self, num_bytes: int) -> None:
        self._budget.give_back(num_bytes)
        self.held_bytes -= num_bytes

    def reader(self, start: int, end: int) -> "Reader":
        """Somebody who wants bytes start..end, from `open` on."""
        assert self._plan is not None  # noqa: S101 - a type for mypy; `open` makes it
        return Reader(self, self._plan, start, end)

    async def more(self) -> None:
        """Fetch what is wanted, and wait for news of it. Raises: Changed, Away, NoRoom, Corrupt, OSError."""
        news = self._news
        self._fetch_wanted()
        if self._failure is not None:
            raise self._failure
        await news.wait()

    async def stop_unwanted(self) -> None:
        """End the fetching that nobody waits for."""
        if self._plan is not None:
            await self._stop(tuple(self._plan.unwanted()))

    async def _stop(self, claims: tuple[int, ...]) -> None:
        tasks = [self._fetching[each] for each in claims if each in self._fetching]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _fetch_wanted(self) -> None:
        assert self._plan is not None  # noqa: S101 - as above
        while self._failure is None and (claim := self._plan.claim()) is not None:
            try:
                self._take(claim.end - claim.start)
            except NoRoom as error:
                self._plan.ended(claim.number)
                self._fail(error)
                return
            task = asyncio.create_task(self._fetch(self._plan, claim))
            self._fetching[claim.number] = task
            task.add_done_callback(partial(self._ended, self._plan, claim.number))

    async def _fetch(self, plan: Plan, claim: Claim) -> None:
        """Bring a claim, over as many connections as it takes."""
        landing = Landing(self, plan, claim)
        try:
            try:
                await self._bring(landing, claim.end)
            finally:
                landing.seal()
        except (Changed, Away, Corrupt, OSError) as error:
            self._fail(error)

    def _ended(self, plan: Plan, claim: int, _: asyncio.Task[None]) -> None:
        """Behind a fetch, however it ended; also one that was cancelled before it began."""
        self._give_back(plan.ended(claim))
        del self._fetching[claim]
        self.tell()

    async def _bring(self, landing: Landing, end: int) -> None:
        num_breaks = 0
        while landing.at < end:
            before = landing.at
            try:
                async for data in self._home.read(self.facts, landing.at, end):
                    await landing.take(data)
                reason = Away("the answer ended early")
            except Away as error:
                reason = error
            num_breaks = 1 if landing.at > before else num_breaks + 1
            if landing.at < end:
                if num_breaks > RESUMES:
                    raise reason
                log.info("%s/%s goes on at %d: %s", self.facts.bucket, self.facts.key, landing.at, reason)
                await asyncio.sleep(PAUSE_S * num_breaks)

    def write(self, at: int, data: bytes) -> None:
        """(A landing) put bytes in their place. Raises: OSError."""
        self._partial.write(at, data)

    def begin_piece(self, at: int) -> Piece:
        """(A landing) a piece that begins at `at` and will grow."""
        self._pieces.append(Piece(at))
        return self._pieces[-1]

    def keep_piece(self, piece: Piece) -> None:
        """(A landing) a piece that grows no more. Raises: OSError."""
        self._partial.keep_sum(piece)

    def check_whole(self) -> None:
        """(A landing) all bytes are written: do they have the home's checksum? Raises: Corrupt."""
        if joined_crc64(self._pieces) != self.facts.crc64:
            self.doomed = True
            raise Corrupt(f"{self.facts.bucket}/{self.facts.key} does not have its checksum")

    def _fail(self, error: Failure) -> None:
        log.warning("%s/%s is not read through: %s", self.facts.bucket, self.facts.key, error)
        self._failure = error
        self.doomed = self.doomed or isinstance(error, Changed | Corrupt)
        self.tell()

    def tell(self) -> None:
        """(A landing) there are new bytes: wake everybody who waits, and nobody who comes later."""
        news, self._news = self._news, asyncio.Event()
        news.set()


class Reader:
    """One who reads a span in order. `at` is the next byte; it wants nothing before that."""

    def __init__(self, copy: Copy, plan: Plan, start: int, end: int) -> None:
        self.at = start
        self.end = end
        self._copy = copy
        self._plan = plan
        self._number = plan.want(start, end)

    async def reach(self) -> int:
        """Wait until there is a byte at `at`; how many may be read from there. Raises: as `Copy.more`."""
        while not (there := min(self._plan.covered.end_of(self.at), self.end) - self.at):
            await self._copy.more()
        return there

    async def reach_all_kept(self) -> int:
        """As `reach`, while the home is away: all that is to be read must be here. Raises: Away."""
        if self._plan.covered.end_of(self.at) < self.end:
            raise Away("only other parts of this object were read before")
        return self.end - self.at

    def moved(self, num_bytes: int) -> None:
        """So many bytes were read."""
        self.at += num_bytes
        self._plan.moved(self._number, self.at)

    def leave(self) -> None:
        """Nothing more is wanted."""
        self._plan.leave(self._number)

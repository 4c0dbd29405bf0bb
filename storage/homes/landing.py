"""How the bytes of one fetch reach the disk: written, summed and told as they come."""

import asyncio
from collections.abc import Callable
from typing import Protocol, TypeVar

from storage.checksum import crc64nvme
from storage.homes.partial import PIECE_BYTES, Piece
from storage.homes.plan import Claim, Plan

WRITTEN_INLINE_BYTES = 64 * 1024  # above, a thread costs less than a loop that waits for the page cache

T = TypeVar("T")


class Corrupt(Exception):
    """The bytes that came do not have the checksum that the home said."""


class Place(Protocol):
    """Where bytes land: `copy.Copy`."""

    def write(self, at: int, data: bytes) -> None:
        """Put bytes in their place. Raises: OSError."""

    def begin_piece(self, at: int) -> Piece:
        """A piece that begins at `at` and will grow."""

    def keep_piece(self, piece: Piece) -> None:
        """A piece that grows no more. Raises: OSError."""

    def check_whole(self) -> None:
        """All bytes are written: do they have the home's checksum? Raises: Corrupt."""

    def tell(self) -> None:
        """There are new bytes."""


class Landing:
    """What one claim brings, written, summed and told as it comes."""

    def __init__(self, copy: Place, plan: Plan, claim: Claim) -> None:
        self.at = claim.start
        self._copy = copy
        self._plan = plan
        self._claim = claim
        self._piece: Piece | None = None
        self._crc = crc64nvme()

    async def take(self, data: bytes) -> None:
        """The next bytes. Raises: OSError, Corrupt."""
        data = data[: self._claim.end - self.at]
        if len(data) < WRITTEN_INLINE_BYTES:
            self._copy.write(self.at, data)
        else:
            await in_thread(lambda: self._copy.write(self.at, data))
        piece = self._grown(data)
        if self._plan.covered.num_bytes + len(data) == self._plan.size:
            self._copy.check_whole()
        self._plan.landed(self._claim.number, len(data))
        self.at += len(data)
        if piece.length >= PIECE_BYTES:
            self.seal()
        self._copy.tell()

    def seal(self) -> None:
        """Keep the piece's sum; the next bytes begin another one. Raises: OSError."""
        piece, self._piece = self._piece, None
        if piece is not None:
            self._copy.keep_piece(piece)

    def _grown(self, data: bytes) -> Piece:
        if self._piece is None:
            self._piece, self._crc = self._copy.begin_piece(self.at), crc64nvme()
        self._crc.update(data)
        self._piece.length += len(data)
        self._piece.crc64 = self._crc.value
        return self._piece


async def in_thread(work: Callable[[], T]) -> T:
    """Run `work` in a thread, to its end also when cancelled: its file must not be closed under it."""
    doing = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(doing)
    except asyncio.CancelledError:
        await asyncio.wait([doing])
        raise

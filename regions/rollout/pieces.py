"""A large blob on its way here, piece by piece: each piece is an object of the region's own store.

A process that is killed leaves whole pieces behind; the next one reads them once more, into the same hash, and goes
on at their end. Joined, they are the blob; our store moves no byte for that. Pieces that nobody comes back for are
orphans like any other object of the bucket.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from regions.map.names import BLOBS_BUCKET
from storage.client.sdk import StoreError

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator

    from regions.objects.store import Store

PIECE_BYTES = 64 << 20  # what a killed pull loses at most; large enough that a blob of 100 GB has few pieces
PREFIX = "pulls/"  # no hash begins so


class Pieces:
    """Those of one blob, from its first byte on without a hole. Raises StoreError when the store fails."""

    def __init__(self, store: Store, blob: str, size: int) -> None:
        self.at = 0  # bytes that are here
        self._store = store
        self._blob = blob
        self._size = size
        self._keys: list[str] = []

    @property
    def keys(self) -> list[str]:
        """The key of every piece that the blob will have."""
        return [self._key(at) for at in range(0, self._size, PIECE_BYTES)]

    async def find(self) -> None:
        """Takes in what an earlier process left; what does not fit will be written again."""
        found = {each.key: each.size async for each in self._store.list(BLOBS_BUCKET, self._key_prefix)}
        while self.at < self._size and found.get(self._key(self.at)) == self.next_bytes:
            self._take(self.next_bytes)

    @property
    def next_bytes(self) -> int:
        """How long the next piece is; 0 when all are here."""
        return min(PIECE_BYTES, self._size - self.at)

    async def read(self) -> AsyncIterator[bytes]:
        """The bytes of all pieces, in order."""
        for key in self._keys:
            async for chunk in self._store.stream(BLOBS_BUCKET, key):
                yield chunk

    async def add(self, chunks: AsyncIterable[bytes]) -> None:
        """Writes the next piece, whole or not at all."""
        num_bytes = self.next_bytes
        await self._store.put_stream(BLOBS_BUCKET, self._key(self.at), chunks, num_bytes)
        self._take(num_bytes)

    async def join(self) -> None:
        """Makes the blob of them, whole or not at all; a store that cannot join is given the bytes again."""
        try:
            await self._store.join(BLOBS_BUCKET, self._blob, self._keys)
        except StoreError as error:
            if error.code != "NotImplemented":
                raise
            await self._store.put_stream(BLOBS_BUCKET, self._blob, self.read(), self._size)

    async def drop(self) -> None:
        """Deletes them."""
        for key in self._keys:
            await self._store.delete(BLOBS_BUCKET, key)

    def _take(self, num_bytes: int) -> None:
        self._keys.append(self._key(self.at))
        self.at += num_bytes

    def _key(self, at: int) -> str:
        return f"{self._key_prefix}{at:016d}-{min(PIECE_BYTES, self._size - at)}"

    @property
    def _key_prefix(self) -> str:
        return f"{PREFIX}{self._blob}/"

"""A value that many may move, one at a time: read it with its token, put the next in its place, or hear who was first.

Two layouts behind one Protocol: the object itself under If-Match, and numbered generations for a store that has no
If-Match on PUT. A key says by its own bytes which one it has, so whoever only reads need not know the store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from regions.map.names import SYSTEM_BUCKET
from regions.objects.numbered import MARK_SEPARATOR, Numbered, hint_in
from regions.objects.pointer import MAX_POINTER_BYTES
from storage.client.sdk import NotFound, PreconditionFailed

if TYPE_CHECKING:
    from regions.objects.store import Store


class Register(Protocol):
    """Values by key. A move that returned has happened once, and no other move was made from the same token."""

    async def read(self, key: str, max_bytes: int = ...) -> tuple[bytes, str] | None:
        """The value and its token; None if there is none. Raises StoreError."""

    async def move(self, key: str, value: bytes, over: str | None) -> str:
        """Puts `value` over the one with that token, or where there is none; its token.

        Raises PreconditionFailed if another was first (or the answer was lost: read again), StoreError.
        """

    async def clear(self, key: str) -> None:
        """Leaves no value, whatever it is at. Raises StoreError."""


class Exact:
    """The object is the value, its ETag the token: for a store that keeps If-Match and If-None-Match on PUT."""

    def __init__(self, store: Store, bucket: str = SYSTEM_BUCKET) -> None:
        self._store = store
        self._bucket = bucket

    async def read(self, key: str, max_bytes: int = MAX_POINTER_BYTES) -> tuple[bytes, str] | None:
        """See Register."""
        try:
            got = await self._store.get(self._bucket, key, max_bytes=max_bytes)
        except NotFound:
            return None
        return got.data, got.etag

    async def move(self, key: str, value: bytes, over: str | None) -> str:
        """See Register."""
        try:
            return await self._store.put(self._bucket, key, value, if_match=over, if_none_match=over is None)
        except NotFound as error:  # S3's answer to If-Match where there is nothing any more
            raise PreconditionFailed(error.code, error.message, error.status) from error

    async def clear(self, key: str) -> None:
        """See Register."""
        await self._store.delete(self._bucket, key)


class Found:
    """Each key in the layout that it has. `makes_numbered`: the layout of a new one, as the probe chose it."""

    def __init__(self, store: Store, numbered: Numbered | None = None) -> None:
        self._exact = Exact(store)
        self._numbered = numbered or Numbered(store)
        self.makes_numbered = False

    async def read(self, key: str, max_bytes: int = MAX_POINTER_BYTES) -> tuple[bytes, str] | None:
        """See Register."""
        found = await self._exact.read(key, max_bytes)
        if self._is_numbered(found):
            return await self._numbered.read(key, max_bytes)
        return found

    async def move(self, key: str, value: bytes, over: str | None) -> str:
        """See Register."""
        numbered = self.makes_numbered if over is None else MARK_SEPARATOR in over
        layout: Register = self._numbered if numbered else self._exact
        return await layout.move(key, value, over)

    async def clear(self, key: str) -> None:
        """See Register."""
        numbered = self._is_numbered(await self._exact.read(key))
        layout: Register = self._numbered if numbered else self._exact
        await layout.clear(key)

    def _is_numbered(self, found: tuple[bytes, str] | None) -> bool:
        return self.makes_numbered if found is None else hint_in(found[0]) is not None

"""The blobs of one region's store: which revisions need them, and how those that none needs go away.

A blob's key is the BLAKE3 of its bytes, so it is written once and never changed; revisions share blobs.
Rule: whoever is about to rely on a blob pins its key first; the collector looks at pins under the lock that
also covers *is it there?*, so no blob goes between the look and the use.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from regions.map.names import BLOBS_BUCKET
from storage.client.sdk import NotFound

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

    from regions.objects.store import Store
    from weights_cache.model.revision import Revision

ORPHAN_AGE_S = 3600.0  # a blob that no revision names may belong to a commit that is being made elsewhere


def blob_keys(revision: Revision) -> frozenset[str]:
    """The keys of a revision's blobs."""
    return frozenset(each.blake3 for each in revision.files)


class Holdings:
    """Who needs which blobs of one store. Raises StoreError when the store fails."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._held: dict[str, dict[str, frozenset[str]]] = {}  # model or preview -> revision id -> keys
        self._pins: Counter[str] = Counter()
        self._lock = asyncio.Lock()

    def hold(self, revision: Revision, model: str | None = None) -> None:
        """Keeps a revision's blobs until it is let go; a preview (`model`) lets go by itself. Again is no change."""
        self._held.setdefault(model or revision.model, {})[revision.id] = blob_keys(revision)

    def held(self, model: str) -> frozenset[str]:
        """The revisions of a model that are held."""
        return frozenset(self._held.get(model, {}))

    def is_held(self, revision: str) -> bool:
        """Whether any model or preview holds that revision."""
        return any(revision in each for each in self._held.values())

    @asynccontextmanager
    async def asked(self, revision: str) -> AsyncIterator[bool]:
        """Whether anybody holds or pins that revision; who pins it meanwhile waits in `has` until this is over."""
        async with self._lock:
            yield revision in self._pins or self.is_held(revision)

    @contextmanager
    def pinned(self, keys: Iterable[str]) -> Iterator[None]:
        """Keeps blobs, and revisions by their ids, while they are being written or relied upon."""
        pins = Counter(set(keys))
        self._pins += pins
        try:
            yield
        finally:
            self._pins -= pins

    async def has(self, key: str, size: int) -> bool:
        """Whether a whole blob is there; what is there stays while it is pinned or held."""
        async with self._lock:
            try:
                return (await self._store.head(BLOBS_BUCKET, key)).size == size
            except NotFound:
                return False

    async def let_go(self, model: str, revision: str) -> int:
        """Lets a revision go and deletes the blobs that nobody else needs. Returns how many."""
        return await self._delete(self._held.get(model, {}).pop(revision, frozenset()))

    async def drop(self, revision: Revision, model: str | None = None) -> int:
        """Deletes the blobs of a held revision, but for those that others need. Returns bytes freed."""
        others = self._needed(besides=(model or revision.model, revision.id))
        sizes = {each.blake3: each.size for each in revision.files if each.blake3 not in others}
        for key in sizes:
            async with self._lock:
                if key not in self._pins:
                    await self._store.delete(BLOBS_BUCKET, key)
        return sum(sizes.values())

    async def sweep(self, now_s: float) -> int:
        """Deletes old blobs that no revision names, left by a commit or a pull that was killed. How many."""
        listed = self._store.list(BLOBS_BUCKET)
        return await self._delete(
            [each.key async for each in listed if now_s - each.modified_s > ORPHAN_AGE_S]
        )

    async def _delete(self, keys: Iterable[str]) -> int:
        num_deleted = 0
        for key in keys:
            async with self._lock:
                if key in self._needed():
                    continue
                await self._store.delete(BLOBS_BUCKET, key)
                num_deleted += 1
        return num_deleted

    def _needed(self, besides: tuple[str, str] = ("", "")) -> set[str]:
        held = (
            keys
            for model, each in self._held.items()
            for revision, keys in each.items()
            if (model, revision) != besides
        )
        return set(self._pins).union(*held)

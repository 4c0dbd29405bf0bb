"""From a complete prefix to an immutable revision: one verified read, copies inside the store, one last look.

Nothing mixed can come out: every read and every copy carries the etag of the listing that was judged, and the
listing is taken once more after the last copy. The pointer's conditional write is the commit: what was done
before it is done again after a crash, or swept as orphans.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from regions.map.names import BLOBS_BUCKET, MODELS_BUCKET, base_of
from regions.objects.blobs import blob_keys
from regions.objects.pointer import first_pointer
from regions.push.prefix import fingerprint
from storage.client.sdk import NotFound, PreconditionFailed
from weights_cache.model.describe import FileDigests, Source, build_revision, draft

if TYPE_CHECKING:
    from collections.abc import Sequence

    from regions.objects.blobs import Holdings
    from regions.objects.ledger import Ledger
    from regions.objects.store import Store
    from regions.push.commit import Complete
    from regions.push.folder import Listed
    from regions.push.prefix import Prefix
    from weights_cache.model.describe import Draft
    from weights_cache.model.revision import ModelFacts, Revision

HASH_INLINE_BYTES = 64 << 10  # below this a thread costs more than the hash
COPIES_AT_ONCE = 4  # one request each inside the store; hundreds of files should not go one by one
MOVE_TRIES = 5  # somebody else moves the pointer at the same moment: a scale, a roll back


class ChangedError(Exception):
    """The prefix was overwritten while it was being committed: look again."""


class Sealer:
    """Makes revisions in the home region's store."""

    def __init__(self, store: Store, ledger: Ledger, holdings: Holdings) -> None:
        self._store = store
        self._ledger = ledger
        self._holdings = holdings

    async def commit(
        self, prefix: Prefix, listing: Sequence[Listed], complete: Complete, facts: ModelFacts
    ) -> Revision:
        """Commits a complete prefix: blobs, revision object, pointer. The blobs are held when it returns.

        Raises ChangedError if the prefix is not what `listing` says; RevisionError, PointerError, StoreError.
        """
        try:
            revision = await self._read(prefix.model, complete, facts)
            with self._holdings.pinned({revision.id, *blob_keys(revision)}):
                await self._copy(prefix.model, revision)
                await self._ledger.keep_revision(revision)
                await self._move(prefix, listing, revision, complete.regions)
                self._holdings.hold(revision, prefix.model)
        except (PreconditionFailed, NotFound) as error:
            raise ChangedError(prefix.model) from error
        return revision

    async def _read(self, model: str, complete: Complete, facts: ModelFacts) -> Revision:
        headers = {file.path: header for file, header in complete.weights}
        sources = [Source(each.path, each.size, each.etag, headers.get(each.path)) for each in complete.files]
        plan = await asyncio.to_thread(draft, base_of(model), sources)  # 65,536 tensors take a second
        digests = {source.path: await self._scan(model, plan, source) for source in plan.sources}
        given = (plan, digests, facts, complete.spec, complete.left_out)
        return await asyncio.to_thread(build_revision, *given)

    async def _scan(self, model: str, plan: Draft, source: Source) -> FileDigests:
        scan = plan.scan(source.path)
        async for chunk in self._store.stream(MODELS_BUCKET, f"{model}/{source.path}", if_match=source.etag):
            if len(chunk) < HASH_INLINE_BYTES:
                scan.update(chunk)
            else:
                await asyncio.to_thread(scan.update, chunk)
        return scan.finish()

    async def _copy(self, model: str, revision: Revision) -> None:
        """Copies the blobs that are not there yet; each becomes visible whole or not at all."""
        gate = asyncio.Semaphore(COPIES_AT_ONCE)

        async def one(path: str, key: str, size: int, etag: str) -> None:
            async with gate:
                if not await self._holdings.has(key, size):
                    source = f"{model}/{path}"
                    await self._store.copy(MODELS_BUCKET, source, BLOBS_BUCKET, key, source_if_match=etag)

        files = revision.files
        copies = (one(each.path, each.blake3, each.size, each.etag) for each in files)
        for end in await asyncio.gather(*copies, return_exceptions=True):
            if isinstance(end, BaseException):
                raise end

    async def _move(
        self, prefix: Prefix, listing: Sequence[Listed], revision: Revision, regions: tuple[str, ...] | None
    ) -> None:
        """Moves the model's pointer, over whatever it is at, if the prefix is still what was read."""
        mark = fingerprint(listing)
        for _ in range(MOVE_TRIES):
            if fingerprint(await prefix.listing()) != mark:
                raise ChangedError(prefix.model)
            found = await self._ledger.pointer(prefix.model)
            given = (revision, mark, int(time.time()), regions)
            pointer = first_pointer(*given, model=prefix.model) if found is None else found[0].moved(*given)
            try:
                await self._ledger.move(pointer, None if found is None else found[1])
            except PreconditionFailed:
                continue
            return
        raise ChangedError(prefix.model)

"""Reading one pushed prefix: its listing, the few bytes a verdict needs, and who is still uploading to it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from blake3 import blake3

from regions.map.names import MODELS_BUCKET
from regions.push.commit import Bytes, wanted
from regions.push.folder import MAX_LISTED_FILES, STATUS, Listed
from storage.client.sdk import StoreError
from weights_cache.model.header import FIRST_READ_BYTES, Header, HeaderError, header_end, read_header
from weights_cache.model.revision import canonical_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from regions.objects.store import Store

READS_AT_ONCE = 8  # small ranged reads of one prefix; hundreds of shards at ~5 ms each stay under a second
CANNOT_SAY = frozenset({"NotImplemented", "AccessDenied"})  # an S3 that keeps its uploads to itself
PARSED_INLINE_BYTES = 64 << 10  # a larger header is parsed in a thread: 16 MiB take a second
UPLOAD_PATIENCE_S = 6 * 3600.0  # an upload that began longer ago was given up by its client

Known = bytes | Header | HeaderError


def fingerprint(listing: Sequence[Listed]) -> str:
    """A digest of everything a listing says: equal only if nothing was pushed in between."""
    rows = sorted([each.path, each.size, each.etag, each.modified] for each in listing)
    return blake3(canonical_json(rows)).hexdigest()


class Prefix:
    """One model's folder in the bucket `models`. Remembers what it read by etag while its listing has it."""

    def __init__(self, store: Store, model: str) -> None:
        self.model = model
        self._store = store
        self._known: dict[tuple[str, str], Known] = {}

    async def listing(self) -> tuple[Listed, ...]:
        """Every object but our status; one more than a model may have at most. Raises StoreError."""
        found: list[Listed] = []
        start = len(self.model) + 1
        async for entry in self._store.list(MODELS_BUCKET, f"{self.model}/"):
            path = entry.key[start:]
            if path != STATUS:
                found.append(Listed(path, entry.size, entry.etag, entry.modified_s))
            if len(found) > MAX_LISTED_FILES:
                break
        return tuple(found)

    async def unfinished(self, listing: Sequence[Listed], now_s: float) -> tuple[str, ...]:
        """Paths that somebody is uploading to: begun after what lies there was written, and not long ago.

        `now_s` is seconds since 1970. Raises StoreError.
        """
        written = {each.path: each.modified for each in listing}
        start = len(self.model) + 1
        try:
            uploads = await self._store.uploads(MODELS_BUCKET, f"{self.model}/")
        except StoreError as error:
            if error.code not in CANNOT_SAY:
                raise
            return ()
        recent = [each for each in uploads if now_s - each.initiated_s < UPLOAD_PATIENCE_S]
        begun = {
            each.key[start:]: each.initiated_s for each in sorted(recent, key=lambda each: each.initiated_s)
        }
        return tuple(path for path, began_s in begun.items() if began_s > written.get(path, 0.0))

    async def bytes_of(self, listing: Sequence[Listed]) -> Bytes:
        """What a verdict on this listing needs. Raises PreconditionFailed or NotFound when it has changed."""
        small, weights = wanted(listing)
        gate = asyncio.Semaphore(READS_AT_ONCE)
        known = await asyncio.gather(*(self._read(each, gate) for each in (*small, *weights)))
        self._known = {
            (each.path, each.etag): value for each, value in zip((*small, *weights), known, strict=True)
        }
        return Bytes(
            small={
                each.path: value
                for each, value in zip(small, known, strict=False)
                if isinstance(value, bytes)
            },
            headers={
                each.path: value
                for each, value in zip(weights, known[len(small) :], strict=True)
                if not isinstance(value, bytes)
            },
        )

    async def _read(self, file: Listed, gate: asyncio.Semaphore) -> Known:
        known = self._known.get((file.path, file.etag))
        if known is not None:
            return known
        async with gate:
            if file.path.endswith(".safetensors"):
                return await self._header(file)
            return await self._range(file, file.size)

    async def _header(self, file: Listed) -> Header | HeaderError:
        first = await self._range(file, min(file.size, FIRST_READ_BYTES))
        try:
            end = header_end(first, file.size)
            data = first if end <= len(first) else await self._range(file, end)
            if end < PARSED_INLINE_BYTES:
                return read_header(data, file.size)
            return await asyncio.to_thread(read_header, data, file.size)
        except HeaderError as error:
            return error

    async def _range(self, file: Listed, length: int) -> bytes:
        if length == 0:
            return b""
        key = f"{self.model}/{file.path}"
        got = await self._store.get(
            MODELS_BUCKET, key, if_match=file.etag, start=0, length=length, max_bytes=length
        )
        return got.data

"""The home region's book of API keys: made, listed, rotated and revoked as objects, from which the policy is signed.

A key is told once, to whoever made it; from then on there is its digest alone. Every write is one conditional put or
delete of one object, so that a crash leaves a key as it was or as it was to be.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from regions.keys.record import MAX_RECORD_BYTES, KeyRecord, digest, new_key, read_record, write_record
from regions.map.names import SYSTEM_BUCKET
from regions.map.policy import MAX_KEYS
from regions.objects.ledger import KEYS
from storage.client.sdk import NotFound, PreconditionFailed
from weights_cache.model.strict import StrictError
from wire.refused.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from regions.map.policy import KeyGrant
    from regions.objects.store import Store

MAX_OVERLAP_S: Final = 90 * 24 * 3600  # how long an old key may go on beside the one that replaces it


class KeyBook:
    """All keys of the platform; `changed` is called after each write, so that a policy is signed at once."""

    def __init__(
        self, store: Store, changed: Callable[[], None], wall: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._changed = changed
        self._wall = wall

    async def records(self) -> list[KeyRecord]:
        """Every well-formed key, oldest first. Raises StoreError."""
        found = await self._read()
        return sorted(found, key=lambda each: (each.created_s, each.digest))

    async def _read(self) -> dict[KeyRecord, str]:
        """Every well-formed key and its etag."""
        found = {}
        async for entry in self._store.list(SYSTEM_BUCKET, KEYS):
            try:
                got = await self._store.get(SYSTEM_BUCKET, entry.key, max_bytes=MAX_RECORD_BYTES)
                found[read_record(got.data)] = got.etag
            except (NotFound, StrictError):
                continue  # gone meanwhile; or malformed, which the policy's loop says in the log
        return found

    async def make(self, grant: KeyGrant, name: str) -> tuple[str, KeyRecord]:
        """A new key and its record. Raises StoreError, Refusal 409 when there are too many."""
        if len(await self.records()) >= MAX_KEYS:
            raise Refusal(409, "too_many_keys", f"There are {MAX_KEYS:,} keys; revoke some first.")
        key = new_key()
        record = KeyRecord(digest(key), name, grant, int(self._wall()))
        await self._store.put(SYSTEM_BUCKET, _place(record), write_record(record), if_none_match=True)
        self._changed()
        return key, record

    async def rotate(self, key_id: str, overlap_s: int) -> tuple[str, KeyRecord]:
        """A new key that grants the same; the old ends in `overlap_s`. Raises StoreError, Refusal 404, 409."""
        records = await self._read()
        old = _named(records, key_id)
        key, record = await self.make(replace(old.grant, expires_s=0), old.name)
        end_s = int(self._wall()) + overlap_s
        if old.grant.expires_s:
            end_s = min(end_s, old.grant.expires_s)
        ending = replace(old, grant=replace(old.grant, expires_s=end_s))
        try:
            await self._store.put(SYSTEM_BUCKET, _place(old), write_record(ending), if_match=records[old])
        except (
            NotFound,
            PreconditionFailed,
        ) as error:  # revoked meanwhile: so is what would have replaced it
            await self._store.delete(SYSTEM_BUCKET, _place(record))
            raise Refusal(409, "conflict", f"The key {key_id} was changed just now; look again.") from error
        self._changed()
        return key, record

    async def revoke(self, key_id: str) -> KeyRecord:
        """End a key now. Raises StoreError, Refusal 404, 409 for the last one that steers the platform."""
        records = await self.records()
        record = _named(records, key_id)
        if "admin" in record.grant.scopes and sum("admin" in each.grant.scopes for each in records) == 1:
            text = "This is the last key with the scope `admin`; make another first, or nobody can make any."
            raise Refusal(409, "last_admin_key", text)
        await self._store.delete(SYSTEM_BUCKET, _place(record))
        self._changed()
        return record


def _named(records: Iterable[KeyRecord], key_id: str) -> KeyRecord:
    found = [each for each in records if each.id == key_id]
    if not found:
        raise Refusal(404, "not_found", f"There is no key {key_id}; `nearfield keys ls` lists them.")
    return found[0]


def _place(record: KeyRecord) -> str:
    return f"{KEYS}{record.digest}.json"

"""What can this S3 do? A few small objects are written, read under conditions and deleted; nothing is believed.

An endpoint that answers 200 to a condition which does not hold has ignored it, and would let two pushes move one
pointer: it is found out here, before anything of a model is written. So is one that looks at the condition before
it writes and not as it writes: several creators race for one key, and two of them are told that they were first.
"""

import asyncio
import secrets
from dataclasses import dataclass
from typing import Protocol

from storage.client.sdk import Changes, Got, NotFound, PreconditionFailed, StoreError, Unreachable

RACES, RACERS = 3, 8  # enough to catch Swift nearly every time; a store that is caught once is known
SCRATCH = "probe/"  # below it, everything is the probe's own and is deleted by it
NO_CRC32 = "AAAAAA=="  # not NEW's
OLD, NEW = b"nearfield probe: old", b"nearfield probe: new"


class Probed(Protocol):
    """What the probe asks of a store: `storage.client.sdk.S3` is one."""

    async def put(
        self,
        bucket: str,
        key: str,
        data: bytes,
        *,
        if_none_match: bool = False,
        if_match: str | None = None,
        crc32: str | None = None,
    ) -> str:
        """Put an object under a condition, with its CRC32 in base64; its ETag. Raises StoreError."""

    async def get(
        self,
        bucket: str,
        key: str,
        *,
        if_match: str | None = None,
        start: int | None = None,
        length: int | None = None,
    ) -> Got:
        """Read an object under a condition, or a part of it. Raises StoreError."""

    async def delete(self, bucket: str, key: str) -> None:
        """Delete an object. Raises StoreError."""

    async def copy(self, bucket: str, key: str, to_bucket: str, to_key: str) -> str:
        """Copy inside the store; the ETag. Raises StoreError."""

    async def changes(self, bucket: str, since: int, *, wait_s: float, limit: int) -> Changes:
        """Our own store's feed. Raises StoreError on any other."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What was seen. What is not needed decides how the platform goes about its work there."""

    creates_once: bool  # If-None-Match: * on PUT
    creates_alone: bool  # the same, of several at once; False is certain, True is what was seen
    replaces_exactly: bool  # If-Match on PUT
    reads_exactly: bool  # If-Match on GET
    ranges: bool
    copies: bool
    sums: bool  # a PUT with the CRC32 of other bytes is refused
    has_feed: bool

    def faults(self) -> tuple[str, ...]:
        """Why no model can be served from this store, in words; empty if one can."""
        found = tuple(words for name, words in _NEEDED.items() if not getattr(self, name))
        is_racy = self.creates_once and self.replaces_exactly and not self.creates_alone
        return (*found, _RACY) if is_racy else found

    def remarks(self) -> tuple[str, ...]:
        """What is done otherwise because of this store, in words."""
        return tuple(words for name, words in _OTHERWISE.items() if not getattr(self, name))


OURS = Capabilities(
    creates_once=True,
    creates_alone=True,
    replaces_exactly=True,
    reads_exactly=True,
    ranges=True,
    copies=True,
    sums=True,
    has_feed=True,
)

_NEEDED = {
    "creates_once": "a PUT with If-None-Match: * replaced an object that was there (or was refused): two pushes "
    "could both win",
    "reads_exactly": "a GET with If-Match of another ETag was answered: a load could mix two versions",
    "ranges": "a ranged GET did not give exactly the bytes asked for: weights are read by ranges",
    "copies": "an object could not be copied inside the store: revisions are copies of what was pushed",
}
_RACY = (
    "If-None-Match: * is looked at before a PUT is written and not as it is: of several creators at once two were "
    "told that they were first, and with If-Match the same would move a pointer twice"
)
_OTHERWISE = {
    "replaces_exactly": "If-Match on PUT does not hold (or is refused): pointers are numbered objects, each created "
    "once and read back before it counts",
    "creates_alone": "of several creators at once two were told that they were first: one is believed when its "
    "object has stood for a while",
    "sums": "a PUT with the CRC32 of other bytes was taken: the store does not notice what is damaged on the way to it",
    "has_feed": "it is listed every second for changes",
}


class StoreUnfit(Exception):
    """No model can be served from this store; the message says what it does not do, and what to do."""


async def refuse_unfit(store: Probed, bucket: str, name: str) -> Capabilities:
    """What the store can do, if models can be served from it; one with a feed of ours is ours, and is not probed.

    Raises:
        StoreUnfit: it ignores or refuses what a model's safety needs.
        StoreError: it does not answer, or has no such bucket.
    """
    if await _has_feed(store, bucket):
        return OURS
    found = await probe(store, bucket)
    faults = found.faults()
    if faults:
        raise StoreUnfit(
            f"{name} cannot hold models: {'; '.join(faults)}. Name another S3 endpoint as `store` in the "
            "configuration, or leave it to the embedded store."
        )
    return found


async def probe(store: Probed, bucket: str) -> Capabilities:
    """Find out what the store behind `bucket`, which must exist, can do.

    Raises:
        Unreachable: the store does not answer.
        StoreError: not even plain objects can be put and deleted (no such bucket, no access).
    """
    key = f"{SCRATCH}{secrets.token_hex(8)}"
    etag = await store.put(bucket, key, OLD)
    try:
        reads = await _reads_exactly(store, bucket, key, etag), await _reads_ranges(store, bucket, key)
        others = await _copies(store, bucket, key), await _sums(store, bucket, key)
        once = await _creates_once(store, bucket, key)
        alone = once and await _creates_alone(store, bucket, key)
        replaces = await _replaces_exactly(store, bucket, key)
        return Capabilities(once, alone, replaces, *reads, *others, await _has_feed(store, bucket))
    finally:
        await store.delete(bucket, key)


async def _creates_once(store: Probed, bucket: str, key: str) -> bool:
    """Refused where there is an object, done where there is none."""
    other = f"{key}-new"
    try:
        await store.put(bucket, other, NEW, if_none_match=True)
        await store.delete(bucket, other)
        await store.put(bucket, key, NEW, if_none_match=True)
    except PreconditionFailed:
        return (await store.get(bucket, key)).data == OLD
    except StoreError as error:
        return _refused(error)
    return False


async def _creates_alone(store: Probed, bucket: str, key: str) -> bool:
    """Of several that create one key at once, one is told that it did."""
    for number in range(RACES):
        contested = f"{key}-race{number}"
        answers = await asyncio.gather(*(_creates(store, bucket, contested) for _ in range(RACERS)))
        await store.delete(bucket, contested)
        if sum(answers) > 1:
            return False
    return True


async def _creates(store: Probed, bucket: str, key: str) -> bool:
    try:
        await store.put(bucket, key, NEW, if_none_match=True)
    except PreconditionFailed:
        return False
    return True


async def _replaces_exactly(store: Probed, bucket: str, key: str) -> bool:
    """Refused with an old ETag, done with the present one."""
    first = await store.put(bucket, key, OLD)
    try:
        second = await store.put(bucket, key, NEW, if_match=first)
        await store.put(bucket, key, OLD, if_match=first)
    except PreconditionFailed:
        found = await store.get(bucket, key)
        return found.data == NEW and found.etag == second
    except StoreError as error:
        return _refused(error)
    return False


async def _reads_exactly(store: Probed, bucket: str, key: str, etag: str) -> bool:
    try:
        await store.get(bucket, key, if_match=etag)
        await store.get(bucket, key, if_match="0" * 32)
    except PreconditionFailed:
        return True
    except StoreError as error:
        return _refused(error)
    return False


async def _reads_ranges(store: Probed, bucket: str, key: str) -> bool:
    try:
        return (await store.get(bucket, key, start=3, length=5)).data == OLD[3:8]
    except StoreError as error:
        return _refused(error)


async def _copies(store: Probed, bucket: str, key: str) -> bool:
    other = f"{key}-copy"
    try:
        await store.copy(bucket, key, bucket, other)
        same = (await store.get(bucket, other)).data == OLD
        await store.delete(bucket, other)
    except StoreError as error:
        return _refused(error)
    return same


async def _sums(store: Probed, bucket: str, key: str) -> bool:
    other = f"{key}-sum"
    try:
        await store.put(bucket, other, NEW, crc32=NO_CRC32)
    except StoreError as error:
        _refused(error)
        return True
    await store.delete(bucket, other)
    return False


async def _has_feed(store: Probed, bucket: str) -> bool:
    try:
        await store.changes(bucket, -1, wait_s=0.0, limit=1)
    except StoreError as error:
        return _refused(error)
    return True


def _refused(error: StoreError) -> bool:
    """False: the store said no to what was asked. Raises `error` on if it could not be asked at all."""
    if isinstance(error, Unreachable | NotFound) or (error.status >= 500 and error.status != 501):
        raise error
    return False

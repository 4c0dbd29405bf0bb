"""An S3 in a dictionary with the interface of storage.client.sdk.S3, that can be cut off, killed and overwritten."""

import asyncio
import zlib
from base64 import b64encode
from dataclasses import dataclass, field
from hashlib import md5

from storage.client.sdk import (
    Change,
    Changes,
    Entry,
    Got,
    NotFound,
    PreconditionFailed,
    StoreError,
    Unfinished,
    Unreachable,
)


@dataclass
class Object:
    data: bytes
    etag: str
    modified_s: float


@dataclass
class Disk:
    """What survives a kill."""

    buckets: dict = field(default_factory=dict)
    events: list = field(default_factory=list)
    uploads: dict = field(default_factory=dict)
    ticks: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def copied(self):
        """The same disk in another world."""
        return Disk(
            {name: dict(objects) for name, objects in self.buckets.items()},
            list(self.events),
            ticks=self.ticks,
        )

    def objects(self, bucket):
        if bucket not in self.buckets:
            raise NotFound("NoSuchBucket", bucket, 404)
        return self.buckets[bucket]

    def now_s(self):
        self.ticks += 1
        return 1_000_000.0 + self.ticks / 1000

    def log(self, kind, bucket, key, size=0, etag=""):
        self.events.append(Change(len(self.events) + 1, bucket, key, kind, size, etag, self.now_s()))
        self.changed.set()
        self.changed = asyncio.Event()

    def put(self, bucket, key, data):
        etag = md5(data, usedforsecurity=False).hexdigest()
        self.buckets.setdefault(bucket, {})[key] = Object(data, etag, self.now_s())
        self.log("put", bucket, key, len(data), etag)
        return etag

    def delete(self, bucket, key):
        if self.objects(bucket).pop(key, None) is not None:
            self.log("delete", bucket, key)

    def keys(self, bucket, prefix=""):
        return sorted(key for key in self.buckets.get(bucket, {}) if key.startswith(prefix))

    def push(self, model, files):
        for path, data in files.items():
            self.put("models", f"{model}/{path}", data)


class Life:
    """One process: after `die_at` operations every further one hangs, as if it had been killed there."""

    def __init__(self):
        self.num_ops = 0
        self.die_at = None
        self.dead = asyncio.Event()

    async def spend(self):
        if self.die_at is not None and self.num_ops >= self.die_at:
            self.dead.set()
            if asyncio.current_task().cancelling():  # a killed process does not tidy up either
                raise asyncio.CancelledError
            await asyncio.Event().wait()
        self.num_ops += 1


class FakeStore:
    """One process's client of a disk.

    `feed`: it has one, as ours; `replaces`: it takes If-Match on PUT. `before(op, bucket, key)` runs ahead of each
    operation and may change the disk or raise.
    """

    def __init__(self, disk, *, feed=True, replaces=True, chunk_bytes=7, life=None):
        self.disk = disk
        self.replaces = replaces
        self.life = life or Life()
        self.feed = feed
        self.chunk_bytes = chunk_bytes
        self.offline = False
        self.before = lambda op, bucket, key: None
        self.log = []
        self.bytes_out = 0

    async def _enter(self, op, bucket, key=""):
        await asyncio.sleep(0)
        if self.offline:
            raise Unreachable("Unreachable", "the store is offline")
        await self.life.spend()
        self.log.append((op, bucket, key))
        self.before(op, bucket, key)

    def _object(self, bucket, key, if_match=None):
        found = self.disk.objects(bucket).get(key)
        if found is None:
            raise NotFound("NoSuchKey", f"{bucket}/{key}", 404)
        if if_match is not None and found.etag != if_match:
            raise PreconditionFailed("PreconditionFailed", f"{bucket}/{key}", 412)
        return found

    async def get(self, bucket, key, *, if_match=None, start=None, length=None, max_bytes=64 << 20):
        await self._enter("get", bucket, key)
        found = self._object(bucket, key, if_match)
        begin = start or 0
        data = found.data[begin:] if length is None else found.data[begin : begin + length]
        if len(data) > max_bytes:
            raise StoreError("TooLarge", f"{bucket}/{key}")
        self.bytes_out += len(data)
        return Got(data, found.etag, len(found.data), {})

    async def stream(self, bucket, key, *, if_match=None, start=0, length=None):
        await self._enter("stream", bucket, key)
        found = self._object(bucket, key, if_match)
        end = len(found.data) if length is None else start + length
        for at in range(start, end, self.chunk_bytes):
            await self._enter("chunk", bucket, key)
            chunk = found.data[at : min(at + self.chunk_bytes, end)]
            self.bytes_out += len(chunk)
            yield chunk

    async def put(self, bucket, key, data, *, if_none_match=False, if_match=None, crc32=None):
        await self._enter("put", bucket, key)
        if crc32 is not None and crc32 != b64encode(zlib.crc32(data).to_bytes(4)).decode():
            raise StoreError("BadDigest", key, 400)
        objects = self.disk.objects(bucket)
        if if_none_match and key in objects:
            raise PreconditionFailed("PreconditionFailed", key, 412)
        if if_match is not None and not self.replaces:
            raise StoreError("NotImplemented", "Conditional object PUTs are not supported.", 501)
        if if_match is not None:
            self._object(bucket, key, if_match)
        return self.disk.put(bucket, key, data)

    async def put_stream(self, bucket, key, chunks, size):
        await self._enter("begin", bucket, key)
        data = b"".join([chunk async for chunk in chunks])
        if len(data) != size:
            raise StoreError("IncompleteBody", key)
        return await self.put(bucket, key, data)

    async def head(self, bucket, key):
        await self._enter("head", bucket, key)
        found = self._object(bucket, key)
        return Entry(key, len(found.data), found.etag, found.modified_s)

    async def delete(self, bucket, key, *, if_match=None):
        await self._enter("delete", bucket, key)
        self.disk.delete(bucket, key)

    async def list(self, bucket, prefix="", *, start_after=""):
        await self._enter("list", bucket, prefix)
        for key, found in sorted(self.disk.objects(bucket).items()):
            if key.startswith(prefix) and key > start_after:
                yield Entry(key, len(found.data), found.etag, found.modified_s)

    async def copy(self, bucket, key, to_bucket, to_key, *, source_if_match=None):
        await self._enter("copy", bucket, key)
        return self.disk.put(to_bucket, to_key, self._object(bucket, key, source_if_match).data)

    async def join(self, bucket, key, sources):
        await self._enter("join", bucket, key)
        return self.disk.put(bucket, key, b"".join(self._object(bucket, each).data for each in sources))

    async def ensure_bucket(self, bucket):
        await self._enter("bucket", bucket)
        self.disk.buckets.setdefault(bucket, {})

    async def uploads(self, bucket, prefix=""):
        await self._enter("uploads", bucket, prefix)
        begun = self.disk.uploads.items()
        return tuple(Unfinished(key, "u1", at) for key, at in begun if key.startswith(prefix))

    async def changes(self, bucket, since, *, wait_s=20.0, limit=1000):
        await asyncio.sleep(0)
        if self.offline:
            raise Unreachable("Unreachable", "the store is offline")
        if self.life.dead.is_set():
            await asyncio.Event().wait()
        if not self.feed:
            raise StoreError("NotImplemented", "no such operation", 501)
        head = len(self.disk.events)
        if since < 0 or since > head:
            return Changes(head, ())
        while True:
            page = [each for each in self.disk.events[since:] if each.bucket == bucket][:limit]
            if page or not wait_s:
                seq = page[-1].seq if len(page) == limit else len(self.disk.events)
                return Changes(seq, tuple(page))
            try:
                async with asyncio.timeout(wait_s):
                    await self.disk.changed.wait()
            except TimeoutError:
                wait_s = 0

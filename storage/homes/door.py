"""Requests on a bucket whose home is another region's store: reads are read through, all else is passed on.

What is passed on goes as it came, Host too, because that is what was signed; this store has verified it, and the home
verifies it again. A read asks the home which version there is now, each time, so what was acknowledged anywhere is
seen here; only the bytes are kept. Of a bucket with a policy nothing is kept, for only the home can judge it. While
the home is away the last version that was read is given, and the answer says so (`x-nearfield-stale`).
"""

import asyncio
import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from storage.auth.key import parse_bucket
from storage.client.endpoint import Endpoint
from storage.client.feed import FeedReader
from storage.fault import S3Error
from storage.homes.copies import Copies
from storage.homes.copy import Copy, NoRoom, Reader
from storage.homes.facts import Away, Changed, Facts, away_error
from storage.homes.follow import Follower
from storage.homes.landing import Corrupt
from storage.homes.origin import Origin
from storage.http.reply import Reply
from storage.http.request import S3Request
from storage.index.buckets import create_bucket
from storage.index.rows import Headers
from storage.operations.reads import read_ask, span_of
from storage.operations.shown import object_headers
from storage.store import Store
from wire import forward
from wire.dial import DialError
from wire.serve import Exchange

log = logging.getLogger("nearfield.storage")

FOLDER = "copies"  # beside the store's own blobs
STALE = "x-nearfield-stale"  # seconds since the home was last heard, on what is given without asking it
MAX_LOOKS = 4  # times a read begins anew because the object was overwritten before its first byte came
READS = frozenset({"GetObject", "HeadObject"})
HOME_JUDGES = ("origin", "x-amz-expected-bucket-owner")  # CORS rules and owners are there
ELSEWHERE = frozenset({"versionId", "partNumber"})  # reads of these only the home can answer


class Homes:
    """The buckets of one store that live elsewhere. `start` before the first request, `close` after the last."""

    def __init__(self, store: Store, endpoints: Mapping[str, Endpoint], limit_bytes: int) -> None:
        self._store = store
        self._copies = Copies(store.blobs.root / FOLDER, limit_bytes)
        made = {endpoint: (Origin(endpoint), FeedReader(endpoint)) for endpoint in set(endpoints.values())}
        self._connections = tuple(made.values())
        self._origins = {bucket: made[endpoint][0] for bucket, endpoint in endpoints.items()}
        self._loading: asyncio.Task[None] | None = None
        self._followers = {
            bucket: Follower(bucket, made[endpoint][1], made[endpoint][0], self._copies, self._place(bucket))
            for bucket, endpoint in endpoints.items()
        }

    async def start(self) -> None:
        """List the buckets among this store's own, and begin to look what an earlier process kept of them.

        Only requests on those buckets wait for that look. Raises: StoreBroken.
        """
        self._loading = asyncio.create_task(self._load())
        for bucket in self._origins:
            try:
                await self._store.commit(partial(create_bucket, bucket=parse_bucket(bucket)))
            except S3Error as error:
                if error.code != "BucketAlreadyOwnedByYou":
                    raise

    async def follow(self) -> None:
        """Hear what the homes tell, until cancelled. Raises: OSError."""
        await self._loaded()
        await asyncio.gather(*(follower.run() for follower in self._followers.values()))

    async def close(self) -> None:
        """Stop fetching and close the connections; copies stay, also half ones."""
        await asyncio.gather(*([self._loading] if self._loading else []), return_exceptions=True)
        await self._copies.close()
        for origin, feed in self._connections:
            await origin.close()
            await feed.close()

    def has(self, bucket: str | None) -> bool:
        """True for a bucket that lives elsewhere."""
        return bucket in self._origins

    async def answer(self, exchange: Exchange, request: S3Request, bucket: str) -> Reply | None:
        """Answer a verified request on such a bucket; None: it was answered. Raises: S3Error, Disconnected, OSError."""
        await self._loaded()
        home_knows = any(request.get(name) is not None for name in HOME_JUDGES)
        if request.operation in READS and not home_knows and not ELSEWHERE & request.query.keys():
            return await self._read(exchange, request)
        try:
            await self.pass_on(exchange, bucket)
        finally:
            if request.names_key and request.head.method not in {"GET", "HEAD"}:
                self._copies.heard(
                    bucket, request.key, None
                )  # whoever wrote here reads no older version here
        return None

    async def pass_on(self, exchange: Exchange, bucket: str) -> None:
        """The home's own answer to the request as it came. Raises: S3Error ServiceUnavailable, Disconnected."""
        try:
            answer = await forward.ask(self._origins[bucket].pool, exchange, exchange.head.headers)
        except DialError as error:
            raise away_error(error) from error
        async with answer:
            await forward.pass_back(exchange, answer)

    async def _load(self) -> None:
        await self._store.in_thread(lambda: self._copies.load(self._origins.get))

    async def _loaded(self) -> None:
        assert self._loading is not None  # noqa: S101 - a type for mypy; `start` comes first
        await asyncio.shield(self._loading)

    def _place(self, bucket: str) -> Path:
        return self._store.blobs.root / FOLDER / f"feed-{bucket}"

    async def _read(self, exchange: Exchange, request: S3Request) -> Reply | None:
        """GetObject and HeadObject. Raises: S3Error, Disconnected, OSError."""
        for _ in range(MAX_LOOKS):
            since = self._copies.tick
            facts, stale = await self._look(request)
            if facts is None or facts.size > self._copies.limit_bytes:
                await self.pass_on(exchange, request.bucket)
                return None
            try:
                return await self._reply(request, facts, stale, since)
            except Changed:
                continue
            except NoRoom:
                await self.pass_on(exchange, request.bucket)
                return None
            except (Away, Corrupt) as error:
                raise away_error(error) from error
        raise S3Error("ServiceUnavailable", "The object changes faster than it can be read; try again.")

    async def _look(self, request: S3Request) -> tuple[Facts | None, Headers]:
        """What there is to read, and what to say of its age. Raises: S3Error ServiceUnavailable."""
        try:
            return await self._origins[request.bucket].look(request.bucket, request.key), ()
        except Away as error:
            facts = self._copies.last(request.bucket, request.key)
            if facts is None:
                raise away_error(error) from error
            silent_s = self._followers[request.bucket].silent_s()
            return facts, ((STALE, "unknown" if silent_s is None else f"{silent_s:.0f}"),)

    async def _reply(self, request: S3Request, facts: Facts, stale: Headers, since: int) -> Reply:
        """The answer, once its first byte is here. Raises: S3Error, Changed, Away, NoRoom, Corrupt, OSError."""
        row, ask = facts.row, read_ask(request)
        ask.check(row)
        span = span_of(request, ask, row)
        status, headers = 200 if span is None else 206, object_headers(self._store, request, row, span)
        first, length = span or (0, row.size)
        if request.operation == "HeadObject":
            return Reply(status, headers + stale, length=length)
        if not length:
            return Reply(status, headers + stale)
        body = await self._follow(facts, first, length, since)
        try:
            await (body.reader.reach_all_kept() if stale else body.reader.reach())
        except BaseException:
            body.close()
            raise
        return Reply(status, headers + stale, body)

    async def _follow(self, facts: Facts, first: int, length: int, since: int) -> "Followed":
        copy = await self._copies.use(facts, self._origins[facts.bucket], since)
        return Followed(self._copies, copy, copy.reader(first, first + length), length)


class Followed:
    """A body that is read behind the write heads of its copy (`reply.Body`)."""

    def __init__(self, copies: Copies, copy: Copy, reader: Reader, length: int) -> None:
        self.length = length
        self.reader = reader
        self._copies = copies
        self._copy = copy

    async def send(self, exchange: Exchange, status: int, headers: Headers) -> None:
        """An answer whose rest is not to be had is cut. Raises: Disconnected, OSError."""
        await exchange.start(status, headers, length=self.length)
        while self.reader.at < self.reader.end:
            try:
                num_bytes = await self.reader.reach()
            except (
                Away,
                Changed,
                NoRoom,
                Corrupt,
            ):  # logged where it happened; a client sees that its body is short
                exchange.abort()
                return
            await exchange.sendfile(self._copy.fd, self.reader.at, num_bytes)
            self.reader.moved(num_bytes)
        await exchange.finish()

    def close(self) -> None:
        """Let the copy go; what nobody else waits for is not fetched further."""
        self.reader.leave()
        self._copies.release(self._copy)

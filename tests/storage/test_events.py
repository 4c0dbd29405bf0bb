import asyncio
import time

import pytest

from storage.client.sdk import S3, StoreError
from storage.operations import events
from tests.storage.stores import TENANT, Raw, StoreThread


def test_every_change_has_its_line_in_order(store, raw, bucket):
    head = asyncio.run(changes(store, bucket, -1)).seq
    etag = raw.put(bucket, "a", b"1").headers["etag"].strip('"')
    raw.put("models", "elsewhere", b"")
    raw.send("PUT", f"/{bucket}/b", "", {"x-amz-copy-source": f"/{bucket}/a"})
    raw.put(bucket, "a", b"2", if_none_match="*")
    raw.delete(bucket, "a")
    raw.delete(bucket, "never")
    upload = raw.create_upload(bucket, "c")
    part = raw.put_part(bucket, "c", upload, 1, b"xyz").headers["etag"]
    raw.complete(bucket, "c", upload, [(1, part)])

    feed = asyncio.run(changes(store, bucket, head))

    assert [(line.kind, line.key, line.size) for line in feed.changes] == [
        ("put", "a", 1),
        ("put", "b", 1),
        ("delete", "a", 1),
        ("put", "c", 3),
    ]
    assert feed.changes[0].etag == etag
    assert [line.seq for line in feed.changes] == sorted(line.seq for line in feed.changes)
    assert feed.seq >= feed.changes[-1].seq
    assert abs(feed.changes[0].at - time.time()) < 60


async def changes(store, bucket, since, **more):
    async with S3(store.endpoint()) as s3:
        return await s3.changes(bucket, since, **({"wait_s": 0.0} | more))


def test_pages_of_a_feed(store, raw, bucket):
    for n in range(5):
        raw.put(bucket, f"k{n}", b"")

    async def walk():
        async with S3(store.endpoint()) as s3:
            since, keys = 0, []
            while lines := (feed := await s3.changes(bucket, since, wait_s=0.0, limit=2)).changes:
                keys += [line.key for line in lines]
                since = feed.seq
            return keys

    assert asyncio.run(walk()) == [f"k{n}" for n in range(5)]


def test_a_waiting_reader_hears_at_once(store, bucket):
    async def scene():
        async with S3(store.endpoint()) as s3:
            head = (await s3.changes(bucket, -1, wait_s=0.0)).seq
            waiting = asyncio.create_task(s3.changes(bucket, head, wait_s=20.0))
            await asyncio.sleep(0.2)
            await s3.put("models", "noise", b"")
            await asyncio.sleep(0.1)
            assert not waiting.done()
            start = time.perf_counter()
            await s3.put(bucket, "signal", b"")
            feed = await waiting
            return feed, time.perf_counter() - start

    feed, took_s = asyncio.run(scene())

    assert [line.key for line in feed.changes] == ["signal"]
    assert took_s < 10  # of 20


def test_readers_of_other_buckets_sleep_on(store, bucket, monkeypatch):
    """Each commit woke every reader there is: a fleet has a dozen, and a push hundreds of commits."""
    reads = []
    read_feed = events.read_feed
    monkeypatch.setattr(events, "read_feed", lambda db, ask: (reads.append(ask), read_feed(db, ask))[1])

    async def scene():
        async with S3(store.endpoint()) as s3:
            head = (await s3.changes(bucket, -1, wait_s=0.0)).seq
            reads.clear()
            waiting = [asyncio.create_task(s3.changes(bucket, head, wait_s=60.0)) for _ in range(3)]
            while len(reads) < 3:  # noqa: ASYNC110 - of the store's own thread
                await asyncio.sleep(0.01)
            for n in range(5):
                await s3.put("models", f"noise{n}", b"")
            num_before = len(reads)
            await s3.put(bucket, "signal", b"")
            return num_before, await asyncio.gather(*waiting)

    num_before, feeds = asyncio.run(scene())

    assert (num_before, len(reads)) == (3, 6)
    assert [[line.key for line in feed.changes] for feed in feeds] == [["signal"]] * 3


def test_an_empty_wait_ends_in_time(store, bucket):
    start = time.perf_counter()
    feed = asyncio.run(changes(store, bucket, asyncio.run(changes(store, bucket, -1)).seq, wait_s=0.3))

    assert feed.changes == ()
    assert 0.25 < time.perf_counter() - start < 30


def test_a_store_that_stops_lets_its_readers_go(tmp_path):
    store = StoreThread(tmp_path)

    async def scene():
        async with S3(store.endpoint()) as s3:
            await s3.ensure_bucket("models")
            waiting = asyncio.create_task(s3.changes("models", 0, wait_s=30.0))
            await asyncio.sleep(0.2)
            start = time.perf_counter()
            await asyncio.to_thread(store.stop)
            return await waiting, time.perf_counter() - start

    feed, took_s = asyncio.run(scene())

    assert feed.changes == ()
    assert took_s < 15  # of 30


def test_a_since_from_the_future_gets_the_head(store, bucket):
    head = asyncio.run(changes(store, bucket, -1)).seq
    start = time.perf_counter()

    feed = asyncio.run(changes(store, bucket, 10**9, wait_s=60.0))

    assert (feed.seq, feed.changes) == (head, ())
    assert time.perf_counter() - start < 30


def test_lines_that_are_gone_are_said(tmp_path):
    from storage.fault import S3Error
    from storage.index.buckets import create_bucket
    from storage.index.database import Index
    from storage.operations.events import FeedAsk, read_feed

    index = Index(tmp_path / "meta.db")
    index.commit(lambda tx: create_bucket(tx, "models")).result()
    index.commit(
        lambda tx: tx.db.execute(
            "INSERT INTO events VALUES (50, 'models', x'61', 'put', 0, 'e', 0, '', '')"
        ).fetchall()
    ).result()

    assert read_feed(index.reader(), FeedAsk("models", 49, 0, 10)).changes[0].key == "a"
    with pytest.raises(S3Error, match="EventsExpired"):
        read_feed(index.reader(), FeedAsk("models", 48, 0, 10))
    index.close()


@pytest.mark.parametrize("query", ["since=x", "wait=-1", "wait=nan", "limit=0", f"since={10**30}"])
def test_bad_asks(raw, query):
    answer = raw.send("GET", "/", f"bucket=models&nearfield-changes=&{query}")

    assert (answer.status, answer.code) == (400, "InvalidArgument")


def test_the_feed_is_for_administrators(store):
    with Raw(store.endpoint(TENANT)) as raw:
        assert raw.send("GET", "/", "bucket=models&nearfield-changes=").status == 403


def test_a_refusal_reaches_the_client(store):
    with pytest.raises(StoreError) as error:
        asyncio.run(changes(store, "UPPER", 0))

    assert (error.value.code, error.value.status) == ("InvalidBucketName", 400)

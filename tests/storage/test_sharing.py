"""Equal bytes lie on the disk once; nobody can see it, and nothing but equal bytes is ever shared."""

import asyncio
import hashlib
import os
import shutil
import signal
import sqlite3
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.auth.sigv4 import Verifier, utc_now
from storage.client.sdk import S3, url_path
from storage.index.objects import delete_object
from storage.index.reads import find_object
from storage.index.references import move_extents_of
from storage.sharing import sharer
from storage.sharing.sharer import MIN_BYTES, Sharer
from storage.store import Store
from tests.evidence import count
from tests.storage.stores import KEYS, ROOT_KEY, Raw, StoreThread, memory_folder
from tests.storage.test_crash import StoreProcess, check_folder
from tests.storage.test_index import check_references

LARGE = os.urandom(MIN_BYTES * 3 + 17)
OTHER = os.urandom(len(LARGE))
FAST = 2.0**40


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setattr(sharer, "REST_S", 0.01)


@pytest.fixture
def store(tmp_path, fast):
    running = StoreThread(tmp_path / "store", min_part_bytes=1, share_bytes_per_s=FAST)
    yield running
    running.stop()


@pytest.fixture
def raw(store):
    with Raw(store.endpoint()) as raw:
        for bucket in ("models", "others"):
            raw.send("PUT", f"/{bucket}")
        yield raw


def files(store) -> list[Path]:
    return sorted(path for path in (store.settings.root / "blobs").rglob("*") if path.is_file())


def until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def references_hold(store) -> None:
    db = sqlite3.connect(store.settings.root / "meta.db")
    try:
        check_references(db)
    finally:
        db.close()


def test_equal_objects_of_two_buckets_are_one_file(store, raw):
    raw.put("models", "a", LARGE)
    raw.put("others", "b", LARGE)
    raw.put("others", "c", OTHER)

    until(lambda: len(files(store)) == 2)
    references_hold(store)
    assert raw.get("models", "a").body == raw.get("others", "b").body == LARGE
    assert raw.get("others", "c").body == OTHER


def test_the_file_goes_with_its_last_object(store, raw):
    raw.put("models", "a", LARGE)
    raw.put("others", "b", LARGE)
    until(lambda: len(files(store)) == 1)

    raw.send("DELETE", "/models/a")
    assert raw.get("others", "b").body == LARGE
    raw.send("DELETE", "/others/b")
    until(lambda: files(store) == [])
    raw.put("models", "a", LARGE)  # what was known of the first file is no trap

    assert raw.get("models", "a").body == LARGE


def test_parts_and_one_put_share_when_the_whole_is_the_same(store, raw):
    raw.put("models", "whole", LARGE)
    upload = raw.create_upload("others", "parts")
    half = len(LARGE) // 2 + 1
    named = [
        (n, raw.put_part("others", "parts", upload, n, data).headers["etag"])
        for n, data in ((1, LARGE[:half]), (2, LARGE[half:]))
    ]
    done = raw.complete("others", "parts", upload, named)

    until(lambda: len(files(store)) == 1)
    references_hold(store)
    got = raw.get("others", "parts")
    assert got.body == LARGE
    assert got.headers["etag"].strip('"').endswith("-2")
    assert done.status == 200


def test_nothing_that_a_client_sees_changes(store, raw):
    raw.put("models", "a", LARGE)
    raw.put("others", "b", LARGE)
    before = {key: value for key, value in raw.get("others", "b").headers.items() if key != "date"}
    feed = lambda: asyncio.run(changes(store))  # noqa: E731 - asked twice
    told = feed()
    until(lambda: len(files(store)) == 1)
    after = {key: value for key, value in raw.get("others", "b").headers.items() if key != "date"}

    drop = {"x-amz-request-id", "x-amz-id-2"}
    assert {k: v for k, v in before.items() if k not in drop} == {
        k: v for k, v in after.items() if k not in drop
    }
    assert feed() == told


async def changes(store):
    async with S3(store.endpoint()) as s3:
        return (await s3.changes("others", 0, wait_s=0.0)).changes


def test_small_bodies_are_left_alone(store, raw):
    for key in ("a", "b"):
        raw.put("models", key, LARGE[: MIN_BYTES - 1])
    raw.put("models", "c", LARGE)
    raw.put("models", "d", LARGE)

    until(lambda: len(files(store)) == 3)


def test_a_copy_of_a_copy_follows(store, raw):
    """A copy names its source's file: when both move to the twin, that file goes."""
    raw.put("models", "first", LARGE)
    raw.put("others", "b", LARGE)
    raw.send("PUT", "/others/copy", "", {"x-amz-copy-source": url_path("others", "b")})

    until(lambda: len(files(store)) == 1)
    references_hold(store)
    assert raw.get("others", "copy").body == LARGE


# Inside -------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def opened(folder: Path):
    store = Store(folder, Verifier(KEYS, ROOT_KEY), "us-east-1", 1, utc_now)
    try:
        yield store, Sharer(store, FAST)
    finally:
        await store.close()


def filled(folder: Path, *bodies: bytes) -> None:
    running = StoreThread(folder)
    with Raw(running.endpoint()) as raw:
        raw.send("PUT", "/models")
        for number, body in enumerate(bodies):
            assert raw.put("models", f"k{number}", body).status == 200
    running.stop()


def extents(store, key):
    return find_object(store.index.reader(), "models", key).extents


async def test_equal_sums_are_no_proof(tmp_path):
    """The sum of the second is changed in the index to that of the first, as if somebody had made such a body."""
    filled(tmp_path, LARGE, OTHER)
    async with opened(tmp_path) as (store, sharing):
        first, second = extents(store, "k0")[0], extents(store, "k1")[0]

        row = find_object(store.index.reader(), "models", "k1")
        forged = replace(second, crc64=first.crc64)
        assert await store.commit(lambda tx: move_extents_of(tx, row, second, forged))
        while await sharing.step():
            pass

        assert extents(store, "k1")[0].blob == second.blob
        assert extents(store, "k0")[0].blob == first.blob


async def test_what_is_overwritten_while_it_is_compared_is_not_touched(tmp_path, monkeypatch):
    filled(tmp_path, LARGE, LARGE)
    async with opened(tmp_path) as (store, sharing):

        async def overwritten(*_):
            await store.commit(lambda tx: delete_object(tx, "models", "k1"))
            return True

        monkeypatch.setattr(sharing, "_same", overwritten)
        while await sharing.step():
            pass

        assert find_object(store.index.reader(), "models", "k1") is None
        check_references(store.index.reader())


async def test_a_twin_that_goes_while_it_is_compared_is_not_named(tmp_path, monkeypatch):
    filled(tmp_path, LARGE, LARGE)
    async with opened(tmp_path) as (store, sharing):

        async def gone(*_):
            await store.commit(lambda tx: delete_object(tx, "models", "k0"))
            return True

        monkeypatch.setattr(sharing, "_same", gone)
        before = extents(store, "k1")
        while await sharing.step():
            pass

        assert extents(store, "k1") == before
        check_references(store.index.reader())


async def test_a_flipped_bit_is_not_shared(tmp_path):
    filled(tmp_path, LARGE, LARGE)
    async with opened(tmp_path) as (store, sharing):
        path = store.blobs.path(extents(store, "k0")[0].blob)
        with path.open("r+b") as file:
            file.seek(70_000)
            byte = file.read(1)
            file.seek(70_000)
            file.write(bytes([byte[0] ^ 1]))
        while await sharing.step():
            pass

        assert extents(store, "k0") != extents(store, "k1")


async def test_it_goes_on_where_it_stopped(tmp_path):
    filled(tmp_path, LARGE)
    async with opened(tmp_path) as (store, sharing):
        assert await sharing.step()
        assert not await sharing.step()
    filled(tmp_path, LARGE, LARGE)  # k0 again, and k1
    async with opened(tmp_path) as (store, sharing):
        while await sharing.step():
            pass

        assert extents(store, "k0") == extents(store, "k1")
        check_references(store.index.reader())


@settings(max_examples=count(6, 15), deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([LARGE, OTHER, LARGE[:-1], b""])), max_size=12)
)
def test_any_history_ends_with_one_file_for_each_body(history):
    """b"" deletes. Whatever the order, what is read is what was put last, and equal bodies have one file."""
    folder = memory_folder()

    async def scene(wanted):
        async with opened(folder) as (store, sharing):
            while await sharing.step():
                pass
            check_references(store.index.reader())
            names = {key: extents(store, key)[0].blob for key in wanted}
            assert {
                body: len({names[k] for k in wanted if wanted[k] == body}) for body in wanted.values()
            } == (dict.fromkeys(wanted.values(), 1))

    wanted: dict[str, bytes] = {}
    running = StoreThread(folder)
    with Raw(running.endpoint()) as raw:
        raw.send("PUT", "/models")
        for key, body in history:
            if body:
                raw.put("models", key, body)
                wanted[key] = body
            else:
                raw.send("DELETE", f"/models/{key}")
                wanted.pop(key, None)
    running.stop()
    asyncio.run(scene(wanted))
    running = StoreThread(folder)
    with Raw(running.endpoint()) as raw:
        assert {key: raw.get("models", key).body for key in wanted} == wanted
    running.stop()
    shutil.rmtree(folder)


def test_a_kill_on_the_way_leaves_both_copies_or_one(tmp_path):
    """The process is killed at some moment after the second of two equal puts; the next one shares, and all is read."""
    for number in range(4):
        store = StoreProcess(tmp_path / str(number))
        with Raw(store.endpoint) as raw:
            raw.send("PUT", "/models")
            for key in ("a", "b"):
                raw.put("models", key, LARGE)
        time.sleep(0.2 * number)  # the task rests 0.5 s after a start
        store.process.send_signal(signal.SIGKILL)
        store.process.wait()
        again = StoreProcess(tmp_path / str(number))
        with Raw(again.endpoint) as raw:
            until(lambda folder=tmp_path / str(number): count_blobs(folder) == 1)
            digests = {hashlib.md5(raw.get("models", key).body).hexdigest() for key in ("a", "b")}
        assert again.stop() == 0
        assert digests == {hashlib.md5(LARGE).hexdigest()}
        check_folder(tmp_path / str(number) / "store")


def count_blobs(folder: Path) -> int:
    return sum(1 for path in (folder / "store" / "blobs").rglob("*") if path.is_file())

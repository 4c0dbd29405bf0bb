"""A flipped bit is not served, is found, is moved aside, and is mended from another region."""

import asyncio
import errno
import hashlib
import json
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from deploy.config.read import load
from deploy.roles.runner import other_copies
from storage.auth.sigv4 import Verifier, utc_now
from storage.client.sdk import S3, url_path
from storage.disk import scrub
from storage.disk.scrub import Pace, Scrubber
from storage.index.damage import read_damages
from storage.index.objects import delete_object
from storage.store import Store
from tests.storage.stores import KEYS, ROOT_KEY, Raw, StoreThread

LARGE = bytes(range(256)) * 4000
OTHER = LARGE[::-1]


@contextmanager
def opened(root: Path):
    store = StoreThread(root, min_part_bytes=1)
    try:
        with Raw(store.endpoint()) as raw:
            yield raw
    finally:
        store.stop()


def fill(root: Path) -> None:
    """A small object, two large ones, a copy, and one of two pieces."""
    with opened(root) as raw:
        raw.send("PUT", "/models")
        raw.put("models", "small", b"in the index")
        raw.put("models", "a", LARGE)
        raw.put("models", "b", OTHER)
        raw.send("PUT", "/models/z-copy", "", {"x-amz-copy-source": url_path("models", "a")})
        upload = raw.create_upload("models", "two")
        raw.put_part("models", "two", upload, 1, LARGE[:1000])
        raw.put_part("models", "two", upload, 2, LARGE)  # larger than the first: a file of its own
        named = [(1, hashlib.md5(LARGE[:1000]).hexdigest()), (2, hashlib.md5(LARGE).hexdigest())]
        assert raw.complete("models", "two", upload, named).status == 200


def file_of(root: Path, key: str, which: int = 0) -> Path:
    db = sqlite3.connect(root / "meta.db")
    (text,) = db.execute("SELECT extents FROM objects WHERE key = ?", (key.encode(),)).fetchone()
    db.close()
    blob = json.loads(text)[which][0]
    return root / "blobs" / blob[-1] / blob


def flip(path: Path, at: int = 12_345) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


@asynccontextmanager
async def open_store(root: Path) -> AsyncIterator[Store]:
    store = Store(root, Verifier(KEYS, ROOT_KEY), "us-east-1", 1, utc_now)
    try:
        yield store
    finally:
        store.begin_close()
        await store.close()


@dataclass
class Time:
    now_s: float = 0.0
    slept_s: list[float] = field(default_factory=list)

    def clock(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        self.slept_s.append(seconds)


async def one_pass(store: Store, *sources, pace: Pace | None = None, time: Time | None = None) -> int:
    time = time or Time()
    scrubber = Scrubber(store, sources, pace or Pace(), time.clock, time.sleep)
    num_steps = 0
    while await scrubber.step():
        num_steps += 1
    return num_steps


def test_a_flipped_bit_of_an_earlier_start_is_not_served(tmp_path, caplog):
    fill(tmp_path)
    damaged = file_of(tmp_path, "a")
    flip(damaged)

    with opened(tmp_path) as raw:
        first, again = raw.get("models", "a"), raw.get("models", "a", range="bytes=0-9")
        others = [raw.get("models", key).body for key in ("b", "small")]
        alive = raw.put("models", "a2", LARGE).status

    assert [(answer.status, answer.code) for answer in (first, again)] == [(500, "InternalError")] * 2
    assert (others, alive) == ([OTHER, b"in the index"], 200)
    assert not damaged.exists()
    assert (tmp_path / "aside" / damaged.name).stat().st_size == len(LARGE)
    assert "models/a: bytes of blob" in caplog.text


def test_only_the_damaged_piece_is_refused(tmp_path):
    fill(tmp_path)
    flip(file_of(tmp_path, "two", 1))

    with opened(tmp_path) as raw:
        good = raw.get("models", "two", range="bytes=0-999")
        bad = raw.get("models", "two", range="bytes=500-1500")

    assert (good.status, good.body) == (206, LARGE[:1000])
    assert (bad.status, bad.code) == (500, "InternalError")


@pytest.mark.parametrize("asked", [{}, {"range": "bytes=0-1"}])
def test_a_flipped_bit_in_the_index_is_not_served(tmp_path, asked):
    fill(tmp_path)
    with opened(tmp_path) as raw:
        db = sqlite3.connect(tmp_path / "meta.db")
        db.execute("UPDATE inline SET data = ?", (b"iN the index",))
        db.commit()
        db.close()
        answer = raw.get("models", "small", **asked)

    assert (answer.status, answer.code) == (500, "InternalError")


def test_a_shortened_file_is_not_served(tmp_path):
    fill(tmp_path)
    os.truncate(file_of(tmp_path, "a"), len(LARGE) - 1)

    with opened(tmp_path) as raw:
        assert raw.get("models", "a", range="bytes=0-99999").status == 500


async def test_a_pass_finds_what_was_flipped_and_goes_on(tmp_path):
    await asyncio.to_thread(fill, tmp_path)
    damaged = file_of(tmp_path, "b")
    flip(damaged)
    async with open_store(tmp_path) as store:
        num_steps = await one_pass(store)
        found = read_damages(store.index.reader())
        again = await one_pass(store)
        same = read_damages(store.index.reader())

    assert num_steps == again == 5
    assert [(each.key, each.extent.blob, each.repaired_ms) for each in found] == [("b", damaged.name, None)]
    assert same == found
    assert [path.name for path in (tmp_path / "aside").iterdir()] == [damaged.name]


def test_what_was_written_since_the_start_is_not_read_again_for_a_get(tmp_path):
    """What the docstring of `sound` says is not held, until the next start or the scrubber: a fact, not a wish."""
    with opened(tmp_path) as raw:
        raw.send("PUT", "/models")
        raw.put("models", "a", LARGE)
        flip(file_of(tmp_path, "a"))
        assert raw.get("models", "a").body != LARGE
    with opened(tmp_path) as raw:
        assert raw.get("models", "a").status == 500


class Liar:
    """A region whose copy is damaged too."""

    async def stream(self, bucket, key, **asked):
        yield OTHER


async def test_another_region_mends_every_object_that_shares_the_bytes(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    await asyncio.to_thread(fill, here)
    await asyncio.to_thread(fill, there)
    damaged = [file_of(here, "a"), file_of(here, "two", 1)]
    for path in damaged:
        flip(path)
    other = await asyncio.to_thread(StoreThread, there, 1)
    async with S3(other.endpoint()) as source, open_store(here) as store:
        await one_pass(store, Liar(), source)
        found = read_damages(store.index.reader())
    await asyncio.to_thread(other.stop)

    assert {each.key for each in found if each.repaired_ms} == {"a", "two"}
    assert {path.name for path in damaged} == {path.name for path in (here / "aside").iterdir()}
    with opened(here) as raw:
        bodies = [raw.get("models", key).body for key in ("a", "z-copy", "two")]
        etags = {raw.get("models", key).headers["etag"] for key in ("a", "z-copy")}
    assert bodies == [LARGE, LARGE, LARGE[:1000] + LARGE]
    assert etags == {f'"{hashlib.md5(LARGE).hexdigest()}"'}


async def test_a_wrong_copy_mends_nothing(tmp_path):
    await asyncio.to_thread(fill, tmp_path)
    flip(file_of(tmp_path, "a"))
    async with open_store(tmp_path) as store:
        await one_pass(store, Liar())
        found = read_damages(store.index.reader())

    assert [each.repaired_ms for each in found] == [None]
    with opened(tmp_path) as raw:
        assert raw.get("models", "a").status == 500


async def test_a_pass_goes_on_where_it_was_stopped(tmp_path):
    await asyncio.to_thread(fill, tmp_path)
    time = Time()
    async with open_store(tmp_path) as store:
        scrubber = Scrubber(store, (), Pace(), time.clock, time.sleep)
        assert await scrubber.step()
        assert await scrubber.step()
    async with open_store(tmp_path) as store:
        assert await one_pass(store) == 3


async def test_reading_is_as_slow_as_was_asked(tmp_path):
    await asyncio.to_thread(fill, tmp_path)
    time = Time()
    async with open_store(tmp_path) as store:
        await one_pass(store, pace=Pace(100_000.0), time=time)

    num_bytes = 4 * len(LARGE) + 1000  # a, b, the copy again, and both pieces
    assert sum(time.slept_s) == pytest.approx(num_bytes / 100_000)


def test_time_spent_reading_counts_as_rest():
    assert Pace(1000.0).rest_s(500, 0.2) == pytest.approx(0.3)
    assert Pace(1000.0).rest_s(500, 0.9) == 0.0


def test_a_store_of_the_fleet_asks_the_home_first(tmp_path):
    from tests.deploy.test_config import dt, fleet, pki

    authority = pki.ensure(tmp_path / "tls", dt.datetime.now(dt.UTC))
    config = load(fleet.write(fleet.FleetPlan(tmp_path), authority))

    for region in config.regions:
        asked = [endpoint.url for endpoint in other_copies(config, region)]
        own, home = config.regions[region].store, config.regions[config.home].store
        assert own not in asked
        assert len(asked) == len(config.regions) - 1
        assert asked[0] == home or own == home


async def test_a_sector_that_cannot_be_read_is_lost_too(tmp_path, monkeypatch):
    class Unreadable:
        def __getattr__(self, name):
            return getattr(os, name)

        def pread(self, *_):
            raise OSError(errno.EIO, "Input/output error")

    await asyncio.to_thread(fill, tmp_path)
    monkeypatch.setattr(scrub, "os", Unreadable())
    async with open_store(tmp_path) as store:
        assert await one_pass(store) == 5
        assert {each.key for each in read_damages(store.index.reader())} == {"a", "b", "two"}


async def test_what_an_overwrite_took_away_is_no_damage(tmp_path, monkeypatch):
    await asyncio.to_thread(fill, tmp_path)
    async with open_store(tmp_path) as store:
        row = scrub.next_object(store.index.reader())
        flip(file_of(tmp_path, "a"))
        await store.commit(lambda tx: delete_object(tx, row.bucket, row.key))
        rows = [row, None]  # as a pass has it that read the row before
        monkeypatch.setattr(scrub, "next_object", lambda _: rows.pop(0))
        assert await one_pass(store) == 1

        assert read_damages(store.index.reader()) == []


async def test_older_versions_are_read_too(tmp_path):
    """A pass reads every version of a key, also one that a newer one or a delete marker hides."""
    state = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
    with opened(tmp_path) as raw:
        raw.send("PUT", "/models")
        assert raw.send("PUT", "/models", "versioning=", body=state.encode()).status == 200
        raw.put("models", "v", LARGE)
        raw.put("models", "v", OTHER)
        raw.put("models", "w", OTHER)
        raw.send("DELETE", "/models/v")
    db = sqlite3.connect(tmp_path / "meta.db")
    rows = db.execute("SELECT extents, etag FROM versions WHERE key = ? ORDER BY seq", (b"v",)).fetchall()
    db.close()
    old = next(json.loads(extents)[0][0] for extents, etag in rows if etag == hashlib.md5(LARGE).hexdigest())
    flip(tmp_path / "blobs" / old[-1] / old)

    async with open_store(tmp_path) as store:
        num_steps = await one_pass(store)
        again = await one_pass(store)
        found = read_damages(store.index.reader())

    assert (num_steps, again) == (4, 4)  # v's marker and its two versions, and w
    assert [(each.key, each.extent.blob) for each in found] == [("v", old)]
    assert (tmp_path / "aside" / old).exists()

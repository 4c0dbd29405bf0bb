"""Blobs over a bad link: verified before they are visible, once whoever asks, on from where it was cut."""

import asyncio

import pytest
from blake3 import blake3

from regions.objects.blobs import Holdings
from regions.rollout.replicate import PULLS_AT_ONCE, CorruptError, Replicator
from storage.client.sdk import StoreError, Unreachable
from tests.regions.fake_store import Disk, FakeStore
from tests.regions.folders import safetensors, sharded, whole
from tests.regions.made_revision import revision_of

BLOBS = "nearfield-blobs"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr("regions.rollout.replicate.RESUME_PAUSE_S", 0.001)


class Link:
    """A home that has a model's blobs, a region that has none, and the link between them."""

    def __init__(self, files=None, **kwargs):
        self.files = files or whole()
        self.revision = revision_of(self.files)
        self.own, self.home = FakeStore(Disk(), **kwargs), FakeStore(Disk(), **kwargs)
        for disk in (self.own.disk, self.home.disk):
            disk.buckets[BLOBS] = {}
        for data in self.files.values():
            self.home.disk.put(BLOBS, blake3(data).hexdigest(), data)
        self.holdings = Holdings(self.own)
        self.replicator = Replicator(self.own, self.home, self.holdings)
        self.progress = []

    async def bring(self):
        return await self.replicator.bring(
            self.revision, lambda percent, eta_s: self.progress.append((percent, eta_s))
        )

    @property
    def size(self):
        return sum(map(len, self.files.values()))

    def is_whole(self):
        return {key: found.data for key, found in self.own.disk.buckets[BLOBS].items()} == {
            blake3(data).hexdigest(): data for data in self.files.values()
        }


async def test_every_blob_is_brought_and_the_bytes_are_counted():
    link = Link(sharded(3))

    assert await link.bring() == link.size
    assert link.is_whole()
    assert await link.bring() == 0
    assert link.progress
    assert all(0 <= percent <= 100 for percent, _ in link.progress)


async def test_only_what_is_missing_crosses():
    link = Link()
    there = link.files["config.json"]
    link.own.disk.put(BLOBS, blake3(there).hexdigest(), there)

    assert await link.bring() == link.size - len(there)


async def test_a_blob_of_the_wrong_size_is_brought_again():
    link = Link()
    link.own.disk.put(BLOBS, blake3(link.files["config.json"]).hexdigest(), b"half")

    await link.bring()
    assert link.is_whole()


async def test_one_flight_for_any_number_that_ask():
    link = Link()

    assert await asyncio.gather(*(link.bring() for _ in range(20))) == [link.size] * 20
    assert len([op for op in link.home.log if op[0] == "stream"]) == 3


async def test_who_gives_up_does_not_end_the_flight_of_the_others():
    link = Link()
    impatient, patient = asyncio.create_task(link.bring()), asyncio.create_task(link.bring())
    await asyncio.sleep(0)
    impatient.cancel()

    assert await patient == link.size
    assert link.is_whole()


@pytest.mark.parametrize("flip", range(0, 80, 7))
async def test_a_flipped_bit_never_becomes_visible(flip):
    link = Link()
    key = blake3(link.files["model.safetensors"]).hexdigest()
    found = link.home.disk.buckets[BLOBS][key]
    data = bytearray(found.data)
    data[flip] ^= 1
    found.data = bytes(data)

    with pytest.raises(CorruptError):
        await link.bring()
    assert key not in link.own.disk.buckets[BLOBS]

    found.data = link.files["model.safetensors"]
    await link.bring()
    assert link.is_whole()


async def test_a_cut_blob_goes_on_where_it_was():
    link, cuts = Link(), []
    key = blake3(link.files["model.safetensors"]).hexdigest()

    def cut(op, bucket, at):
        if op == "chunk" and at == key and len(cuts) < 30:
            cuts.append(at)
            if len(cuts) % 3 == 0:
                raise Unreachable("reset", "the connection was cut")

    link.home.before = cut
    await link.bring()

    assert link.is_whole()
    assert len([op for op in link.home.log if op[0] == "stream" and op[2] == key]) > 3
    assert link.home.bytes_out == link.size, "no byte crossed twice"


async def test_a_home_that_stays_away_ends_it_with_an_error_and_nothing_half():
    link = Link()
    link.home.offline = True

    with pytest.raises(StoreError):
        await link.bring()
    assert link.own.disk.buckets[BLOBS] == {}
    link.home.offline = False
    assert await link.bring() == link.size


async def test_a_blob_that_home_no_longer_has_is_an_error():
    link = Link()
    link.home.disk.buckets[BLOBS].clear()

    with pytest.raises(StoreError):
        await link.bring()


async def test_a_failing_blob_leaves_the_others_where_they_are():
    link = Link(sharded(4))
    del link.home.disk.buckets[BLOBS][blake3(link.files["config.json"]).hexdigest()]

    with pytest.raises(StoreError):
        await link.bring()
    assert len(link.own.disk.buckets[BLOBS]) == len(link.files) - 1


async def test_no_more_than_a_few_blobs_are_in_flight():
    link, most = Link(sharded(12)), 0
    open_now = set()

    def watch(op, bucket, key):
        nonlocal most
        open_now.add(key)
        most = max(most, len(open_now))

    def closed(op, bucket, key):
        if op == "put":
            open_now.discard(key)

    link.home.before, link.own.before = watch, closed
    await link.bring()
    assert most <= PULLS_AT_ONCE


async def test_the_bandwidth_is_measured_on_real_pulls_only():
    small = Link()
    await small.bring()
    assert small.replicator.bytes_per_s is None

    large = Link({**whole(), "model.safetensors": safetensors({"a": 1 << 19})}, chunk_bytes=1 << 18)
    ticks = iter(range(100))
    large.replicator._clock = lambda: next(ticks)
    await large.bring()
    assert large.replicator.bytes_per_s > 1 << 17


async def test_closing_ends_flights_and_leaves_nothing_visible():
    link = Link()
    bringing = asyncio.create_task(link.bring())
    while not link.home.log:  # noqa: ASYNC110 - until the first blob is on its way
        await asyncio.sleep(0)
    await link.replicator.close()

    with pytest.raises(asyncio.CancelledError):
        await bringing
    assert all(blake3(found.data).hexdigest() == key for key, found in link.own.disk.buckets[BLOBS].items())


# ---- who needs which blobs


async def test_a_blob_goes_when_the_last_revision_that_needs_it_is_let_go():
    link = Link()
    other = revision_of({**link.files, "model.safetensors": safetensors(fill=b"\x09")}, model="acme/other")
    link.holdings.hold(link.revision)
    link.holdings.hold(other)
    await link.bring()

    assert await link.holdings.let_go("acme/m", link.revision.id) == 1
    assert len(link.own.disk.buckets[BLOBS]) == 2
    assert await link.holdings.let_go("acme/m", link.revision.id) == 0
    assert await link.holdings.let_go("acme/other", other.id) == 3
    assert not link.own.disk.buckets[BLOBS]


async def test_a_pinned_blob_is_never_deleted():
    link = Link()
    await link.bring()
    keys = [each.blake3 for each in link.revision.files]
    with link.holdings.pinned(keys), link.holdings.pinned(keys):
        assert await link.holdings.sweep(9e12) == 0
    with link.holdings.pinned(keys[:1]):
        assert await link.holdings.sweep(9e12) == 2
    assert await link.holdings.sweep(9e12) == 1


async def test_young_orphans_stay():
    link = Link()
    await link.bring()

    assert await link.holdings.sweep(1_000_001.0) == 0
    assert link.is_whole()

"""The probe believes nothing: a condition that is ignored is found out, in words, before anything is lost by it."""

import asyncio
from dataclasses import replace

import pytest

from storage.client.answers import Changes, Got, NotFound, PreconditionFailed, StoreError, Unreachable
from storage.client.probe import OURS, SCRATCH, StoreUnfit, probe, refuse_unfit
from storage.client.sdk import S3
from tests.storage.rclone import needs_rclone, running_rclone


class Scripted:
    """A store in a dict that can ignore or refuse what the probe asks."""

    def __init__(self, ignores=(), refuses=(), gone_after=None):
        self.objects, self.ignores, self.refuses = {}, set(ignores), set(refuses)
        self.calls, self.gone_after = 0, gone_after

    def _call(self, *asked):
        self.calls += 1
        if self.gone_after is not None and self.calls > self.gone_after:
            raise Unreachable("Unreachable", "gone")
        for what in asked:
            if what in self.refuses:
                raise StoreError("NotImplemented", what, 501)

    def _etag(self, key):
        return str(hash(self.objects[key])) if key in self.objects else None

    async def put(self, bucket, key, data, *, if_none_match=False, if_match=None, crc32=None):
        asked = {"create": if_none_match, "replace": if_match, "sum": crc32}
        self._call(*(what for what, given in asked.items() if given))
        if crc32 and "sum" not in self.ignores:
            raise StoreError("BadDigest", "other bytes", 400)
        if if_none_match and "create" not in self.ignores and key in self.objects:
            raise PreconditionFailed("PreconditionFailed", "there is one", 412)
        if "race" in self.ignores:
            await asyncio.sleep(0)  # it has looked, and writes later
        if if_match and "replace" not in self.ignores and if_match != self._etag(key):
            raise PreconditionFailed("PreconditionFailed", "another", 412)
        self.objects[key] = data
        return self._etag(key)

    async def get(self, bucket, key, *, if_match=None, start=None, length=None):
        self._call(*(["read"] if if_match else []), *(["range"] if length else []))
        if key not in self.objects:
            raise NotFound("NoSuchKey", "none", 404)
        if if_match and "read" not in self.ignores and if_match != self._etag(key):
            raise PreconditionFailed("PreconditionFailed", "another", 412)
        data = self.objects[key]
        if length and "range" not in self.ignores:
            data = data[start : start + length]
        return Got(data, self._etag(key), len(data), {})

    async def delete(self, bucket, key):
        self._call()
        self.objects.pop(key, None)

    async def copy(self, bucket, key, to_bucket, to_key):
        self._call("copy")
        self.objects[to_key] = b"" if "copy" in self.ignores else self.objects[key]
        return self._etag(to_key)

    async def changes(self, bucket, since, *, wait_s, limit):
        self._call("feed")
        return Changes(0, ())


NEEDED = {
    "create": "creates_once",
    "read": "reads_exactly",
    "range": "ranges",
    "copy": "copies",
}


async def test_a_store_that_does_everything():
    store = Scripted()

    assert await probe(store, "b") == OURS
    assert OURS.faults() == ()
    assert store.objects == {}


@pytest.mark.parametrize("how", ["ignores", "refuses"])
@pytest.mark.parametrize("what", NEEDED)
async def test_each_missing_condition_is_found_and_said(what, how):
    store = Scripted(**{how: {what}})
    found = await probe(store, "b")

    alone = {"creates_alone": False} if what == "create" else {}  # nobody is alone where nobody is refused
    assert found == replace(OURS, **{NEEDED[what]: False}, **alone)
    assert len(found.faults()) == 1
    assert all(key.startswith(SCRATCH) for key in store.objects)


@pytest.mark.parametrize("how", ["ignores", "refuses"])
async def test_no_exact_replacement_is_worked_around_and_said(how):
    store = Scripted(**{how: {"replace"}})
    found = await probe(store, "b")

    assert found == replace(OURS, replaces_exactly=False)
    assert found.faults() == ()
    assert ["If-Match on PUT" in words for words in found.remarks()] == [True]
    assert store.objects == {}


async def test_a_store_that_does_not_sum_what_it_is_sent_is_named_so():
    found = await probe(Scripted(ignores={"sum"}), "b")

    assert found == replace(OURS, sums=False)
    assert found.faults() == ()
    assert ["CRC32" in words for words in found.remarks()] == [True]


async def test_a_creation_that_looks_first_and_writes_later_is_caught_by_a_race():
    store = Scripted(ignores={"race"}, refuses={"replace"})
    found = await probe(store, "b")

    assert found == replace(OURS, replaces_exactly=False, creates_alone=False)
    assert found.faults() == (), "numbered objects are read back before they count"
    assert len(found.remarks()) == 2
    assert store.objects == {}


async def test_a_racing_store_whose_conditions_would_be_trusted_is_refused():
    store = Scripted(ignores={"race"}, refuses={"feed"})

    with pytest.raises(StoreUnfit, match=r"region iad.*several creators"):
        await refuse_unfit(store, "b", "the store of region iad")
    assert store.objects == {}


async def test_a_fit_store_is_judged_by_the_probe_and_ours_by_its_feed():
    ours, other = Scripted(), Scripted(refuses={"feed", "replace"})

    assert await refuse_unfit(ours, "b", "ours") == OURS
    assert ours.calls == 1
    assert await refuse_unfit(other, "b", "other") == replace(OURS, has_feed=False, replaces_exactly=False)


async def test_no_feed_is_no_fault():
    found = await probe(Scripted(refuses={"feed"}), "b")  # a bucket that is listed instead

    assert found == replace(OURS, has_feed=False)
    assert found.faults() == ()


@pytest.mark.parametrize("calls", range(45))
async def test_a_store_that_goes_away_is_not_judged(calls):
    with pytest.raises(Unreachable):
        await probe(Scripted(gone_after=calls), "b")


async def test_our_own_store_does_everything(store):
    async with S3(store.endpoint()) as s3:
        assert await probe(s3, "models") == OURS
        assert [entry async for entry in s3.list("models", SCRATCH)] == []


@pytest.fixture
def rclone(tmp_path):
    (tmp_path / "models").mkdir()
    with running_rclone(tmp_path) as endpoint:
        yield endpoint


@needs_rclone
async def test_an_endpoint_that_ignores_conditions_is_refused(rclone):
    async with S3(rclone) as s3:
        found = await probe(s3, "models")

    assert not found.creates_once
    assert not found.sums
    assert not found.has_feed
    assert any("If-None-Match" in words for words in found.faults())


@needs_rclone
async def test_a_region_on_such_an_endpoint_does_not_start_and_says_why(rclone):
    async with S3(rclone) as s3:
        with pytest.raises(
            StoreUnfit, match=r"the store of region iad cannot hold models.*If-None-Match: \*"
        ):
            await refuse_unfit(s3, "models", "the store of region iad")

"""On a real OpenStack Swift: what the probe finds there, and that a register there has one winner a move."""

import asyncio

import pytest

from regions.map.names import SYSTEM_BUCKET
from regions.objects.numbered import Numbered
from regions.objects.register import Found
from storage.client.probe import probe, refuse_unfit
from storage.client.sdk import S3, PreconditionFailed, StoreError
from tests.storage.swift import needs_swift

KEY = "models/acme/m.json"
SETTLE_S = 1.0
pytestmark = [needs_swift, pytest.mark.timeout(300)]  # it may have to be started


@pytest.fixture
async def s3(swift):
    async with S3(swift) as client:
        await client.ensure_bucket(SYSTEM_BUCKET)
        yield client


async def test_the_probe_finds_what_swift_does_and_what_it_does_not(s3):
    found = await probe(s3, SYSTEM_BUCKET)

    assert (found.creates_once, found.reads_exactly, found.ranges, found.copies, found.sums) == (True,) * 5
    assert (found.replaces_exactly, found.has_feed) == (False, False)
    assert any("If-Match on PUT" in words for words in found.remarks())
    assert (await refuse_unfit(s3, SYSTEM_BUCKET, "swift")).faults() == ()


async def test_a_conditional_replacement_is_refused_in_words_not_ignored(s3):
    etag = await s3.put(SYSTEM_BUCKET, "plain", b"1")
    with pytest.raises(StoreError) as refused:
        await s3.put(SYSTEM_BUCKET, "plain", b"2", if_match=etag)

    assert (refused.value.code, refused.value.status) == ("NotImplemented", 501)
    assert (await s3.get(SYSTEM_BUCKET, "plain")).data == b"1"


async def append(client, word):
    """Moves the register until `word` was added; each try is one of several at once."""
    register = Numbered(client, settle_s=SETTLE_S)
    while True:
        found = await register.read(KEY)
        words = found[0].split() if found else []
        try:
            await register.move(KEY, b" ".join([*words, word]), found[1] if found else None)
        except PreconditionFailed:
            continue
        return


async def test_of_several_movers_at_once_none_is_lost(s3):
    words = [b"a", b"b", b"c", b"d"]
    async with asyncio.timeout(200):
        await asyncio.gather(*(append(s3, word) for word in words))
    found = Found(s3)
    value = (await found.read(KEY))[0]

    assert sorted(value.split()) == words
    await Found(s3, Numbered(s3, settle_s=SETTLE_S)).clear(KEY)
    assert await found.read(KEY) is None

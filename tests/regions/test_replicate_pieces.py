"""A large blob comes in pieces that outlive the process: killed anywhere, the next one goes on."""

import asyncio
import random

import pytest
from blake3 import blake3

from regions.objects.blobs import ORPHAN_AGE_S, Holdings
from regions.rollout.replicate import CorruptError, Replicator
from storage.client.sdk import S3, StoreError, Unreachable
from tests.evidence import count
from tests.regions.fake_store import FakeStore, Life
from tests.regions.folders import safetensors, whole
from tests.regions.test_controller_real_store import keys, real_store
from tests.regions.test_replicate_blobs import BLOBS, Link

PIECE = 40


def weights(num_elements):
    """A model's file whose pieces all differ."""
    empty = safetensors({"model.embed_tokens.weight": num_elements})[: -4 * num_elements]
    return empty + random.Random(num_elements).randbytes(4 * num_elements)


DATA = weights(97)
KEY = blake3(DATA).hexdigest()


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr("regions.rollout.pieces.PIECE_BYTES", PIECE)
    monkeypatch.setattr("regions.rollout.replicate.RESUME_PAUSE_S", 0.001)


class Lives(Link):
    """A link whose region can be killed after any operation and started again."""

    def __init__(self):
        super().__init__({**whole(), "model.safetensors": DATA})

    def start(self, die_at=None):
        life = Life()
        life.die_at = die_at
        self.life = life
        self.own = FakeStore(self.own.disk, life=life)
        self.home = FakeStore(self.home.disk, life=life)
        self.holdings = Holdings(self.own)
        self.replicator = Replicator(self.own, self.home, self.holdings)

    async def killed(self, die_at):
        """Runs until the process dies there. False if it was done before."""
        self.start(die_at)
        bringing = asyncio.create_task(self.bring())
        dying = asyncio.create_task(self.life.dead.wait())
        await asyncio.wait((bringing, dying), return_when=asyncio.FIRST_COMPLETED)
        for task in (bringing, dying):
            task.cancel()
        await self.replicator.close()
        return self.life.dead.is_set()


async def test_killed_anywhere_the_next_process_goes_on_at_the_last_whole_piece():
    die_at = 0
    while True:
        link = Lives()
        if not await link.killed(die_at):
            break
        pieces = link.own.disk.keys(BLOBS, f"pulls/{KEY}/")
        is_visible = KEY in link.own.disk.buckets[BLOBS]
        assert not is_visible or link.own.disk.buckets[BLOBS][KEY].data == DATA
        small = sum(len(link.files[path]) for path in ("config.json", "tokenizer.json"))
        link.start()
        moved = await link.bring()

        if link.own.disk.keys(BLOBS, "pulls/"):  # killed while it tidied up: those are orphans
            link.holdings.hold(link.revision)
            await link.holdings.sweep(link.own.disk.now_s() + ORPHAN_AGE_S + 1)
        assert link.is_whole(), die_at
        rest = 0 if is_visible else len(DATA) - min(PIECE * len(pieces), len(DATA))
        assert rest <= moved <= rest + small, die_at
        die_at += count(5, 1)
    assert die_at > 100, "a pull has many moments"


async def test_a_piece_that_lost_a_bit_is_found_and_the_blob_is_pulled_anew():
    link = Lives()
    assert await link.killed(90)
    found = link.own.disk.buckets[BLOBS][link.own.disk.keys(BLOBS, "pulls/")[0]]
    found.data = bytes([found.data[0] ^ 1]) + found.data[1:]
    link.start()
    with pytest.raises(CorruptError):
        await link.bring()

    assert KEY not in link.own.disk.buckets[BLOBS]
    assert link.own.disk.keys(BLOBS, "pulls/") == []
    await link.bring()
    assert link.is_whole()


async def test_pieces_with_a_hole_count_up_to_it():
    link = Lives()
    assert await link.killed(90)
    pieces = link.own.disk.keys(BLOBS, "pulls/")
    assert len(pieces) >= 3
    link.own.disk.delete(BLOBS, pieces[1])
    link.start()

    assert await link.bring() >= len(DATA) - PIECE
    assert link.is_whole()


async def test_a_store_that_cannot_join_is_given_the_bytes_again():
    link = Lives()
    link.start()

    def refuse(op, bucket, key):
        if op == "join":
            raise StoreError("NotImplemented", "no part copies", 501)

    link.own.before = refuse
    await link.bring()
    assert link.is_whole()
    assert link.home.bytes_out == link.size


async def test_a_store_that_is_away_while_joining_is_tried_again_without_a_byte_from_home():
    link = Lives()
    link.start()

    def refuse(op, bucket, key):
        if op == "join":
            raise Unreachable("Unreachable", "away")

    link.own.before = refuse
    with pytest.raises(Unreachable):
        await link.bring()
    link.own.before = lambda op, bucket, key: None

    assert await link.bring() == 0
    assert link.is_whole()


async def test_pieces_under_way_are_kept_by_a_sweep_and_forgotten_ones_are_not():
    link = Lives()
    assert await link.killed(90)
    assert link.own.disk.keys(BLOBS, "pulls/")
    link.start()
    swept = []

    async def sweep():
        swept.append(await link.holdings.sweep(link.own.disk.now_s() + ORPHAN_AGE_S))

    tasks = []

    def meanwhile(op, bucket, key):
        if op == "begin" and not tasks:
            tasks.append(asyncio.create_task(sweep()))

    link.own.before = meanwhile
    await link.bring()
    await asyncio.gather(*tasks)
    assert swept == [0]
    assert link.is_whole()

    left = Lives()
    assert await left.killed(90)
    left.start()
    await left.holdings.sweep(left.own.disk.now_s() + ORPHAN_AGE_S + 1)
    assert left.own.disk.keys(BLOBS) == []


async def test_on_real_stores_the_pieces_are_joined_and_gone(tmp_path, monkeypatch):
    monkeypatch.setattr("regions.rollout.pieces.PIECE_BYTES", 6 << 20)
    data = weights(5 << 20)
    link = Link({**whole(), "model.safetensors": data})
    key = blake3(data).hexdigest()
    async with (
        real_store(tmp_path / "iad") as iad,
        real_store(tmp_path / "fra") as fra,
        S3(iad) as home,
        S3(fra) as own,
    ):
        for s3 in (home, own):
            await s3.ensure_bucket(BLOBS)
        for each in link.files.values():
            await home.put(BLOBS, blake3(each).hexdigest(), each)
        first = Replicator(own, home, Holdings(own))
        bringing = asyncio.create_task(first.bring(link.revision, lambda percent, eta_s: None))
        while len(await keys(own, BLOBS, "pulls/")) < 2:
            assert not bringing.done()
        await first.close()
        await asyncio.gather(bringing, return_exceptions=True)
        assert key not in await keys(own, BLOBS)

        moved = await Replicator(own, home, Holdings(own)).bring(link.revision, lambda percent, eta_s: None)
        assert moved <= len(data) - 2 * (6 << 20)
        assert await keys(own, BLOBS) == {blake3(each).hexdigest() for each in link.files.values()}
        got = b"".join([chunk async for chunk in own.stream(BLOBS, key)])
        assert got == data

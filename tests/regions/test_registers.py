"""Both layouts of a register, on stores whose every step is chosen: one winner a move, none that counted is lost."""

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regions.objects.numbered import GENERATIONS, Hint, Mark, Numbered, hint_in
from regions.objects.pointer import Pointer
from regions.objects.register import Exact, Found
from storage.client.sdk import NotFound, PreconditionFailed, StoreError
from tests.evidence import count
from tests.regions.fake_store import Disk, FakeStore
from tests.regions.simulated_store import LATEST_S, SimulatedStore, World

KEY = "models/acme/m.json"
KEPT = 2  # so that a few moves already remove what was
SETTLE_S = 1.01 * LATEST_S
WAYS = ("exact", "numbered", "numbered where creations race")


def register(way, world, settle_s=SETTLE_S):
    store = SimulatedStore(world)
    if way == "exact":
        return Exact(store)
    wait_s = settle_s if world.looks_first else 0.0
    return Numbered(store, settle_s=wait_s, kept=KEPT, pause=store.pause)


class Writer:
    """Appends its own words to the value; what it was told has happened is in `acked`."""

    def __init__(self, name, made, num_words):
        self.acked, self.seen = [], []
        self._name, self._made, self._num_words = name, made, num_words

    async def work(self):
        for number in range(self._num_words):
            try:
                await self._append(f"{self._name}{number}")
            except StoreError:  # another was first, or the store did not answer: the next word
                continue

    async def _append(self, word):
        found = await self._made.read(KEY)
        words = found[0].decode().split() if found else []
        self.seen.append(words)
        await self._made.move(KEY, " ".join([*words, word]).encode(), found[1] if found else None)
        self.acked.append(word)


def contested(way, choose, settle_s=SETTLE_S, **world):
    """The world after several writers ended or died, the writers, and the words that stand in the end."""
    made = World(choose, looks_first=way == WAYS[2], **world)
    made.last_begun_stays, made.patience = choose(2) == 1, (1, 8, 60)[choose(3)]
    writers = [Writer(name, register(way, made, settle_s), 5) for name in "abcd"]
    for each in writers:
        made.start(each.work())
    made.run()
    made.kills = made.loses_answers = False
    made.choose = lambda _: 0  # listings have caught up
    found = made.one(register(way, made, settle_s).read(KEY))
    return made, writers, found[0].decode().split() if found else []


def lost(writers, words):
    return [word for each in writers for word in each.acked if words.count(word) != 1]


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=count(100, 10_000), deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**64))
def test_no_move_that_counted_is_lost_or_shares_its_token(way, seed):
    """A word that was acknowledged and is not there, or there twice, would be one of two winners over one token."""
    _, writers, words = contested(way, random.Random(seed).randrange)

    assert lost(writers, words) == []
    assert len(words) == len(set(words))


@pytest.mark.parametrize("way", WAYS[:2])
@settings(max_examples=count(100, 10_000), deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**64))
def test_what_is_read_never_goes_back(way, seed):
    _, writers, words = contested(way, random.Random(seed).randrange)

    for each in writers:
        for earlier, later in pairwise([*each.seen, words]):
            assert later[: len(earlier)] == earlier


def test_the_simulated_race_is_a_real_one():
    """Without the wait the same schedules do lose moves: the store lets several creators believe they were first."""
    schedules = [
        contested(WAYS[2], random.Random(seed).randrange, settle_s=0.0, kills=False) for seed in range(200)
    ]

    assert sum(bool(lost(writers, words)) for _, writers, words in schedules) > 10


@pytest.mark.parametrize("way", WAYS)
def test_without_a_fault_every_move_of_a_lone_writer_counts(way):
    world = World(random.Random(1).randrange, looks_first=way == WAYS[2], loses_answers=False, kills=False)
    writer = Writer("a", register(way, world), 12)
    world.one(writer.work())

    assert len(writer.acked) == 12
    kept = [key for key in world.objects if key.startswith(GENERATIONS)]
    assert len(kept) == (0 if way == "exact" else KEPT + 1), "and what is far behind is removed"


def test_a_writer_that_slept_through_all_that_is_kept_is_refused():
    """Its number is free again: what stands at the one before tells that it was used."""
    world = World(random.Random(1).randrange, loses_answers=False, kills=False)
    stale, busy = register(WAYS[1], world), Writer("b", register(WAYS[1], world), 9)
    world.one(register(WAYS[1], world).move(KEY, b"first", None))
    store = SimulatedStore(world)
    asleep = stale._before  # the only place where it can sleep between reading and creating

    async def sleepy(key, over):
        before = await asleep(key, over)
        await busy.work()
        return before

    stale._before = sleepy

    async def moving():
        token = (await stale.read(KEY))[1]
        with pytest.raises(PreconditionFailed):
            await stale.move(KEY, b"late", token)
        with pytest.raises(NotFound):
            await store.get("", f"{GENERATIONS}{KEY}/0000000002", max_bytes=100)

    world.one(moving())
    assert len(busy.acked) == 9


# ---- clearing, layouts, and what lies there


def numbered(store, **settings):
    return Numbered(store, settle_s=0.0, **settings)


def found(disk, *, makes_numbered=True):
    store = FakeStore(disk)
    made = Found(store, numbered(store))
    made.makes_numbered = makes_numbered
    return made


def system():
    return Disk({"nearfield-system": {}})


@pytest.mark.parametrize("makes_numbered", [False, True])
async def test_cleared_is_absent_and_can_be_made_anew(makes_numbered):
    disk = system()
    made = found(disk, makes_numbered=makes_numbered)
    first = await made.move(KEY, b"1", None)
    assert await made.read(KEY) == (b"1", first)

    await found(disk, makes_numbered=False).clear(KEY)  # by a tool that has not probed the store
    assert await made.read(KEY) is None
    with pytest.raises(PreconditionFailed):
        await made.move(KEY, b"2", first)

    again = await made.move(KEY, b"3", None)
    assert await made.read(KEY) == (b"3", again)
    assert again != first
    await made.clear("models/acme/none.json")


@pytest.mark.parametrize("makes_numbered", [False, True])
async def test_who_only_reads_follows_the_layout_that_is_there(makes_numbered):
    disk = system()
    made = found(disk, makes_numbered=makes_numbered)
    token = await made.move(KEY, b"1", None)
    token = await made.move(KEY, b"2", token)

    assert await found(disk, makes_numbered=not makes_numbered).read(KEY) == (b"2", token)
    assert KEY in disk.keys("nearfield-system"), "a listing of pointers shows it in both layouts"


async def test_a_value_of_the_other_layout_is_never_written_over():
    disk = system()
    exact, other = found(disk, makes_numbered=False), found(disk)
    token = await exact.move(KEY, b"1", None)

    with pytest.raises(PreconditionFailed):
        await other.move(KEY, b"2", None)
    assert await other.read(KEY) == (b"1", token)


async def test_a_mover_that_died_before_its_hint_is_found_and_its_hint_is_written():
    disk = system()
    made = found(disk)
    await made.move(KEY, b"1", None)
    disk.put("nearfield-system", f"{GENERATIONS}{KEY}/0000000002", b"0123456789abcdef\n2")

    assert (await made.read(KEY))[0] == b"2"
    hint = hint_in(disk.objects("nearfield-system")[KEY].data)
    assert hint.mark == Mark(2, "0123456789abcdef")


async def test_a_hint_of_long_ago_is_made_up_for_by_a_listing():
    disk = system()
    made = numbered(FakeStore(disk), kept=KEPT)
    token = await made.move(KEY, b"0", None)
    old = disk.objects("nearfield-system")[KEY].data
    for number in range(1, 9):
        token = await made.move(KEY, b"%d" % number, token)
    disk.put("nearfield-system", KEY, old)

    assert await numbered(FakeStore(disk)).read(KEY) == (b"8", token)


async def test_a_hint_without_any_generation_is_no_empty_register():
    disk = system()
    disk.put("nearfield-system", KEY, Hint(Mark(3, "0" * 16), 1).to_json())

    with pytest.raises(StoreError, match="no generation"):
        await found(disk).read(KEY)


async def test_an_answer_lost_to_the_sdk_that_asks_again_is_no_conflict():
    disk = system()
    store = FakeStore(disk)
    put = store.put

    async def twice(bucket, key, data, **conditions):
        await put(bucket, key, data, **conditions)
        return await put(bucket, key, data, **conditions)

    store.put = twice
    token = await numbered(store).move(KEY, b"1", None)
    assert await found(disk).read(KEY) == (b"1", token)


def test_a_pointer_is_no_hint():
    assert hint_in(Pointer("acme/m", "0" * 64).to_json()) is None
    assert hint_in(b"\xff") is None

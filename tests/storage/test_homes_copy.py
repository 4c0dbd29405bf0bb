"""Single flight against a home that breaks, lies, changes and goes away, and a process that is killed at any time."""

import asyncio
import os
import random
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.checksum import Checksum, crc64nvme
from storage.homes.copies import Copies
from storage.homes.copy import NoRoom
from storage.homes.facts import Away, Changed, Facts
from storage.homes.landing import Corrupt
from storage.homes.plan import CLAIM_BYTES, Plan
from tests.evidence import count

SIZE = 4000
STALL_AT = 300


@pytest.fixture(autouse=True, params=[CLAIM_BYTES, 500], ids=["one fetch", "many fetches"])
def _quick(monkeypatch, request):
    monkeypatch.setattr("storage.homes.copy.Plan", partial(Plan, claim_bytes=request.param))
    monkeypatch.setattr("storage.homes.copy.PAUSE_S", 0.0)
    monkeypatch.setattr("storage.homes.landing.PIECE_BYTES", 256)


def made(number=0, size=SIZE):
    return random.Random(number).randbytes(size)


def facts_of(data, etag="e1", key="k"):
    crc = crc64nvme()
    crc.update(data)
    checksum = Checksum("CRC64NVME", "AAAAAAAAAAA=")
    return Facts("models", key, len(data), etag, 1000, (("content-type", "x"),), checksum, crc.value)


class FakeHome:
    """Gives `data`, `chunk` bytes at a time. `breaks(at)`: whether the connection breaks before byte `at` is given."""

    def __init__(self, data, chunk=97):
        self.data, self.chunk = data, chunk
        self.given, self.num_asked = 0, 0
        self.breaks = lambda at: False
        self.gone = False
        self.flow = asyncio.Event()
        self.flow.set()

    async def read(self, facts, start, end):
        self.num_asked += 1
        await asyncio.sleep(0)
        if self.gone:
            raise Changed("k")
        for at in range(start, end, self.chunk):
            await self.flow.wait()
            await asyncio.sleep(0)
            if self.breaks(at):
                raise Away("broken")
            piece = self.data[at : min(at + self.chunk, end)]
            self.given += len(piece)
            yield piece


def folder_of(copies):
    return copies._folder


def opened(tmp_path, home, limit_bytes=10**9):
    copies = Copies(tmp_path, limit_bytes)
    copies.load(lambda bucket: home)
    return copies


async def read(copies, home, facts, start=0, end=None, *, until=None):
    """The bytes start..end as a client gets them; `until`: it goes away after so many."""
    copy = await copies.use(facts, home, copies.tick)
    reader = copy.reader(start, facts.size if end is None else end)
    got = b""
    try:
        while reader.at < reader.end and (until is None or len(got) < until):
            num_bytes = await reader.reach()
            got += os.pread(copy.fd, num_bytes, reader.at)
            reader.moved(num_bytes)
    finally:
        reader.leave()
        copies.release(copy)
    return got


async def test_any_number_of_readers_is_one_reading_of_each_byte(tmp_path):
    data = made()
    home, copies = FakeHome(data), opened(tmp_path, None)
    draw = random.Random(3)
    spans = [(0, SIZE)] * 32 + [sorted(draw.sample(range(SIZE + 1), 2)) for _ in range(32)]
    got = await asyncio.gather(*(read(copies, home, facts_of(data), *span) for span in spans))

    assert got == [data[start:end] for start, end in spans]
    assert home.given == SIZE
    await copies.close()


async def test_a_reader_of_the_middle_fetches_nothing_else(tmp_path):
    data = made()
    home, copies = FakeHome(data), opened(tmp_path, None)

    assert await read(copies, home, facts_of(data), 1000, 1500) == data[1000:1500]
    assert home.given == 500
    assert await read(copies, home, facts_of(data), 900, 1600) == data[900:1600]
    assert home.given == 700
    assert copies.held_bytes == 700
    await copies.close()


async def test_readers_follow_the_write_head(tmp_path):
    data = made()
    home, copies = FakeHome(data), opened(tmp_path, None)
    home.breaks = lambda at: at >= STALL_AT and home.flow.clear()
    copy = await copies.use(facts_of(data), home, copies.tick)
    reader = copy.reader(0, SIZE)
    got = await reader.reach()
    while home.flow.is_set():  # noqa: ASYNC110 - until the home stalls
        await asyncio.sleep(0)

    assert 0 < got < SIZE
    assert home.chunk <= await reader.reach() < SIZE, "what has come, and no more"
    home.breaks = lambda at: False
    home.flow.set()
    assert await read(copies, home, facts_of(data)) == data
    reader.leave()
    copies.release(copy)
    await copies.close()


async def test_the_first_reader_goes_away_and_the_others_do_not_notice(tmp_path):
    data = made()
    home, copies = FakeHome(data), opened(tmp_path, None)
    first = asyncio.create_task(read(copies, home, facts_of(data)))
    while not home.given:  # noqa: ASYNC110 - until it leads
        await asyncio.sleep(0)
    others = [asyncio.create_task(read(copies, home, facts_of(data))) for _ in range(3)]
    await asyncio.sleep(0)
    first.cancel()

    assert await asyncio.gather(*others) == [data] * 3
    assert home.given == SIZE
    await copies.close()


async def test_when_all_are_gone_nothing_is_fetched_and_the_next_goes_on(tmp_path):
    data = made()
    home, copies = FakeHome(data), opened(tmp_path, None)
    await read(copies, home, facts_of(data), until=500)
    await copies.close()
    given = home.given

    assert 500 <= given < SIZE
    await asyncio.sleep(0.01)
    assert home.given == given
    assert await read(copies, home, facts_of(data)) == data
    assert home.given <= SIZE + home.chunk, "at most the piece that was on its way came twice"
    await copies.close()


async def test_a_fetch_that_was_given_up_before_it_began_is_not_owed_for_ever(tmp_path):
    data = made()
    home, copies = FakeHome(data), opened(tmp_path, None)
    copy = await copies.use(facts_of(data), home, copies.tick)
    reader = copy.reader(0, SIZE)
    waiting = asyncio.create_task(reader.reach())
    await asyncio.sleep(0)  # the fetch is a task by now, and has not had its turn
    assert home.num_asked == 0
    waiting.cancel()
    reader.leave()
    copies.release(copy)
    await asyncio.gather(waiting, *copies._closing, return_exceptions=True)

    assert copies.held_bytes == 0
    assert await asyncio.wait_for(read(copies, home, facts_of(data)), 60) == data
    await copies.close()


async def test_the_number_of_copies_is_bounded_too(tmp_path, monkeypatch):
    monkeypatch.setattr("storage.homes.copies.MAX_COPIES", 3)
    home, copies = FakeHome(made()), opened(tmp_path, None)
    for number in range(5):
        await read(copies, home, facts_of(made(), key=f"k{number}"))
        await asyncio.gather(*copies._closing)

    assert sorted(copies.keys("models")) == ["k2", "k3", "k4"]
    assert len(list(tmp_path.glob("*.data"))) == 3
    await copies.close()


async def test_broken_connections_cost_no_byte_twice(tmp_path):
    data, broken = made(), set()
    home, copies = FakeHome(data), opened(tmp_path, None)

    def breaks(at):
        return at % 3 == 0 and at not in broken and not broken.add(at)

    home.breaks = breaks
    got = await asyncio.gather(*(read(copies, home, facts_of(data)) for _ in range(8)))

    assert got == [data] * 8
    assert len(broken) > 5
    assert home.given == SIZE
    await copies.close()


async def test_a_home_that_stays_away_is_told_and_the_next_reader_goes_on(tmp_path):
    data = made()
    home, copies = FakeHome(data), opened(tmp_path, None)
    home.breaks = lambda at: at >= 1000
    ends = await asyncio.gather(
        *(read(copies, home, facts_of(data)) for _ in range(4)), return_exceptions=True
    )
    assert [type(end) for end in ends] == [Away] * 4
    before = home.given

    home.breaks = lambda at: False
    assert await read(copies, home, facts_of(data)) == data
    assert before >= 1000 - home.chunk
    assert home.given == SIZE
    await copies.close()


async def test_an_overwritten_version_ends_and_is_not_kept(tmp_path):
    data = made()
    home, copies = FakeHome(data), opened(tmp_path, None)
    home.breaks = lambda at: at >= 1000
    with pytest.raises(Away):
        await read(copies, home, facts_of(data))
    home.gone = True
    with pytest.raises(Changed):
        await read(copies, home, facts_of(data))
    await nothing_in(tmp_path)

    assert copies.held_bytes == 0
    await copies.close()


async def nothing_in(folder):
    """Wait until what was begun there is taken away: readers hear of the end before."""
    async with asyncio.timeout(60):
        while list(folder.iterdir()):  # noqa: ASYNC110 - a folder tells nobody
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("flip", [0, 1, 999, 2500, SIZE - 1])
async def test_bytes_without_the_checksum_are_never_whole_and_never_kept(tmp_path, flip):
    data = bytearray(made())
    facts = facts_of(bytes(data))
    data[flip] ^= 4
    home, copies = FakeHome(bytes(data)), opened(tmp_path, None)
    ends = await asyncio.gather(*(read(copies, home, facts) for _ in range(3)), return_exceptions=True)

    assert [type(end) for end in ends] == [Corrupt] * 3
    await nothing_in(tmp_path)
    assert await read(copies, FakeHome(made()), facts) == made()
    await copies.close()


async def test_the_room_is_bounded_and_the_oldest_goes(tmp_path):
    home, copies = FakeHome(made()), opened(tmp_path, None, limit_bytes=10_000)
    for number in range(6):
        await read(copies, home, facts_of(made(), key=f"k{number % 3 if number == 3 else number}"))
        await asyncio.gather(*copies._closing)
        assert copies.held_bytes <= 10_000
        kept = sum(path.stat().st_blocks for path in tmp_path.glob("*.data"))
        assert kept * 512 <= 10_000 + 3 * 4096

    assert set(copies.keys("models")) == {"k4", "k5"}
    await copies.close()


async def test_what_is_being_read_is_not_evicted(tmp_path):
    home, copies = FakeHome(made()), opened(tmp_path, None, limit_bytes=6000)
    copy = await copies.use(facts_of(made()), home, copies.tick)
    reader = copy.reader(0, SIZE)
    while reader.at < SIZE:
        reader.moved(await reader.reach())
    with pytest.raises(NoRoom):
        await read(copies, home, facts_of(made(), key="other"))

    reader.leave()
    copies.release(copy)
    await asyncio.gather(*copies._closing)
    assert await read(copies, home, facts_of(made(), key="other")) == made()
    await copies.close()


async def test_a_word_of_a_newer_version_ends_the_old_copy(tmp_path):
    home, copies = FakeHome(made()), opened(tmp_path, None)
    await read(copies, home, facts_of(made()))
    await asyncio.gather(*copies._closing)
    copies.heard("models", "k", "e1")
    assert copies.last("models", "k") == facts_of(made())
    copies.heard("models", "k", "e2")

    assert copies.last("models", "k") is None
    assert list(tmp_path.iterdir()) == []
    assert copies.held_bytes == 0
    await copies.close()


@pytest.mark.parametrize("word", [None, "e2"])
async def test_a_copy_that_was_asked_for_before_a_deletion_is_not_kept_after_it(tmp_path, word):
    """The look at the home, the word of the deletion, and only then the fetching: it must not rise again."""
    home, copies = FakeHome(made()), opened(tmp_path, None)
    since = copies.tick
    copies.heard("models", "k", word)
    copy = await copies.use(facts_of(made()), home, since)
    reader = copy.reader(0, SIZE)
    await reader.reach()
    reader.leave()
    copies.release(copy)
    await asyncio.gather(*copies._closing)

    assert copies.last("models", "k") is None
    assert list(tmp_path.iterdir()) == []
    await copies.close()


async def test_a_deletion_heard_while_readers_follow_lets_them_end_and_keeps_nothing(tmp_path):
    data = made()
    home, copies = FakeHome(data), opened(tmp_path, None)
    home.flow.clear()
    readers = [asyncio.create_task(read(copies, home, facts_of(data))) for _ in range(4)]
    while home.num_asked == 0:  # noqa: ASYNC110 - until they follow
        await asyncio.sleep(0.001)
    copies.heard("models", "k", None)
    home.flow.set()

    assert await asyncio.gather(*readers) == [data] * 4
    await asyncio.gather(*copies._closing)
    assert list(tmp_path.iterdir()) == []
    await copies.close()


async def test_the_same_bytes_with_other_headers_are_not_fetched_again(tmp_path):
    data = made()
    home, copies = FakeHome(data), opened(tmp_path, None)
    await read(copies, home, facts_of(data))
    new = Facts(
        **{**{n: getattr(facts_of(data), n) for n in Facts.__slots__}, "headers": (("content-type", "y"),)}
    )

    assert await read(copies, home, new) == data
    assert home.given == SIZE
    assert copies.last("models", "k") == new
    await copies.close()
    assert opened(tmp_path, home).last("models", "k") == new


async def test_a_bit_that_flipped_on_the_disk_is_fetched_again(tmp_path):
    data = made()
    home, copies = FakeHome(data), opened(tmp_path, None)
    await read(copies, home, facts_of(data))
    await copies.close()
    (path,) = tmp_path.glob("*.data")
    bad = bytearray(path.read_bytes())
    bad[1234] ^= 1
    path.write_bytes(bad)

    again = opened(tmp_path, home)
    assert await read(again, home, facts_of(data)) == data
    assert SIZE < home.given <= SIZE + 256 + home.chunk, "one piece"
    await again.close()


async def test_what_is_nobodys_is_deleted_at_the_start(tmp_path):
    data = made()
    home, copies = FakeHome(data), opened(tmp_path, None)
    await read(copies, home, facts_of(data))
    await copies.close()
    (tmp_path / "x.json").write_bytes(b'{"half": ')
    (tmp_path / "y.data").write_bytes(b"no facts")
    (tmp_path / "feed-models").write_text('{"seq": 3}')

    assert opened(tmp_path, home).held_bytes == SIZE
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".data", ".sums", ""}
    assert len(list(tmp_path.glob("*.data"))) == 1
    assert opened(tmp_path, None).held_bytes == 0, "the bucket has no home elsewhere any more"
    assert [path.name for path in tmp_path.iterdir()] == ["feed-models"]


@settings(max_examples=count(20, 1500), deadline=None)
@given(seed=st.integers(0, 2**32), num_readers=st.integers(1, 6), kill_after=st.integers(1, 60))
def test_killed_anywhere_it_goes_on_and_no_byte_is_wrong(tmp_path_factory, seed, num_readers, kill_after):
    """Breaks, readers that leave, a kill, a power cut that loses late writes: no byte is wrong, few come twice."""
    folder = tmp_path_factory.mktemp("copies")
    asyncio.run(_life(folder, random.Random(seed), num_readers, kill_after))


async def _life(folder, draw, num_readers, kill_after):
    data = made(draw.randrange(1000))
    home, facts = FakeHome(data, chunk=draw.choice([40, 97, 300])), facts_of(data)
    home.breaks = lambda at: draw.random() < 0.1
    first = opened(folder, home)
    spans = [sorted(draw.sample(range(SIZE + 1), 2)) for _ in range(num_readers)]
    reading = [asyncio.create_task(read(first, home, facts, *span)) for span in spans]
    for _ in range(kill_after):
        await asyncio.sleep(0)
        if draw.random() < 0.1:
            draw.choice(reading).cancel()
    for task in reading:
        task.cancel()
    ends = await asyncio.gather(*reading, return_exceptions=True)
    for end, (start, stop) in zip(ends, spans, strict=True):
        assert not isinstance(end, bytes) or end == data[start:stop]
    await first.close()
    for path in folder.glob("*.sums"):  # the kill: the last sums are lost, or half written
        path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size + 1)])
    for path in folder.glob("*.data"):  # the power cut: a page is not what was written
        if draw.random() < 0.5:
            with path.open("r+b") as file:
                file.seek(draw.randrange(SIZE))
                file.write(b"\0" * 20)
    home.breaks, home.given = lambda at: False, 0
    second = opened(folder, home)
    kept = second.held_bytes
    assert await asyncio.gather(*(read(second, home, facts) for _ in range(3))) == [data] * 3
    assert home.given <= SIZE
    assert kept == 0 or home.given >= SIZE - kept
    await second.close()
    assert second.held_bytes == SIZE

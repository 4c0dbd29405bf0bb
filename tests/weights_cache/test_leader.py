"""One load for many: who comes later streams behind it, and whoever leads may go without its work being done again."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from storage.client.sdk import Endpoint
from tests.weights_cache.onebyone import OneByOne
from weights_cache.cache import HostTier
from weights_cache.load.crew import NUM_HANDOVERS
from weights_cache.memory.view import LandingError, open_landing

from .samples import described, landed_bytes, tiny_files
from .store_script import objects_of

CAP = 64 << 20
FILES = tiny_files(num_layers=6)
REVISION = described(FILES)
BLOBS = objects_of(REVISION, FILES)
NUM_EXTENTS = len(REVISION.extents)


class GatedStore(OneByOne):
    """Gives the first `allowed` extents at once and the others when told; counts what it gave; some readers die."""

    def __init__(self, allowed=NUM_EXTENTS, num_deaths=0):
        self.order = [
            (f"/nearfield-blobs/{REVISION.files[extent.file].blake3}", extent.offset)
            for extent in REVISION.extents
        ]
        self.allowed, self.num_deaths = allowed, num_deaths
        self.gate, self.given = threading.Event(), Counter()
        self._lock = threading.Lock()

    def read_into(self, path, offset, view):
        number = self.order.index((path, offset))
        if number >= self.allowed:
            assert self.gate.wait(60)
        with self._lock:
            dies = self.num_deaths > 0 and number >= 2
            self.num_deaths -= dies
            self.given[number] += not dies
        if dies:
            view[: len(view) // 2] = b"?" * (len(view) // 2)
            raise RuntimeError("this reader dies")
        view[:] = BLOBS[path][offset : offset + len(view)]


@pytest.fixture
def tier_of():
    tiers = []

    def make(store, **more):
        tiers.append(
            HostTier(Endpoint("http://127.0.0.1:1", "AK", "s"), CAP, make_reader=lambda: store, **more)
        )
        return tiers[-1]

    yield make
    for tier in tiers:
        tier.close()


@pytest.fixture
def deaths(monkeypatch):
    """The faults that killed threads of a load; none of those threads outlives the test."""
    found = []
    monkeypatch.setattr(threading, "excepthook", lambda death: found.append(str(death.exc_value)))
    yield found
    for thread in threading.enumerate():
        if thread.name.startswith("land-"):
            thread.join(60)


def seen(landing):
    return open_landing(REVISION, landing.fd, landing.ready_fd, landing.event_fd)


def test_followers_stream_behind_the_leader(tier_of):
    """64 who ask use what has landed while the rest is still on its way; each byte is read once."""
    store = GatedStore(allowed=5)
    tier = tier_of(store, num_readers=2)
    views = [seen(tier.land(REVISION)) for _ in range(64)]
    whole = landed_bytes(REVISION, FILES)

    def follow(view):
        assert all(view.wait_extent(number, 20) for number in range(5))
        ahead = [view.layout.place(REVISION.extents[number]) for number in range(5)]
        first = all(view.buffer[at] == whole[at] for at in ahead)
        return first and not view.wait_all(0.0)

    with ThreadPoolExecutor(64) as pool:
        assert all(pool.map(follow, views))
        store.gate.set()
        assert all(pool.map(lambda view: view.wait_all(20), views))

    assert {bytes(view.buffer) for view in views} == {whole}
    assert store.given == Counter(range(NUM_EXTENTS))
    for view in views:
        view.close()


def test_the_leader_leaves_and_the_load_goes_on(tier_of):
    """Who asked first gives its landing back halfway; who comes then shares the load that runs."""
    store = GatedStore(allowed=NUM_EXTENTS // 2)
    tier = tier_of(store)
    leader = tier.land(REVISION, pin=True)
    with_leader = seen(leader)
    assert with_leader.wait_extent(2, 20)
    with_leader.close()
    leader.release()
    follower = tier.land(REVISION, pin=True)
    store.gate.set()

    assert follower.wait(60)
    assert follower.bytes_read == follower.total_bytes
    assert store.given == Counter(range(NUM_EXTENTS))


@pytest.mark.parametrize("num_readers", [1, 3])
def test_a_reader_that_dies_hands_its_extent_over(tier_of, deaths, num_readers):
    """A fault of ours kills a reader in the middle of an extent: another one goes on, no other byte is read again."""
    store = GatedStore(num_deaths=NUM_HANDOVERS)
    tier = tier_of(store, num_readers=num_readers)
    landing = tier.land(REVISION)

    assert landing.wait(60)
    assert store.given == Counter(range(NUM_EXTENTS))
    view = seen(landing)
    assert bytes(view.buffer) == landed_bytes(REVISION, FILES)
    view.close()


def test_a_fault_that_kills_every_reader_ends_the_load(tier_of, deaths):
    """It is one error for all who wait, not a load that starts readers for ever."""
    store = GatedStore(allowed=0, num_deaths=1_000)
    tier = tier_of(store, num_readers=2)
    landings = [tier.land(REVISION) for _ in range(3)]
    store.gate.set()
    for landing in landings:
        with pytest.raises(LandingError) as caught:
            landing.wait(60)
        assert caught.value.code == "reader_stopped"

    assert 0 < 1_000 - store.num_deaths <= NUM_HANDOVERS + 2
    assert set(deaths) == {"this reader dies"}
    assert tier.entries() == ()


@pytest.fixture
def threads_left(monkeypatch):
    """`threads_left[0]`: how many more readers this host lets begin."""
    left, start = [0], threading.Thread.start

    def begin(thread):
        if thread.name.startswith("land-"):
            left[0] -= 1
            if left[0] < 0:
                raise RuntimeError("can't start new thread")
        elif thread.name == "prefault":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", begin)
    return left


def test_a_host_without_threads_says_so_and_holds_nothing(tier_of, threads_left):
    """A container's limit is enough for that. The next load, when there are some again, is a whole one."""
    store = GatedStore()
    tier = tier_of(store, num_readers=3)
    with pytest.raises(LandingError, match="this host has no thread left"):
        tier.land(REVISION)
    assert tier.entries() == ()

    threads_left[0] = 3
    assert tier.land(REVISION).wait(60)


def test_those_that_could_begin_go_on_without_the_others(tier_of, threads_left, deaths):
    """The one of three that runs dies too, and finds no successor: an error, where it was a wait for ever."""
    threads_left[0] = 1
    assert tier_of(GatedStore(), num_readers=3).land(REVISION).wait(60)

    threads_left[0] = 1
    landing = tier_of(GatedStore(num_deaths=1), num_readers=3).land(REVISION)
    with pytest.raises(LandingError, match="no reader of the weights is left"):
        landing.wait(60)
    assert deaths == ["this reader dies"]

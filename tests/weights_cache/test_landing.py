"""The host tier: every byte verified, read once, one clear error for all, eviction that spares the used."""

import gc
import threading
import time
import weakref
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from storage.client.sdk import Endpoint
from weights_cache.cache import HostTier
from weights_cache.load.flight import PROGRESS_EACH_S
from weights_cache.memory.view import LandingError, open_landing
from weights_cache.model.plan import layout
from weights_cache.reading.fetch import HttpReader, blob_path

from .conftest import Model
from .samples import described, landed_bytes, tiny_files
from .store_script import Cut, Flip, Reset, ScriptedStore, Short, Stall, Status, objects_of

CAP = 64 << 20


@pytest.fixture
def tier(model):
    found = HostTier(Endpoint(model.store.url, "AK", "secret"), CAP, retry_for_s=1.5)
    yield found
    found.close()


def contents(landing, revision):
    """What another process would see."""
    view = open_landing(revision, landing.fd, landing.ready_fd, landing.event_fd)
    view.wait_all(5.0)
    data = bytes(view.buffer)
    view.close()
    return data


def extent_requests(model, number):
    extent = model.revision.extents[number]
    path = blob_path(model.revision.files[extent.file].blake3)
    return [each for each in model.store.requests if each[0] == path and each[1] == extent.offset]


def test_lands_every_byte(model, tier):
    """Region state: the landing holds the files' bytes, each read once, and says so."""
    landing = tier.land(model.revision)
    assert landing.wait(60)

    assert contents(landing, model.revision) == landed_bytes(model.revision, model.files)
    assert landing.source == "region"
    assert landing.bytes_read == landing.total_bytes == sum(e.length for e in model.revision.extents)
    assert landing.progress().percent == 100
    assert landing.progress().eta_s == 0
    assert set(landing.phases) == {"allocate", "fetch", "verify"}
    assert asked_bytes(model) == landing.total_bytes


def asked_bytes(model):
    """How many bytes of weights were asked for, each once."""
    weights = {blob_path(model.revision.files[extent.file].blake3) for extent in model.revision.extents}
    spans = sorted((path, first, last) for path, first, last, _ in model.store.requests if path in weights)
    for (path, _, last), (other, first, _) in pairwise(spans):
        assert path != other or last < first
    return sum(last - first + 1 for _, first, last in spans)


def test_second_ask_reads_nothing(model, tier):
    """Host state: the same bytes, no request."""
    tier.land(model.revision).wait(60)
    num_requests = len(model.store.requests)
    again = tier.land(model.revision)

    assert again.done
    assert (again.source, again.bytes_read, again.phases) == ("host", 0, {})
    assert again.host_bytes == again.total_bytes
    assert contents(again, model.revision) == landed_bytes(model.revision, model.files)
    assert len(model.store.requests) == num_requests


@pytest.mark.parametrize("fault", [Flip, Cut, Reset, Short])
def test_bad_extent_alone_is_refetched(model, tier, fault):
    """A flipped bit, a cut, a reset, a short answer: that extent once more and nothing else."""
    extent = model.revision.extents[4]
    path = blob_path(model.revision.files[extent.file].blake3)
    model.store.faults.append(fault(extent.offset + 100, path))
    landing = tier.land(model.revision)
    landing.wait(60)

    assert contents(landing, model.revision) == landed_bytes(model.revision, model.files)
    assert len(extent_requests(model, 4)) == 2
    assert len(model.store.requests) == len(model.revision.extents) + 1


def test_changed_blob_is_read_on_its_bytes(model, tier):
    """412 in the middle of a load: the tag is read anew, and the verified bytes decide."""
    tier.land(model.revision).wait(60)
    tier.evict(model.revision.id)
    model.store.etag = "tag-2"
    landing = tier.land(model.revision)

    assert landing.wait(60)
    assert contents(landing, model.revision) == landed_bytes(model.revision, model.files)


def test_store_that_is_busy_or_slow(model, tier):
    """503s and a stuck answer are waited out within the deadline."""
    model.store.faults += [Status(503), Status(503), Status(500), Stall(0.3)]

    assert tier.land(model.revision).wait(60)


def test_wrong_bytes_are_never_served(model, tier):
    """An object that stays wrong fails the load, for good, with the file's name."""
    extent = model.revision.extents[2]
    path = blob_path(model.revision.files[extent.file].blake3)
    wrong = bytearray(model.store.objects[path])
    wrong[extent.offset] ^= 1
    model.store.objects[path] = bytes(wrong)
    landing = tier.land(model.revision)
    with pytest.raises(LandingError, match="safetensors") as caught:
        landing.wait(60)

    assert caught.value.code == "weights_corrupt"
    assert len(extent_requests(model, 2)) == 3


def test_failure_is_told_to_all_and_then_forgotten(model, tier):
    """Everyone who waited hears the same error; the next ask starts afresh and succeeds."""
    path = blob_path(model.revision.files[model.revision.extents[0].file].blake3)
    data = model.store.objects.pop(path)
    model.store.delay_s = 0.05
    landings = [tier.land(model.revision, pin=True) for _ in range(5)]
    errors = []
    for landing in landings:
        with pytest.raises(LandingError) as caught:
            landing.wait(60)
        errors.append((caught.value.code, caught.value.message))
        assert (landing.done, landing.error.code) == (True, caught.value.code)
    assert set(errors) == {errors[0]}
    assert errors[0][0] == "store_status_404"
    assert tier.entries() == ()

    model.store.objects[path] = data
    again = tier.land(model.revision)
    assert again.wait(60)
    assert again.error is None
    for landing in landings:
        landing.release()
    assert contents(again, model.revision) == landed_bytes(model.revision, model.files)


def test_failure_wakes_the_engine(model, tier):
    """A process that waits for an extent which will never come is told at once."""
    model.store.delay_s = 0.05
    model.store.objects.clear()
    landing = tier.land(model.revision)
    view = open_landing(model.revision, landing.fd, landing.ready_fd, landing.event_fd)
    started = time.monotonic()
    with pytest.raises(LandingError):
        view.wait_all(100)

    assert time.monotonic() - started < 50
    view.close()


def test_dead_store_is_one_error_within_the_deadline(model, tier):
    """Nobody listens: one clear error after the retry time, not before, not much after."""
    model.store.close()
    started = time.monotonic()
    with pytest.raises(LandingError) as caught:
        tier.land(model.revision).wait(60)

    assert caught.value.code.startswith("store_")
    assert 1.0 < time.monotonic() - started < 30


def test_single_flight(model, tier):
    """64 callers at once: each byte is read once, all see the same memory."""
    model.store.delay_s = 0.01
    barrier = threading.Barrier(64)

    def ask(_):
        barrier.wait()
        landing = tier.land(model.revision)
        landing.wait(60)
        return landing.fd

    with ThreadPoolExecutor(64) as pool:
        fds = set(pool.map(ask, range(64)))

    assert len(fds) == 1
    wanted = Counter()
    for extent in model.revision.extents:
        wanted[blob_path(model.revision.files[extent.file].blake3)] += extent.length
    deadline = time.monotonic() + 30  # the store counts a body after its last byte, which may be here by then
    while model.store.served != wanted and time.monotonic() < deadline:
        time.sleep(0.01)
    assert model.store.served == wanted
    assert len(model.store.requests) == len(model.revision.extents)


def test_progress_is_told(model, tier):
    """Progress grows, ends at the whole, and every joiner hears it."""
    model.store.delay_s = 0.03
    mine, theirs = [], []
    landing = tier.land(model.revision, mine.append)
    tier.land(model.revision, theirs.append)
    landing.wait(60)

    done = [progress.done_bytes for progress in mine]
    assert done == sorted(done)
    assert done[-1] == landing.total_bytes
    assert theirs[-1].percent == 100
    assert mine[0].eta_s is not None


def test_progress_is_told_at_most_each_tenth_of_a_second(tier, model):
    """But for the end, which is told when it is there: an engine's start has better to do."""
    many = Model(tiny_files(num_layers=20, width=8))
    model.store.objects |= objects_of(many.revision, many.files)
    told, started = [], time.monotonic()
    assert tier.land(many.revision, told.append).wait(60)
    took_s = time.monotonic() - started
    many.store.close()

    assert len(told) <= 2 + took_s / PROGRESS_EACH_S
    assert told[-1].percent == 100


def test_the_time_of_a_load_that_runs_is_shared_out(model, tier):
    """What an operator sees of a slow start is not nothing until it is over."""
    landings, begun, seen = [], threading.Event(), []

    def look(_):
        begun.wait(60)
        seen.append(sum(landings[0].phases.values()))

    started = time.monotonic()
    landings.append(tier.land(model.revision, look))
    begun.set()
    assert landings[0].wait(60)

    assert 0 < seen[0] <= 1000 * (time.monotonic() - started)


def test_bandwidth_is_measured(tier, model):
    """The tier knows what the store gives it; before the first load it knows nothing."""
    assert tier.store_bytes_per_s is None
    big = Model({"m.safetensors": tiny_files(3, 256)["model-00001-of-00002.safetensors"]})
    model.store.objects |= objects_of(big.revision, big.files)
    tier.land(big.revision).wait(60)
    big.store.close()

    assert tier.store_bytes_per_s > 1e6


def test_small_files_are_verified_and_read_once(model, tier):
    """Config and tokenizer come by digest; a flipped bit is refetched; the second ask reads nothing."""
    config = next(e for e in model.revision.files if e.path == "config.json")
    model.store.faults.append(Flip(path=blob_path(config.blake3)))
    found = tier.small_files(model.revision)
    num_requests = len(model.store.requests)

    assert found == {path: model.files[path] for path in ("config.json", "tokenizer.json")}
    assert tier.small_files(model.revision) is found
    assert len(model.store.requests) == num_requests == 3


def test_small_files_that_stay_wrong(model, tier):
    """A wrong config is an error, and not remembered as one."""
    path = blob_path(model.revision.files[0].blake3)
    right = model.store.objects[path]
    model.store.objects[path] = b"x" * len(right)
    with pytest.raises(LandingError, match=r"config\.json"):
        tier.small_files(model.revision)
    model.store.objects[path] = right

    assert tier.small_files(model.revision)["config.json"] == right


def test_a_reader_that_dies_over_small_files_is_one_error_and_then_forgotten(model):
    """A fault of ours: whoever waits hears of it, and the next ask starts afresh."""
    dies = [True]

    class Reader(HttpReader):
        def read_into(self, path, offset, view):
            if dies.pop() if dies else False:
                raise RuntimeError("a fault of ours")
            super().read_into(path, offset, view)

    store = Endpoint(model.store.url, "AK", "s")
    tier = HostTier(store, CAP, make_reader=lambda: Reader(store))
    with pytest.raises(RuntimeError):
        tier.small_files(model.revision)

    assert set(tier.small_files(model.revision)) == {"config.json", "tokenizer.json"}
    tier.close()


def test_empty_small_file(model, tier):
    """A file of no bytes needs no request."""
    files = tiny_files() | {"empty.txt": b""}
    revision = described(files)
    model.store.objects |= objects_of(revision, files)

    assert tier.small_files(revision)["empty.txt"] == b""


def three_models(model):
    models = [model.revision]
    for seed in (11, 12):
        files = tiny_files(seed=seed)
        revision = described(files, f"acme/m{seed}")
        model.store.objects |= objects_of(revision, files)
        models.append(revision)
    return models


def test_eviction_is_least_recent_and_spares_the_pinned(model):
    """Over the cap the oldest unpinned goes; a pinned one stays; when nothing can go it is said."""
    first, second, third = three_models(model)
    size = layout(first.files, first.tensors).total_bytes
    tier = HostTier(Endpoint(model.store.url, "AK", "s"), 2 * size + 100)
    pinned = tier.land(first, pin=True)
    pinned.wait(60)
    tier.land(second).wait(60)
    tier.land(third).wait(60)
    assert [entry.model for entry in tier.entries()] == ["acme/tiny", "acme/m12"]
    assert tier.evict(first.id) == 0

    third_pin = tier.land(third, pin=True)
    with pytest.raises(LandingError) as caught:
        tier.land(second)
    assert caught.value.code == "host_full"

    pinned.release()
    pinned.release()
    tier.land(second).wait(60)
    assert [entry.model for entry in tier.entries()] == ["acme/m12", "acme/m11"]
    assert tier.evict(second.id) == size
    third_pin.release()
    tier.close()


def test_what_was_asked_for_again_outlives_what_came_after_it(model):
    """Used is not landed: the second goes, which nobody has asked for since."""
    first, second, third = three_models(model)
    size = layout(first.files, first.tensors).total_bytes
    tier = HostTier(Endpoint(model.store.url, "AK", "s"), 2 * size + 100)
    for revision in (first, second, first, third):
        assert tier.land(revision).wait(60)

    assert [tier.holds(each.id) for each in (first, second, third)] == [True, False, True]
    tier.close()


@pytest.mark.parametrize(
    ("cores", "readers"), [(1, (4, 4)), (4, (4, 4)), (8, (4, 6)), (16, (4, 12)), (64, (4, 12))]
)
def test_a_load_has_three_readers_for_four_cores_within_bounds(cores, readers, monkeypatch):
    """The rest of the cores serve meanwhile."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
    tier = HostTier(Endpoint("http://127.0.0.1:1", "AK", "s"), CAP)
    assert (tier._num_readers, tier._most_readers) == readers
    tier.close()


def test_evicted_memory_is_free_when_evict_returns(model, tier):
    """And not when the collector comes by: it frees in whatever thread it runs."""
    landing = tier.land(model.revision)
    assert landing.wait(30)
    flight = weakref.ref(landing._flight)
    del landing
    gc.disable()
    try:
        tier.evict(model.revision.id)
        assert flight() is None
    finally:
        gc.enable()


def test_pins_by_id_count(model, tier):
    """pin and unpin by id; what is not here cannot be pinned."""
    assert not tier.pin(model.revision.id)
    tier.land(model.revision).wait(60)
    assert tier.pin(model.revision.id)
    assert tier.pin(model.revision.id)
    tier.unpin(model.revision.id)
    assert tier.evict(model.revision.id) == 0
    tier.unpin(model.revision.id)

    assert tier.holds(model.revision.id)
    assert tier.evict(model.revision.id) > 0
    assert not tier.holds(model.revision.id)
    tier.unpin("unknown")


def test_running_load_is_not_evicted(model, tier):
    """Neither asked for nor for room."""
    model.store.delay_s = 0.05
    landing = tier.land(model.revision)

    assert tier.evict(model.revision.id) == 0
    assert landing.wait(60)


def test_model_larger_than_the_cap(model):
    """It is refused before a byte is read."""
    tier = HostTier(Endpoint(model.store.url, "AK", "s"), 1_000)
    with pytest.raises(LandingError, match="1,000"):
        tier.land(model.revision)
    tier.close()

    assert model.store.requests == []


def test_close_stops_a_running_load(model):
    """A shutdown does not wait for the store; who waited hears of it; nothing more is taken on."""
    model.store.delay_s = 0.2
    tier = HostTier(Endpoint(model.store.url, "AK", "s"), CAP, num_readers=1)
    landing = tier.land(model.revision)
    tier.close()

    with pytest.raises(LandingError, match="stopped"):
        landing.wait(60)
    with pytest.raises(LandingError, match="shutting down"):
        tier.land(model.revision)


def test_revision_without_weights():
    """Nothing to move: landed at once."""
    files = {"config.json": b"{}"}
    revision = described(files)
    store = ScriptedStore(objects_of(revision, files))
    tier = HostTier(Endpoint(store.url, "AK", "s"), CAP)
    landing = tier.land(revision)

    assert landing.wait(60)
    assert landing.progress().percent == 100
    assert contents(landing, revision) == b""
    tier.close()
    store.close()

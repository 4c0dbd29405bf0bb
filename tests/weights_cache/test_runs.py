"""Extents that follow one another are asked for together: still each verified, and a bad one alone fetched again."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.client.sdk import Endpoint
from weights_cache.cache import HostTier
from weights_cache.memory.view import LandingError, open_landing
from weights_cache.reading import rate
from weights_cache.reading.fetch import HttpReader, ReadError, blob_path
from weights_cache.reading.runs import MAX_RUN_BYTES, RUN_S, Runs, pieces

from .conftest import Model
from .samples import described, landed_bytes, safetensors_bytes
from .store_script import Cut, Flip, Hang, Reset, Short, Status

WIDTH = 64
FAST = 1e12  # bytes a second


def ordered_files(num_layers=12):
    """One file whose tensors lie as they run, one extent a layer."""
    matrix = ("F32", (WIDTH, WIDTH), 4 * WIDTH * WIDTH)
    return {
        "model.safetensors": safetensors_bytes({f"model.layers.{n}.w": matrix for n in range(num_layers)}),
    }


@pytest.fixture
def ordered():
    found = Model(ordered_files())
    yield found
    found.store.close()


@pytest.fixture
def tier(ordered):
    """One reader: what it asks for is always the same."""
    found = HostTier(Endpoint(ordered.store.url, "AK", "secret"), 64 << 20, num_readers=1, retry_for_s=1.5)
    yield found
    found.close()


def all_runs(revision, rates, num_readers=1, alone=()):
    runs = Runs(revision, num_readers, alone)
    taken = []
    while run := runs.take(rates(len(taken))):
        taken.append(run)
    return taken


@pytest.mark.parametrize("num_readers", [1, 3])
@pytest.mark.parametrize("rate", [0.0, 1.0, 1e6, FAST])
def test_every_extent_is_given_out_once_in_order(rate, num_readers):
    """Whatever the rate, nothing is left out and nothing twice."""
    revision = described(ordered_files())
    taken = all_runs(revision, lambda _: rate, num_readers)

    assert [number for run in taken for number in run] == list(range(len(revision.extents)))


def test_runs_grow_with_the_rate_and_shrink_at_the_end():
    """A slow link: one by one. A fast one: half of a reader's share of what is left, down to one."""
    revision = described(ordered_files(32))
    length = revision.extents[0].length

    assert {len(run) for run in all_runs(revision, lambda _: 1.0)} == {1}
    assert [len(run) for run in all_runs(revision, lambda _: FAST)] == [16, 8, 4, 2, 1, 1]
    assert [len(run) for run in all_runs(revision, lambda _: FAST, 4)][:3] == [4, 3, 3]
    assert all_runs(revision, lambda _: 3 * length / RUN_S)[0] == range(3)


def test_a_load_begins_with_runs_of_what_the_load_before_it_had_of_the_store(ordered, tier, monkeypatch):
    """The first request of the first load is for one extent; of the next one for as many as the store's rate says."""
    monkeypatch.setattr(rate, "LEAST_BYTES", 1)
    firsts = []
    take = Runs.take

    def noted(runs, bytes_per_s):
        firsts.append(bytes_per_s)
        return take(runs, bytes_per_s)

    monkeypatch.setattr(Runs, "take", noted)
    for _ in range(2):
        firsts.append("load")
        known = tier.store_bytes_per_s
        tier.land(ordered.revision).wait()
        tier.evict(ordered.revision.id)
    begins = [after for before, after in pairwise(firsts) if before == "load"]

    assert begins == [0.0, known], "one reader has all of the rate"
    assert known > 0


def test_no_run_is_larger_than_the_cap(monkeypatch):
    """However fast the link and however large the model."""
    revision = described(ordered_files(32))
    monkeypatch.setattr("weights_cache.reading.runs.MAX_RUN_BYTES", 2 * revision.extents[0].length)

    assert max(len(run) for run in all_runs(revision, lambda _: FAST)) == 2
    assert MAX_RUN_BYTES % (1 << 20) == 0


def test_a_gap_another_file_and_what_is_handed_over_end_a_run(model):
    """Extents that do not touch have a request each, and so have those that are not read from the store."""
    extents = model.revision.extents
    for run in all_runs(model.revision, lambda _: FAST):
        for ahead, number in pairwise(run):
            assert extents[number].file == extents[ahead].file
            assert extents[number].offset == extents[ahead].offset + extents[ahead].length
    revision = described(ordered_files())

    assert {len(run) for run in all_runs(revision, lambda _: FAST, alone={0})} == {1}


@given(st.sets(st.integers(0, 30)))
def test_pieces_hold_each_number_once_and_nothing_between(numbers):
    """What is here already is not asked for again; neighbours are one piece."""
    found = list(pieces(sorted(numbers)))

    assert [number for piece in found for number in piece] == sorted(numbers)
    assert all(ahead.stop < piece.start for ahead, piece in pairwise(found))


def requests_of(model):
    """(first extent, how many) of every request for weights, as the store saw them."""
    starts = {extent.offset: number for number, extent in enumerate(model.revision.extents)}
    length = model.revision.extents[0].length
    return [(starts[first], (last - first + 1) // length) for _, first, last, _ in model.store.requests]


def landed(tier, model):
    landing = tier.land(model.revision)
    landing.wait(60)
    view = open_landing(model.revision, landing.fd, landing.ready_fd, landing.event_fd)
    data = bytes(view.buffer)
    view.close()
    return landing, data


def test_lands_in_fewer_requests(ordered, tier):
    """The first extent alone, since the rate is not known yet; then as many as fit."""
    landing, data = landed(tier, ordered)

    assert data == landed_bytes(ordered.revision, ordered.files)
    assert landing.bytes_read == landing.total_bytes
    asked = requests_of(ordered)
    assert asked[0] == (0, 1)
    assert len(asked) < len(ordered.revision.extents)
    assert sorted(number for first, count in asked for number in range(first, first + count)) == list(
        range(12)
    )


@pytest.mark.parametrize("fault", [Flip, Cut, Reset, Short])
def test_bad_extent_of_a_run_alone_is_fetched_again(ordered, tier, fault):
    """What was right before it stays; a flipped bit costs one extent, a cut what did not arrive."""
    extent = ordered.revision.extents[3]
    ordered.store.faults.append(fault(extent.offset + 9, blob_path(ordered.revision.files[0].blake3)))
    landing, data = landed(tier, ordered)

    assert data == landed_bytes(ordered.revision, ordered.files)
    asked = requests_of(ordered)
    run = next((first, count) for first, count in asked if first <= 3 < first + count)
    assert run[1] > 1
    again = asked[asked.index(run) + 1 :]
    assert (3, 1) in again
    if fault is Flip:
        assert landing.bytes_read == landing.total_bytes + extent.length
        assert [each for each in again if each[0] < run[0] + run[1]] == [(3, 1)]


def test_run_that_stays_wrong_is_never_served(ordered, tier):
    """Wrong bytes every time: an error that names the place, and the engine's waiters are told."""
    extent = ordered.revision.extents[5]
    ordered.store.faults += [
        Flip(extent.offset, blob_path(ordered.revision.files[0].blake3)) for _ in range(9)
    ]
    landing = tier.land(ordered.revision)
    with pytest.raises(LandingError, match="not what was committed"):
        landing.wait(60)
    view = open_landing(ordered.revision, landing.fd, landing.ready_fd, landing.event_fd)
    with pytest.raises(LandingError):
        view.wait_extent(5)
    view.close()


def test_run_that_is_refused_is_asked_for_one_by_one(ordered, tier):
    """503 to a run: its extents alone, each with its own tries."""
    ordered.store.faults.append(Status(503, ordered.revision.extents[4].offset))
    _, data = landed(tier, ordered)

    assert data == landed_bytes(ordered.revision, ordered.files)


def test_store_that_hangs_over_a_run_is_told_after_two_reads(ordered):
    """The run's own read is the first try of its first extent: what was promised of one extent holds for several."""
    stalled = ordered.revision.extents[1].offset
    ordered.store.faults += [Hang(stalled) for _ in range(9)]
    tier = HostTier(Endpoint(ordered.store.url, "AK", "secret"), 64 << 20, 1, stall_s=0.5, retry_for_s=0.75)
    with pytest.raises(LandingError, match="no byte for"):
        tier.land(ordered.revision).wait(60)
    tier.close()
    asked = [request for request in requests_of(ordered) if request[0] == 1]

    assert asked[0][1] > 1
    assert asked[1:] == [(1, 1)]


class Enough(Exception):
    """What the owner of the memory may raise between two views."""


def test_reader_fills_views_in_turn_and_stops_when_told(ordered):
    """One request for all of them; when the owner has enough, the connection goes, for the rest would follow on it."""
    path = blob_path(ordered.revision.files[0].blake3)
    data = ordered.files["model.safetensors"]
    reader = HttpReader(Endpoint(ordered.store.url, "AK", "secret"))
    memory, seen = bytearray(3000), []

    def views(num_wanted):
        for start in range(0, 3000, 1000):
            if start == 1000 * num_wanted:
                raise Enough
            yield memoryview(memory)[start : start + 1000]
            seen.append(bytes(memory[start : start + 1000]))

    reader.read_run(path, 100, 3000, views(9))
    assert seen == [data[100:1100], data[1100:2100], data[2100:3100]]
    with pytest.raises(Enough):
        reader.read_run(path, 0, 3000, views(1))
    assert (ordered.store.num_connections, len(ordered.store.requests)) == (1, 2)
    reader.read_run(path, 7, 3000, views(9))
    assert bytes(memory) == data[7:3007]
    assert (ordered.store.num_connections, len(ordered.store.requests)) == (2, 3)
    reader.close()


def test_reader_asks_for_no_memory_before_the_answer_is_known_to_be_right(ordered):
    """A refusal, or an answer of another length, costs the owner nothing."""
    reader = HttpReader(Endpoint(ordered.store.url, "AK", "secret"))
    for fault in (Status(503), Short()):
        ordered.store.faults.append(fault)
        views = iter([memoryview(bytearray(10))])
        with pytest.raises(ReadError):
            reader.read_run(blob_path(ordered.revision.files[0].blake3), 0, 10, views)
        assert len(list(views)) == 1
    reader.close()

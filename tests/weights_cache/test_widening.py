"""A load takes more readers while each of them gets all it can take, and no more than it may have."""

import threading

import pytest

from tests.weights_cache.onebyone import OneByOne
from weights_cache.load import crew as crew_module
from weights_cache.load.flight import Flight
from weights_cache.memory.buffers import Buffer
from weights_cache.reading.fetch import blob_path

from .samples import described, landed_bytes
from .test_runs import ordered_files

NUM_LAYERS = 24


class Crowd(OneByOne):
    """Readers that fill at once; those who read at one time are counted, and each waits a moment for company."""

    def __init__(self, revision, files):
        self.blobs = {blob_path(entry.blake3): files[entry.path] for entry in revision.files}
        self.changed = threading.Condition()
        self.num_taken = self.num_reading = self.most_reading = 0

    def take(self):
        self.num_taken += 1
        return self

    def read_into(self, path, offset, view):
        with self.changed:
            self.num_reading += 1
            self.most_reading = max(self.most_reading, self.num_reading)
            self.changed.wait(0.002)
            self.num_reading -= 1
        view[:] = self.blobs[path][offset : offset + len(view)]


@pytest.mark.parametrize(
    ("busy_bytes_per_s", "before_bytes_per_s", "start", "most", "expected"),
    [(0, 0, 1, 5, 5), (0, 0, 3, 0, 3), (1e18, 0, 2, 6, 2), (1e18, 1.9e18, 2, 6, 2), (1e18, 2e18, 2, 6, 6)],
)
def test_readers_of_a_load(monkeypatch, busy_bytes_per_s, before_bytes_per_s, start, most, expected):
    """More of them as the load goes, or all at once where the store has given that much before."""
    monkeypatch.setattr(crew_module, "BUSY_BYTES_PER_S", busy_bytes_per_s)
    files = ordered_files(NUM_LAYERS)
    revision = described(files)
    crowd, buffer = Crowd(revision, files), Buffer(1 << 20)
    flight = Flight(
        revision,
        buffer,
        crowd.take,
        lambda _: None,
        lambda _: None,
        store_bytes_per_s=before_bytes_per_s,
    )
    flight.start(start, most)
    assert flight.ended.wait(60)
    assert flight.error is None
    whole = landed_bytes(revision, files)
    assert bytes(buffer.view()[: len(whole)]) == whole
    assert crowd.num_taken == expected
    assert crowd.most_reading <= expected
    buffer.close()

"""Config and tokenizer lie beside kept weights: a start from what is on the host asks the store for nothing."""

import itertools

import pytest

from weights_cache.memory.view import LandingError
from weights_cache.reading.fetch import ReadError

from .kept import CAP, FILES, REVISIONS, MemoryReader, names, tier_on, used_bytes

REVISION = REVISIONS[0]
SMALL = {path: data for path, data in FILES[0].items() if not path.endswith(".safetensors")}


class DeadStore:
    """No answer to anything."""

    def read_into(self, path, offset, view):
        raise ReadError("unreachable", f"{path}: nobody listens", retryable=False)

    def read_run(self, path, offset, num_bytes, views):
        self.read_into(path, offset, None)

    def close(self):
        pass


def live(path, *steps):
    """One life of a tier that does these in turn."""
    tier = tier_on(path, MemoryReader())
    for step in steps:
        assert tier.land(REVISION).wait(60) if step == "land" else tier.small_files(REVISION) == SMALL
    tier.close()


def kept(path):
    return path / f"{REVISION.id}.small"


@pytest.mark.parametrize("order", itertools.permutations(["land", "small"]), ids="-".join)
def test_a_restart_needs_no_store(cache_path, order):
    """Whichever came first, both are there for the next life, whose store is gone."""
    live(cache_path, *order)
    tier = tier_on(cache_path, DeadStore())
    landing = tier.land(REVISION)

    assert tier.small_files(REVISION) == SMALL
    assert landing.wait(60)
    assert (landing.source, landing.bytes_read) == ("host", 0)
    tier.close()


@pytest.mark.parametrize("at", [0, 30, -1])
def test_a_wrong_byte_among_them_is_not_believed(cache_path, at):
    """They are read from the store again, and what is kept is right from then on."""
    live(cache_path, "land", "small")
    data = bytearray(kept(cache_path).read_bytes())
    data[at] ^= 1
    kept(cache_path).write_bytes(data)
    dead = tier_on(cache_path, DeadStore())
    with pytest.raises(LandingError, match="nobody listens"):
        dead.small_files(REVISION)
    dead.close()
    live(cache_path, "small")

    assert kept(cache_path).read_bytes() == b"".join(SMALL.values())


def test_what_was_never_written_is_read_and_then_kept(cache_path):
    """A life that ended before its small files came left a hole of their size."""
    live(cache_path, "land")
    assert kept(cache_path).read_bytes() == bytes(sum(map(len, SMALL.values())))
    live(cache_path, "small")
    tier = tier_on(cache_path, DeadStore())

    assert tier.small_files(REVISION) == SMALL
    tier.close()


def test_they_are_not_kept_without_their_weights(cache_path):
    """Nothing lies in the folder that is nobody's; with the weights they go."""
    live(cache_path, "small")
    assert names(cache_path) == []
    live(cache_path, "land", "small")
    tier = tier_on(cache_path, MemoryReader())
    assert used_bytes(cache_path) <= tier.entries()[0].num_bytes <= CAP
    tier.evict(REVISION.id)

    assert names(cache_path) == []
    tier.close()


def test_a_full_disk_costs_no_start(cache_path, monkeypatch):
    """They are used and not kept."""

    def full(*_):
        raise OSError(28, "No space left on device")

    tier = tier_on(cache_path, MemoryReader())
    assert tier.land(REVISION).wait(60)
    monkeypatch.setattr("os.pwrite", full)

    assert tier.small_files(REVISION) == SMALL
    tier.close()

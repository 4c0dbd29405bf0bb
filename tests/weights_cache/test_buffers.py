"""Landing memory is reused, populated ahead, cut and freed; descriptors do not leak."""

import contextlib
import gc
import os
import threading
from pathlib import Path

import pytest

from storage.client.sdk import Endpoint
from weights_cache.cache import HostTier
from weights_cache.memory import buffers
from weights_cache.memory.buffers import Buffer, BufferPool

MIB = 1 << 20


@pytest.fixture
def stop(monkeypatch):
    monkeypatch.setattr(buffers, "QUIET_S", 0.0)
    monkeypatch.setattr(buffers, "IDLE_NICE", 0)
    return threading.Event()


def resident_bytes(buffer):
    return os.fstat(buffer.fd).st_blocks * 512


def test_buffer_is_populated_where_asked():
    """Populating makes the pages of a span present, and only those."""
    buffer = Buffer(8 * MIB + 5)
    assert buffer.num_bytes == 8 * MIB + buffers.PAGE_BYTES
    assert resident_bytes(buffer) == 0
    buffer.populate(MIB + 5, MIB)

    assert MIB <= resident_bytes(buffer) <= MIB + 2 * buffers.PAGE_BYTES
    buffer.close()
    buffer.close()
    buffer.populate(0, MIB)
    with pytest.raises(ValueError, match="closed"):
        buffer.view()


def test_view_outlives_close():
    """Memory that a thread still writes to is not taken from under it."""
    buffer = Buffer(MIB)
    view = buffer.view()
    buffer.close()
    view[:3] = b"abc"

    assert bytes(view[:3]) == b"abc"


def test_pool_populates_ahead(stop):
    """After a refill the pool's buffer is there, page by page, and a landing takes it as it is."""
    pool = BufferPool(80 * MIB)
    pool.refill(stop)
    assert pool.free_bytes == 80 * MIB
    taken = pool.take(70 * MIB)

    assert taken.populated_bytes == taken.num_bytes == 80 * MIB
    assert resident_bytes(taken) == 80 * MIB
    assert pool.free_bytes == 0
    pool.give(taken)
    assert pool.free_bytes == 80 * MIB
    pool.refill(stop)
    assert pool.free_bytes == 80 * MIB
    pool.close()


def test_pool_of_odd_size_takes_its_own_buffer_back(stop):
    """Buffers are whole pages; a cap that is not one must not lose them."""
    pool = BufferPool(64 * MIB + 1)
    pool.refill(stop)
    taken = pool.take(64 * MIB + 1)
    pool.give(taken)

    assert pool.free_bytes == taken.num_bytes
    pool.close()


def test_pool_cuts_what_is_much_too_large(stop):
    """A landing holds at most 64 MiB more than it needs."""
    pool = BufferPool(160 * MIB)
    pool.refill(stop)
    taken = pool.take(64 * MIB)

    assert taken.num_bytes == taken.populated_bytes == 64 * MIB
    assert resident_bytes(taken) == 64 * MIB
    taken.close()
    pool.close()


def test_pool_is_bounded_and_left_alone_by_small_landings(stop):
    """Small landings take fresh memory; what does not fit under the cap is freed."""
    pool = BufferPool(100 * MIB)
    small, first, second = pool.take(MIB), pool.take(64 * MIB), pool.take(64 * MIB)
    assert small.populated_bytes == 0
    for buffer in (small, first, second):
        pool.give(buffer)

    assert pool.free_bytes == 64 * MIB
    pool.close()
    assert pool.free_bytes == 0


def test_pool_lends_what_it_has_to_a_larger_landing(stop):
    """A landing that no buffer fits takes the largest one made longer: what was populated is not touched again."""
    pool = BufferPool(80 * MIB)
    pool.refill(stop)
    (kept,) = pool._free
    kept.view()[:3] = b"abc"
    taken = pool.take(200 * MIB + 7)

    assert taken is kept
    assert (pool.free_bytes, taken.populated_bytes) == (0, 80 * MIB)
    assert taken.num_bytes == 200 * MIB + buffers.PAGE_BYTES
    assert resident_bytes(taken) == 80 * MIB
    view = taken.view()
    assert (len(view), bytes(view[:3])) == (taken.num_bytes, b"abc")
    view[-3:] = b"end"
    taken.populate(100 * MIB, MIB)
    assert 81 * MIB <= resident_bytes(taken) <= 82 * MIB + buffers.PAGE_BYTES  # up to the end of a huge page
    pool.give(taken)
    assert pool.free_bytes == 0


def test_refill_ends_when_its_buffer_is_taken(stop):
    """A landing that comes early takes what there is; the refill leaves off."""
    pool = BufferPool(512 * MIB)
    thread = threading.Thread(target=pool.refill, args=(stop,))
    thread.start()
    while not pool.free_bytes:
        stop.wait(0.001)
    taken = pool.take(500 * MIB)
    thread.join(60)

    assert not thread.is_alive()
    assert taken.populated_bytes < 512 * MIB
    taken.close()
    pool.close()


def test_descriptors_and_memory_come_back(model):
    """Load, evict, fail and close: as many descriptors as before."""
    gc.collect()
    before = open_files()
    tier = HostTier(Endpoint(model.store.url, "AK", "s"), 1 << 30, retry_for_s=0.1)
    for _ in range(5):
        tier.land(model.revision).wait(60)
        tier.evict(model.revision.id)
    model.store.objects.clear()
    landing = tier.land(model.revision)
    while not landing.done:
        landing.progress()
    tier.close()
    del landing, tier
    model.store.drop_connections()
    gc.collect()
    for _ in range(100):
        if not (leaked := [name for fd, name in open_files().items() if fd not in before]):
            break
        threading.Event().wait(0.02)

    assert leaked == []


def open_files():
    """{descriptor: what it is} of this process' shared memory and eventfds."""
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found[entry.name] = str(entry.readlink())
    return {fd: name for fd, name in found.items() if "memfd" in name or "eventfd" in name}

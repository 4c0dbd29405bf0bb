"""Huge pages are only ever a gain: the same bytes, with a kernel that makes them, one that does not, and a slow one."""

import ctypes
import errno
import mmap
import os
import threading
from pathlib import Path

import pytest

from weights_cache.memory import buffers, pages
from weights_cache.memory.buffers import Buffer, BufferPool

MIB = 1 << 20
HUGE = pages.HUGE_BYTES


@pytest.fixture
def small(monkeypatch):
    """Any landing is large enough."""
    monkeypatch.setattr(buffers, "SMALL_BYTES", 0)


def huge_bytes(region):
    """Bytes of a mapping that lie in huge pages of shared memory."""
    start = pages.ctypes.addressof(pages.ctypes.c_char.from_buffer(region))
    lines = Path("/proc/self/smaps").read_text().splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith(f"{start:x}-"))
    return next(1024 * int(line.split()[1]) for line in lines[first:] if line.startswith("ShmemPmdMapped"))


def makes_huge_pages():
    buffer = Buffer(HUGE)
    made = pages.collapse(buffer._map, 0, HUGE, HUGE) is not None
    buffer.close()
    return made


def test_what_was_written_before_stays(small):
    """A span is collapsed around bytes that are there already; a mapping of another process has huge pages then."""
    buffer = Buffer(4 * HUGE + 5)
    data = os.urandom(MIB)
    buffer.view()[HUGE - 9 : HUGE - 9 + MIB] = data
    buffer.populate(HUGE // 2, 2 * HUGE)
    region = pages.reserve(buffer.num_bytes)
    pages.lay(region, 0, buffer.fd, 0, buffer.num_bytes, mmap.MAP_PRIVATE)
    pages.advise(region, 0, buffer.num_bytes, pages.POPULATE_READ)

    assert bytes(buffer.view()[HUGE - 9 : HUGE - 9 + MIB]) == region[HUGE - 9 : HUGE - 9 + MIB] == data
    assert huge_bytes(region) == (3 * HUGE if makes_huge_pages() else 0)
    region[HUGE] ^= 1  # an engine may write to what it maps, and nobody else sees it
    assert buffer.view()[HUGE] != region[HUGE]
    region.close()
    buffer.close()


@pytest.mark.parametrize(("start", "length"), [(0, 4 * HUGE), (5, 3 * HUGE), (HUGE - 1, HUGE), (9, 0)])
def test_own_memory_keeps_what_it_holds(start, length):
    region = pages.reserve(4 * HUGE)
    data = os.urandom(4 * HUGE)
    region[:] = data
    address = pages.ctypes.addressof(pages.ctypes.c_char.from_buffer(region))
    pages.collapse_own(address + start, length)
    assert region[:] == data


def test_neighbours_land_while_a_page_is_collapsed_under_them(small):
    """Readers fill spans that share huge pages, each of which the other has collapsed meanwhile."""
    buffer, step = Buffer(16 * HUGE), HUGE // 2 + 4096
    spans = list(range(0, 16 * HUGE - step, step))

    def fill(mine):
        for start in mine:
            buffer.populate(start, step)
            buffer.view()[start : start + step] = bytes([1 + start // step]) * step

    threads = [threading.Thread(target=fill, args=(spans[number::4],)) for number in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    view = buffer.view()
    assert all(view[at : at + step] == bytes([1 + at // step]) * step for at in spans)


def counting(monkeypatch, answer):
    """Have the kernel answer so to each wish for huge pages; the list of the spans that were asked for."""
    asked, real = [], pages.advise

    def advise(region, start, length, advice):
        if advice != pages.COLLAPSE:
            return real(region, start, length, advice)
        asked.append((start, length))
        return answer

    monkeypatch.setattr(pages, "advise", advise)
    return asked


def test_a_kernel_without_huge_pages_is_asked_once(small, monkeypatch):
    """Small pages are there all the same."""
    asked = counting(monkeypatch, errno.EINVAL)
    buffer = Buffer(8 * HUGE)
    for start in range(0, 8 * HUGE, 2 * HUGE):
        buffer.populate(start, 2 * HUGE)

    assert asked == [(0, 2 * HUGE)]
    assert os.fstat(buffer.fd).st_blocks * 512 == 8 * HUGE
    buffer.close()


@pytest.mark.parametrize(("patient", "num_asked"), [(False, 1), (True, 4)])
def test_a_load_does_not_wait_for_slow_huge_pages_but_the_pool_does(small, monkeypatch, patient, num_asked):
    """Memory is scattered, say: what is prepared in the background has the time, a load goes on with small pages."""
    asked = []
    monkeypatch.setattr(pages, "collapse", lambda *given: asked.append(given) or 1.0)
    buffer = Buffer(8 * HUGE)
    for start in range(0, 8 * HUGE, 2 * HUGE):
        buffer.populate(start, 2 * HUGE, patient=patient)

    assert len(asked) == num_asked
    assert os.fstat(buffer.fd).st_blocks * 512 == 8 * HUGE
    buffer.close()


def test_pool_waits_for_huge_pages(monkeypatch):
    """What it prepares lies in them, whole huge pages of it."""
    monkeypatch.setattr(buffers, "QUIET_S", 0.0)
    monkeypatch.setattr(buffers, "IDLE_NICE", 0)
    asked = counting(monkeypatch, 0)
    pool = BufferPool(buffers.SMALL_BYTES + 5)
    pool.refill(threading.Event())

    assert sum(length for _, length in asked) == buffers.SMALL_BYTES
    assert pool.ready_bytes == buffers.SMALL_BYTES + buffers.PAGE_BYTES
    pool.close()


def test_small_landings_take_small_pages(monkeypatch):
    """They hold no more memory than they need."""
    asked = counting(monkeypatch, 0)
    buffer = Buffer(8 * HUGE)
    buffer.populate(HUGE + 4096, MIB)

    assert asked == []
    assert os.fstat(buffer.fd).st_blocks * 512 == MIB
    buffer.close()


@pytest.mark.parametrize(
    ("spans", "before", "left"),
    [
        ([], [(0, 9)], []),
        ([(2, 8)], [], [(2, 8)]),
        ([(2, 8)], [(2, 8)], []),
        ([(2, 8)], [(0, 4)], [(4, 8)]),
        ([(2, 8)], [(4, 6)], [(2, 4), (6, 8)]),
        ([(2, 8)], [(0, 2), (8, 9)], [(2, 8)]),
        ([(2, 8), (10, 20)], [(0, 3), (7, 12), (15, 16)], [(3, 7), (12, 15), (16, 20)]),
    ],
)
def test_what_lies_beyond_is_all_that_was_not_there(spans, before, left):
    assert pages.beyond(spans, before) == left


@pytest.mark.skipif(not pages.own_spans(), reason="this kernel does not tell")
def test_own_memory_is_where_it_was_written():
    region = mmap.mmap(-1, 4 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(region))
    assert any(low <= address and address + len(region) <= high for low, high in pages.own_spans())

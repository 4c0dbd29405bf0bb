"""The hint to the disk: which spans it covers, that it is the kernel's own call, and that a failed one is harmless."""

import os

import pytest

from storage.disk import writeback
from storage.disk.blobs import Blobs
from storage.disk.writeback import STEP_BYTES
from storage.disk.writers import SlabWriter

PIECE = bytes(1024 * 1024)


@pytest.fixture
def spans(monkeypatch):
    """The (offset, length) of every hint, passed on to the kernel."""
    seen = []
    call = writeback._SYNC_FILE_RANGE

    def hint(fd, offset, num_bytes, flags):
        assert flags == 2
        seen.append((offset, num_bytes))
        return call(fd, offset, num_bytes, flags)

    monkeypatch.setattr(writeback, "_SYNC_FILE_RANGE", hint)
    return seen


def test_spans_follow_each_other(tmp_path, spans):
    """Whole steps, in order, nothing twice; the last bytes are the flush's."""
    blobs = Blobs(tmp_path, 1)
    writer = blobs.create(20 * len(PIECE))
    for _ in range(20):
        writer.write(PIECE)
    writer.publish()

    assert spans == [(0, STEP_BYTES), (STEP_BYTES, STEP_BYTES)]
    assert blobs.path(writer.blob).stat().st_size == 20 * len(PIECE)


def test_a_part_of_a_slab_begins_at_its_place(tmp_path, spans):
    """A part's spans are its own, not its neighbours'."""
    writer = SlabWriter(Blobs(tmp_path, 1), "00000001ab", 3 * STEP_BYTES, lambda: None)
    for _ in range(STEP_BYTES // len(PIECE)):
        writer.write(PIECE)
    writer.publish()

    assert spans == [(3 * STEP_BYTES, STEP_BYTES)]


def test_small_files_are_left_to_the_flush(tmp_path, spans):
    """No call where there is nothing to gain."""
    writer = Blobs(tmp_path, 1).create(len(PIECE))
    writer.write(PIECE)
    writer.publish()

    assert spans == []


def test_it_is_the_kernels_call(tmp_path):
    """The descriptor, the 64-bit offsets and the flag arrive as the kernel wants them: it says 0, and -1 for a pipe."""
    if writeback._SYNC_FILE_RANGE is None:
        pytest.skip("this system has no sync_file_range")
    read_end, write_end = os.pipe()
    with (tmp_path / "file").open("wb") as file:
        file.write(PIECE)
        file.flush()
        assert writeback._SYNC_FILE_RANGE(file.fileno(), 0, len(PIECE), writeback._BEGIN) == 0
        assert writeback._SYNC_FILE_RANGE(file.fileno(), 5 * 2**32, len(PIECE), writeback._BEGIN) == 0
        assert writeback._SYNC_FILE_RANGE(write_end, 0, 1, writeback._BEGIN) == -1
    os.close(read_end)
    os.close(write_end)


def test_a_refused_hint_is_no_failure(tmp_path, monkeypatch):
    """Where the kernel refuses it, and where there is no such call, a blob is written as before."""
    for call in (lambda *_: -1, None):
        monkeypatch.setattr(writeback, "_SYNC_FILE_RANGE", call)
        blobs = Blobs(tmp_path, 1)
        writer = blobs.create(None)
        for _ in range(9):
            writer.write(PIECE)
        writer.publish()
        assert blobs.path(writer.blob).stat().st_size == 9 * len(PIECE)

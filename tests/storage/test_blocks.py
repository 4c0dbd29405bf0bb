"""Whole blocks at their places in the file, whatever the pieces; nothing is lost, reordered or written twice."""

import os
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.disk import blocks
from storage.disk.blobs import Blobs
from storage.disk.blocks import BLOCK_BYTES, BlockWriter

SMALL = 64  # a block of the property test


class Seen:
    """`os`, but for pwrite, which may take less than it is given; where and how much it took is kept."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.spans: list[tuple[int, int]] = []

    def pwrite(self, fd: int, view: memoryview, at: int) -> int:
        num = os.pwrite(fd, view[: self.most], at)
        self.spans.append((at, num))
        return num


@given(
    start=st.integers(0, 3 * SMALL),
    pieces=st.lists(st.integers(0, 5 * SMALL), max_size=12),
    most=st.sampled_from([7, SMALL, 1000]),
)
def test_any_pieces_give_the_same_file(tmp_path_factory, start, pieces, most):
    path = tmp_path_factory.mktemp("blocks") / "file"
    seen, data = Seen(most), os.urandom(sum(pieces))
    with pytest.MonkeyPatch.context() as patch, path.open("w+b") as file:
        patch.setattr(blocks, "os", seen)
        patch.setattr(blocks, "BLOCK_BYTES", SMALL)
        writer, at = BlockWriter(file.fileno(), start), 0
        for length in pieces:
            writer.write(data[at : at + length])
            at += length
            assert start + at - SMALL < writer.written <= start + at
        writer.flush()
        writer.flush()
        assert writer.written == start + len(data)

    assert path.read_bytes()[start:] == data
    assert all(at + num == after for (at, num), (after, _) in pairwise(seen.spans))
    if most >= 1000:  # the kernel took all it was given: every call but the last ends with a block
        assert all((at + num) % SMALL == 0 for at, num in seen.spans[:-1])


def test_what_cannot_be_written_is_told_by_publish_at_the_latest(tmp_path, monkeypatch):
    """A full disk is met when the block is: the blob is then gone, and nothing of it is left."""
    blobs = Blobs(tmp_path, 1)
    writer = blobs.create(None)
    writer.write(b"held")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(blocks.os, "pwrite", full)
        with pytest.raises(OSError, match="No space"):
            writer.publish()
    assert not list((tmp_path / "tmp").iterdir())
    assert not blobs.path(writer.blob).exists()


def test_a_small_blob_takes_no_block_of_memory(tmp_path):
    writer = Blobs(tmp_path, 1).create(BLOCK_BYTES - 1)
    writer.write(b"x")
    assert writer._bytes._held is None
    writer.abort()

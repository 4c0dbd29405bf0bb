"""New content on its way to the disk: a blob of its own, or a part at its place in a slab."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from storage.disk.blocks import BlockWriter
from storage.disk.writeback import Writeback
from storage.fault import StoreBroken

PREALLOCATE_BYTES = (
    1024 * 1024
)  # from here on the file system is asked for the room first: ENOSPC before the work
FILE_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW


class Folder(Protocol):
    """Where blobs lie, and the only one that makes them durable: `Blobs`."""

    def path(self, blob: str) -> Path:
        """Where a blob lies."""

    def tmp_path(self, blob: str) -> Path:
        """Where a blob lies until it is published."""

    def open_slab(self, blob: str) -> int:
        """A descriptor for writing parts into a slab, made if it is not there. Raises: OSError, StoreBroken."""

    def flush(self, fd: int) -> None:
        """Make a file's bytes durable. Raises: OSError, StoreBroken."""

    def flush_folder(self, folder: Path) -> None:
        """Make a folder's names durable. Raises: OSError, StoreBroken."""


class BlobWriter:
    """One new blob. `write` in order, then `publish` or `abort`; not for several threads at once."""

    def __init__(self, blobs: Folder, blob: str, size: int | None) -> None:
        self.blob = blob
        self.offset = 0
        self._blobs = blobs
        self._tmp = blobs.tmp_path(blob)
        self._fd: int | None = os.open(self._tmp, os.O_CREAT | os.O_EXCL | os.O_WRONLY | FILE_FLAGS, 0o600)
        self._bytes = BlockWriter(self._fd, 0, size)
        self._writeback = Writeback(self._fd, 0)
        if size is not None and size >= PREALLOCATE_BYTES:
            self._preallocate(size)

    def write(self, data: bytes | memoryview) -> None:
        """Append. Raises: OSError."""
        self._bytes.write(data)
        self._writeback.reached(self._bytes.written)

    def publish(self) -> None:
        """Make the blob durable under its id. Raises: OSError, StoreBroken; the blob is then gone."""
        assert self._fd is not None  # noqa: S101 - a type for mypy; misuse is a bug of ours
        path = self._blobs.path(self.blob)
        try:
            self._bytes.flush()
            self._blobs.flush(self._fd)
            self._tmp.rename(path)
            self._blobs.flush_folder(path.parent)
        except (OSError, StoreBroken):
            self.abort()
            raise
        self._close()

    def abort(self) -> None:
        """Leave nothing behind, published or not; only while no row names the blob."""
        self._close()
        self._tmp.unlink(missing_ok=True)
        self._blobs.path(self.blob).unlink(missing_ok=True)

    def _preallocate(self, size: int) -> None:
        assert self._fd is not None  # noqa: S101 - as above
        try:
            os.posix_fallocate(self._fd, 0, size)
        except OSError:
            self.abort()
            raise

    def _close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class SlabWriter:
    """One part at its place in a slab; BlobWriter's interface. The slab itself is kept on `abort`."""

    def __init__(self, blobs: Folder, blob: str, offset: int, on_abort: Callable[[], None]) -> None:
        """`on_abort` gives the place back, so that whoever sends the part again may have it."""
        self.blob = blob
        self.offset = offset
        self._blobs = blobs
        self._on_abort = on_abort
        self._fd: int | None = blobs.open_slab(
            blob
        )  # its own descriptor: a failed flush is reported on each once
        self._bytes = BlockWriter(self._fd, offset)
        self._writeback = Writeback(self._fd, offset)

    def write(self, data: bytes | memoryview) -> None:
        """Append to the part. Raises: OSError."""
        self._bytes.write(data)
        self._writeback.reached(self._bytes.written)

    def publish(self) -> None:
        """Make the part durable. Raises: OSError, StoreBroken."""
        assert self._fd is not None  # noqa: S101 - as above
        self._bytes.flush()
        self._blobs.flush(self._fd)
        self._close()

    def abort(self) -> None:
        """Give the part's place back; only while no row names it."""
        self._close()
        self._on_abort()

    def _close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

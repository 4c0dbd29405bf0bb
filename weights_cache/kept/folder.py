"""A folder of landings that outlive the process: what was read once is on this host after a restart of the node.

An entry is one revision, `<id>` its name:

    <id>.weights   the landing's memory itself, a file that the node and every engine map
    <id>.landed    one byte an extent: 1 once it was checked, written after its bytes
    <id>.small     the other files of the revision (config, tokenizer), one after another
    <id>.entry     what the other three are: model, sizes and the BLAKE3 of each extent; written aside and renamed, last

A file without its `.entry` is nobody's and is deleted at the start. Nothing here waits for a disk: a process or a
machine that dies at any point leaves an entry that is whole, partly filled, or none, and which of its bytes are right
is not believed but checked against the revision's own table whenever it is landed. So a restart looks at
the small files only, and a load that was cut short goes on where it was.
"""

import errno
import logging
import os
import re
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from weights_cache.kept.entry_file import BadEntryError, EntryFile, described, parsed
from weights_cache.kept.folder_lock import locked, need_locks
from weights_cache.kept.mounts import lies_in_memory
from weights_cache.kept.open_entry import OpenEntry
from weights_cache.memory.buffers import whole_pages
from weights_cache.memory.file_buffer import FileBuffer
from weights_cache.model.plan import Layout
from weights_cache.model.revision import Revision
from weights_cache.reading.small import Files, joined, parted

# In the order in which they are deleted: without the first it is none.
SUFFIXES = (".entry", ".landed", ".small", ".weights")
DIGEST_BYTES = 32
_NAME = re.compile(r"([0-9a-f]{64})\.(entry|landed|small|weights|new)")

log = logging.getLogger("nearfield.weights")


@dataclass(frozen=True, slots=True)
class Rested:
    """An entry as it lies in the folder. `is_whole`: each of its extents was checked once."""

    revision_id: str
    file: EntryFile
    num_bytes: int
    used_s: float
    landed_bytes: int

    @property
    def is_whole(self) -> bool:
        """Whether all of it is there, for all that is written down."""
        return self.landed_bytes == self.file.weight_bytes


class CacheFolder:
    """All entries of one folder, for one process at a time. `open` is for one thread at a time, the rest for any."""

    def __init__(self, path: Path, cap_bytes: int) -> None:
        """Raises FolderError: another process has it, or its disk's pages may not be locked; and OSError."""
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path = path
        self._lock_fd = locked(path)
        self.in_memory = lies_in_memory(path)
        if not self.in_memory:
            need_locks(path, cap_bytes)
        self._files: dict[str, EntryFile] = {}
        self._with_small = set[str]()
        """Entries whose small files were written or read in this life."""
        self._sweep()

    def rested(self, but: Collection[str] = ()) -> list[Rested]:
        """The entries, but those of `but`."""
        found = [self._rested(name, file) for name, file in tuple(self._files.items()) if name not in but]
        return [each for each in found if each is not None]

    def num_bytes(self, revision: Revision, places: Layout) -> int:
        """What the entry of a revision takes on the disk."""
        return _disk_bytes(described(revision, places))

    def open(self, revision: Revision, places: Layout, make_room: Callable[[], bool]) -> OpenEntry:
        """The revision's entry, found or made. `make_room` deletes another entry; False if none may go.

        Raises OSError: there is no space, not even after all that may go is gone.
        """
        wanted = described(revision, places)
        if self._files.get(revision.id) != wanted:
            self.drop(revision.id)
            with_room(lambda: self._make(revision.id, wanted), make_room)
        weights_fd = self._open_file(revision.id, ".weights")
        buffer = FileBuffer(weights_fd, wanted.num_bytes, make_room, lock=not self.in_memory)
        return OpenEntry(buffer, self._open_file(revision.id, ".landed"), wanted)

    def copy_to(self, digest: str, view: memoryview, but: Collection[str] = ()) -> bool:
        """Copy the extent with this BLAKE3 from an entry that is not of `but` into `view`; False if none has it.

        To be checked again: it may not have landed there, or be evicted in this moment.
        """
        for name, file in tuple(self._files.items()):
            place = None if name in but else file.place_of(digest, len(view))
            if place is not None and self._read(name, place, view):
                return True
        return False

    def landed_digests(self, but: Collection[str] = ()) -> set[str]:
        """BLAKE3 of the extents that the entries but those of `but` have, for all that is written down."""
        return {
            digest
            for name, file in tuple(self._files.items())
            if name not in but
            for (_, _, digest), is_here in zip(file.extents, self._landed(name), strict=False)
            if is_here
        }

    def small_files(self, revision: Revision) -> Files | None:
        """The revision's small files, checked; None if they are not here, or not whole."""
        try:
            data = self._file(revision.id, ".small").read_bytes()
        except FileNotFoundError:
            return None  # it has no entry, or it was evicted meanwhile
        except OSError as error:
            log.warning("small files kept on this host cannot be read: %s", error)
            return None
        files = parted(revision, data)
        if files is not None:
            self._with_small.add(revision.id)
        return files

    def keep_small(self, revision: Revision, files: Files) -> None:
        """Write a revision's small files beside its weights, if it has an entry that has them not yet."""
        if revision.id not in self._files or revision.id in self._with_small:
            return
        try:
            fd = self._open_file(revision.id, ".small")
        except FileNotFoundError:
            return  # it was evicted meanwhile
        try:
            os.pwrite(fd, joined(revision, files), 0)
            self._with_small.add(revision.id)
        except OSError as error:
            log.warning("small files could not be kept, so a restart reads them again: %s", error)
        finally:
            os.close(fd)

    def touch(self, revision_id: str) -> None:
        """An entry was used now."""
        now_ns = time.time_ns()  # the kernel's own idea of now is some milliseconds coarse
        with suppress(FileNotFoundError):  # it was evicted meanwhile
            os.utime(self._file(revision_id, ".entry"), ns=(now_ns, now_ns))

    def drop(self, revision_id: str) -> None:
        """Delete an entry, or what there is of one."""
        self._files.pop(revision_id, None)
        self._with_small.discard(revision_id)
        for suffix in SUFFIXES:
            self._file(revision_id, suffix).unlink(missing_ok=True)

    def close(self) -> None:
        """Let another process have the folder. Once."""
        os.close(self._lock_fd)

    def _open_file(self, revision_id: str, suffix: str, flags: int = os.O_RDWR) -> int:
        """A descriptor of one of an entry's files."""
        return os.open(self._file(revision_id, suffix), flags | os.O_CLOEXEC, 0o600)

    def _read(self, revision_id: str, place: int, view: memoryview) -> bool:
        try:
            fd = self._open_file(revision_id, ".weights", os.O_RDONLY)
        except FileNotFoundError:
            return False  # it was evicted meanwhile
        try:
            return os.preadv(fd, [view], place) == len(view)
        except OSError as error:
            log.warning("weights kept on this host cannot be read: %s", error)
            return False
        finally:
            os.close(fd)

    def _file(self, revision_id: str, suffix: str) -> Path:
        return self.path / (revision_id + suffix)

    def _make(self, revision_id: str, wanted: EntryFile) -> None:
        """The four files, the one that makes it an entry last. Raises OSError and leaves none."""
        try:
            self._check_space(_disk_bytes(wanted))
            self._make_file(revision_id, ".weights", whole_pages(wanted.num_bytes))
            self._make_file(revision_id, ".landed", len(wanted.extents))
            self._make_file(revision_id, ".small", wanted.small_bytes)
            self._write_entry(revision_id, wanted.to_bytes())
            self._files[revision_id] = wanted
        except OSError:
            self._file(revision_id, ".new").unlink(missing_ok=True)
            self.drop(revision_id)
            raise

    def _check_space(self, num_bytes: int) -> None:
        """Files are made with holes: whether the disk could fill them is asked once before."""
        disk = os.statvfs(self.path)
        if disk.f_bavail * disk.f_frsize < num_bytes:
            log.warning("%s has no space for %s bytes of weights", self.path, f"{num_bytes:,}")
            raise OSError(errno.ENOSPC, f"its disk of weights has no space for {num_bytes:,} bytes")

    def _make_file(self, revision_id: str, suffix: str, num_bytes: int) -> None:
        fd = self._open_file(revision_id, suffix, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            os.ftruncate(fd, num_bytes)
        finally:
            os.close(fd)

    def _write_entry(self, revision_id: str, data: bytes) -> None:
        new = self._file(revision_id, ".new")
        fd = self._open_file(revision_id, ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            os.write(fd, blake3(data).digest() + data)
        finally:
            os.close(fd)
        new.rename(self._file(revision_id, ".entry"))

    def _sweep(self) -> None:
        """Learn the entries and delete what is none. Files with other names are not ours and stay."""
        names = [match for each in self.path.iterdir() if (match := _NAME.fullmatch(each.name)) is not None]
        for match in names:
            if match[2] == "entry" and (file := self._read_entry(match[1])) is not None:
                self._files[match[1]] = file
        for match in names:
            if match[2] == "new" or match[1] not in self._files:
                (self.path / match[0]).unlink(missing_ok=True)

    def _read_entry(self, revision_id: str) -> EntryFile | None:
        """The description of an entry, if it is whole and its files are as long as it says."""
        data = self._file(revision_id, ".entry").read_bytes()
        if blake3(data[DIGEST_BYTES:]).digest() != data[:DIGEST_BYTES]:
            return None
        try:
            file = parsed(data[DIGEST_BYTES:])
        except BadEntryError as error:
            log.info("an entry of %s is of another version and is deleted: %s", self.path, error)
            return None
        sizes = [self._size(revision_id, suffix) for suffix in (".weights", ".landed", ".small")]
        wanted = [whole_pages(file.num_bytes), len(file.extents), file.small_bytes]
        return file if sizes == wanted else None

    def _size(self, revision_id: str, suffix: str) -> int:
        try:
            return self._file(revision_id, suffix).stat().st_size
        except FileNotFoundError:
            return -1

    def _landed(self, revision_id: str) -> bytes:
        """One byte an extent; none of an entry that was evicted meanwhile."""
        with suppress(FileNotFoundError):
            return self._file(revision_id, ".landed").read_bytes()
        return b""

    def _rested(self, revision_id: str, file: EntryFile) -> Rested | None:
        try:
            used_s = self._file(revision_id, ".entry").stat().st_mtime
            landed = self._landed(revision_id)
        except FileNotFoundError:
            return None  # it was evicted meanwhile
        here = (length for (_, length, _), is_here in zip(file.extents, landed, strict=False) if is_here)
        return Rested(revision_id, file, _disk_bytes(file), used_s, sum(here))


def with_room(make: Callable[[], None], make_room: Callable[[], bool]) -> None:
    """Do what needs disk space; while there is none, delete another entry and do it again. Raises OSError."""
    while True:
        try:
            make()
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT} or not make_room():
                raise
        else:
            return


def age_to_monotonic(used_s: float) -> float:
    """A file's time on the clock of `time.monotonic`; before this host's start it is negative."""
    return time.monotonic() - max(0.0, time.time() - used_s)


def _disk_bytes(file: EntryFile) -> int:
    sides = (len(file.extents), len(file.to_bytes()) + DIGEST_BYTES, file.small_bytes)
    return whole_pages(file.num_bytes) + sum(map(whole_pages, sides))

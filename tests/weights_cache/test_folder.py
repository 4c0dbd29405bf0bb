"""Landings that outlive the process: found again, looked at again, refetched where wrong, never above the cap."""

import errno
import gc
import os
import shutil
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.weights_cache.locking import needs_locking
from weights_cache.kept.folder import CacheFolder
from weights_cache.kept.folder_lock import FolderError
from weights_cache.kept.mounts import file_system, lies_in_memory
from weights_cache.memory.view import LandingError
from weights_cache.reading import rate

from .kept import (
    BLOBS,
    CAP,
    PLACES,
    REVISIONS,
    WEIGHT_BYTES,
    WHOLE,
    MemoryReader,
    contents,
    entry_bytes,
    names,
    tier_on,
    used_bytes,
)
from .samples import described, landed_bytes
from .test_sharing import ADAPTED, ALL_BYTES, BASE, LAYER_BYTES, files_of


def land_all(path, numbers=(0, 1, 2), **more):
    """Lands these in a tier that is then closed."""
    tier = tier_on(path, MemoryReader(), **more)
    for number in numbers:
        assert tier.land(REVISIONS[number]).wait(60)
    tier.close()


def weights(path, number):
    return path / f"{REVISIONS[number].id}.weights"


def test_a_restart_finds_what_was_landed(cache_path):
    """All of it is there, host state, and nothing is read; it was checked again before anybody used it."""
    land_all(cache_path)
    reader = MemoryReader()
    tier = tier_on(cache_path, reader)
    assert {entry.model: entry.landed for entry in tier.entries()} == {
        f"acme/k{number}": True for number in range(3)
    }
    for number in range(3):
        landing = tier.land(REVISIONS[number], pin=True)
        assert landing.wait(60)
        assert contents(landing, number) == WHOLE[number]
        assert (landing.source, landing.bytes_read) == ("host", 0)
        assert landing.host_bytes == landing.total_bytes
        assert landing.phases["verify"] > 0
        again = tier.land(REVISIONS[number])
        assert (again.source, again.host_bytes, again.phases) == ("host", again.total_bytes, {})

    assert not reader.num_bytes
    tier.close()


def test_a_restart_reads_no_weights_before_they_are_asked_for(cache_path, monkeypatch):
    """Thousands of entries are looked at by their small files; the large ones are checked when they are landed."""
    land_all(cache_path)
    opened = []
    real = os.open
    monkeypatch.setattr(os, "open", lambda name, *rest, **more: opened.append(str(name)) or real(name, *rest))
    folder = CacheFolder(cache_path, CAP)

    assert len(folder.rested()) == 3
    assert not [name for name in opened if name.endswith(".weights")]
    folder.close()


def test_a_load_that_was_cut_short_goes_on_where_it_was(cache_path):
    """The node stops in the middle: the next one reads only what had not landed."""
    gate, seen = threading.Event(), []

    def before(extent_path, offset, view):
        seen.append(offset)
        if len(seen) > 4:
            gate.wait(60)

    tier = tier_on(cache_path, MemoryReader(before))
    landing = tier.land(REVISIONS[2])
    while landing.progress().done_bytes == 0 or len(seen) <= 4:
        threading.Event().wait(0.002)
    half_bytes = landing.progress().done_bytes
    threading.Timer(0.1, gate.set).start()
    tier.close()
    reader = MemoryReader()
    tier = tier_on(cache_path, reader)
    landing = tier.land(REVISIONS[2])
    assert landing.wait(60)

    assert contents(landing, 2) == WHOLE[2]
    assert landing.host_bytes >= half_bytes > 0
    assert sum(reader.num_bytes.values()) == landing.bytes_read == landing.total_bytes - landing.host_bytes
    assert landing.source == "region"
    tier.close()


@pytest.mark.parametrize("at", [0, 1_000, 5_000])
def test_a_wrong_byte_on_the_disk_is_fetched_again_alone(cache_path, at):
    """The start state is host, but that extent comes from the store, and the receipt can say so."""
    land_all(cache_path, [1])
    data = bytearray(weights(cache_path, 1).read_bytes())
    data[at] ^= 1
    weights(cache_path, 1).write_bytes(data)
    reader = MemoryReader()
    tier = tier_on(cache_path, reader)
    landing = tier.land(REVISIONS[1])
    assert landing.wait(60)
    wrong = [
        each
        for each in REVISIONS[1].extents
        if PLACES[1].place(each) <= at < PLACES[1].place(each) + each.length
    ]

    assert contents(landing, 1) == WHOLE[1]
    assert landing.bytes_read == sum(reader.num_bytes.values()) == sum(each.length for each in wrong)
    assert landing.host_bytes == landing.total_bytes - landing.bytes_read
    tier.close()


DAMAGES = {
    "no description": lambda path, name: (path / f"{name}.entry").unlink(),
    "a torn description": lambda path, name: os.truncate(path / f"{name}.entry", 40),
    "an empty description": lambda path, name: os.truncate(path / f"{name}.entry", 0),
    "a description of something else": lambda path, name: (path / f"{name}.entry").write_bytes(b"{}" * 40),
    "weights cut short": lambda path, name: os.truncate(path / f"{name}.weights", 4096),
    "no weights": lambda path, name: (path / f"{name}.weights").unlink(),
    "no list": lambda path, name: (path / f"{name}.landed").unlink(),
    "a list cut short": lambda path, name: os.truncate(path / f"{name}.landed", 1),
    "no small files": lambda path, name: (path / f"{name}.small").unlink(),
    "small files cut short": lambda path, name: os.truncate(path / f"{name}.small", 5),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_no_whole_entry_is_deleted_and_landed_anew(cache_path, damage):
    """Its siblings stay, and so does whatever is not ours."""
    land_all(cache_path, [0, 1])
    (cache_path / "notes.txt").write_text("mine")
    (cache_path / f"{REVISIONS[2].id}.new").write_text("half a description")
    DAMAGES[damage](cache_path, REVISIONS[0].id)
    tier = tier_on(cache_path, MemoryReader())

    assert [entry.model for entry in tier.entries()] == ["acme/k1"]
    assert not [name for name in names(cache_path) if name.startswith((REVISIONS[0].id, REVISIONS[2].id))]
    assert (cache_path / "notes.txt").read_text() == "mine"
    landing = tier.land(REVISIONS[0])
    assert landing.wait(60)
    assert contents(landing, 0) == WHOLE[0]
    tier.close()


def test_a_list_that_lies_is_not_believed(cache_path):
    """All is marked as landed and nothing is: every extent is checked, and fetched."""
    land_all(cache_path, [0])
    size = weights(cache_path, 0).stat().st_size
    weights(cache_path, 0).write_bytes(bytes(size))
    tier = tier_on(cache_path, MemoryReader())
    landing = tier.land(REVISIONS[0])
    assert landing.wait(60)

    assert contents(landing, 0) == WHOLE[0]
    assert (landing.host_bytes, landing.bytes_read) == (0, WEIGHT_BYTES[0])
    tier.close()


def test_the_cap_holds_and_older_entries_go_first(cache_path):
    """Room is made before a file grows; what is pinned stays; a cap that was lowered is kept at the next start."""
    cap = entry_bytes(cache_path.parent / "m", 1) + entry_bytes(cache_path.parent / "m", 2)
    shutil.rmtree(cache_path.parent / "m")
    tier = tier_on(cache_path, MemoryReader(), cap)
    pinned = tier.land(REVISIONS[1], pin=True)
    for number in (0, 2):
        assert tier.land(REVISIONS[number]).wait(60)
        assert used_bytes(cache_path) <= cap
    assert {entry.model for entry in tier.entries()} == {"acme/k1", "acme/k2"}
    with pytest.raises(LandingError) as caught:
        tier.land(REVISIONS[2], pin=True) and tier.land(REVISIONS[0])
    assert caught.value.code == "host_full"
    pinned.release()
    tier.close()
    lower = tier_on(cache_path, MemoryReader(), cap - 1)

    assert [entry.model for entry in lower.entries()] == ["acme/k1"]  # given back last
    assert used_bytes(cache_path) < cap
    lower.close()


def test_evicted_is_deleted_wherever_it_was(cache_path):
    """One that a load of this process landed, and one that only lies there."""
    land_all(cache_path, [0])
    tier = tier_on(cache_path, MemoryReader())
    assert tier.land(REVISIONS[1]).wait(60)
    assert tier.evict(REVISIONS[0].id) > 0
    assert tier.evict(REVISIONS[1].id) > 0
    assert tier.evict(REVISIONS[1].id) == 0

    assert names(cache_path) == []
    tier.close()


def full_disk(monkeypatch, path, until_bytes):
    """A disk on which nothing more fits than `until_bytes`, as the calls that take space see it."""
    real = os.posix_fallocate

    def allocate(fd, offset, length):
        if used_space(path) + length > until_bytes:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(fd, offset, length)

    monkeypatch.setattr(os, "posix_fallocate", allocate)


def used_space(path):
    """Bytes that are really taken: holes are not."""
    return sum(each.stat().st_blocks * 512 for each in path.iterdir())


def test_a_full_disk_makes_room_and_the_load_goes_on(cache_path, monkeypatch):
    """The disk is smaller than the cap: the entry that matters least goes, in the middle of a load."""
    land_all(cache_path, [0])
    tier = tier_on(cache_path, MemoryReader())
    full_disk(monkeypatch, cache_path, used_space(cache_path) + 8192)  # k1 takes 20 KiB, k0 16
    landing = tier.land(REVISIONS[1])
    assert landing.wait(60)

    assert contents(landing, 1) == WHOLE[1]
    assert [entry.model for entry in tier.entries()] == ["acme/k1"]
    tier.close()


def test_a_disk_that_is_too_small_is_told_without_its_path(cache_path, monkeypatch, caplog):
    """Who asks may be anybody's client; the path is in the node's log."""
    tier = tier_on(cache_path, MemoryReader())
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=1, f_frsize=4096))
    with pytest.raises(LandingError, match="has no space for") as caught:
        tier.land(REVISIONS[0])

    assert caught.value.code == "host_memory_full"
    assert str(cache_path) not in caught.value.message
    assert str(cache_path) in caplog.text
    tier.close()


def test_a_disk_with_no_space_at_all_is_one_clear_error(cache_path, monkeypatch):
    """What is in use stays whole; the next ask, once there is space, goes on."""
    tier = tier_on(cache_path, MemoryReader())
    pinned = tier.land(REVISIONS[0], pin=True)
    assert pinned.wait(60)
    with monkeypatch.context() as patch:
        full_disk(patch, cache_path, used_space(cache_path) + 4096)
        with pytest.raises(LandingError, match="no space") as caught:
            tier.land(REVISIONS[1]).wait(60)
    assert caught.value.code == "host_memory_full"
    assert "Errno" not in caught.value.message
    assert contents(pinned, 0) == WHOLE[0]
    landing = tier.land(REVISIONS[1])

    assert landing.wait(60)
    assert contents(landing, 1) == WHOLE[1]
    tier.close()


def test_a_disk_that_cannot_hold_an_entry_is_asked_before(cache_path, monkeypatch):
    """No file is made where the free space is too small, and others are deleted for it first."""
    land_all(cache_path, [0])
    tier = tier_on(cache_path, MemoryReader())
    real = os.statvfs

    def statvfs(where):
        found = real(where)
        blocks = 0 if used_bytes(cache_path) else found.f_bavail
        return os.statvfs_result((*found[:4], blocks, *found[5:]))

    monkeypatch.setattr(os, "statvfs", statvfs)
    landing = tier.land(REVISIONS[1])
    assert landing.wait(60)
    assert [entry.model for entry in tier.entries()] == ["acme/k1"]
    tier.land(REVISIONS[1], pin=True)
    with pytest.raises(LandingError, match="no space"):
        tier.land(REVISIONS[2])
    assert not [name for name in names(cache_path) if name.startswith(REVISIONS[2].id)]
    tier.close()


def test_a_failed_load_cannot_write_into_the_next_one(cache_path):
    """A reader that is stuck while its load has failed wakes up later: the next load has files of its own."""
    stuck, first = threading.Event(), threading.Event()

    def before(extent_path, offset, view):
        if not first.is_set():
            first.set()
            stuck.wait(60)
            view[:] = b"?" * len(view)

    class Reader(MemoryReader):
        def read_into(self, extent_path, offset, view):
            was_first = not first.is_set()
            self.before(extent_path, offset, view)
            if not was_first:
                view[:] = BLOBS[extent_path][offset : offset + len(view)]

    tier = tier_on(cache_path, Reader(before))
    failed = tier.land(REVISIONS[0])
    assert first.wait(60)
    tier._seats[REVISIONS[0].id].flight.stop()
    landing = tier.land(REVISIONS[0])
    assert landing.wait(60)
    stuck.set()
    with pytest.raises(LandingError):
        failed.wait(60)

    assert contents(landing, 0) == WHOLE[0]
    assert [entry.landed for entry in tier.entries()] == [True]
    tier.close()


def test_no_descriptor_is_left_of_loads_and_evictions(cache_path):
    """A node lives for months: what it opens for an entry closes with it."""
    gc.collect()
    open_before = num_open()
    tier = tier_on(cache_path, MemoryReader())
    for _ in range(3):
        assert tier.land(REVISIONS[0]).wait(60)
        tier.small_files(REVISIONS[0])
        assert tier.evict(REVISIONS[0].id) > 0
    tier.close()
    deadline = time.monotonic() + 10
    while num_open() > open_before and time.monotonic() < deadline:  # readers may be about to end
        time.sleep(0.01)

    assert num_open() == open_before


def num_open():
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_an_entry_whose_list_is_gone_has_nothing(cache_path):
    """It is being evicted by somebody else in this moment."""
    land_all(cache_path, (0,))
    folder = CacheFolder(cache_path, CAP)
    (cache_path / f"{REVISIONS[0].id}.landed").unlink()

    assert [each.landed_bytes for each in folder.rested()] == [0]
    assert folder.landed_digests() == set()
    folder.close()


def test_a_load_from_the_folder_says_nothing_of_the_store(cache_path, monkeypatch):
    """Its rate is that of memory: readers of the next one would ask for far too much at once."""
    monkeypatch.setattr(rate, "LEAST_BYTES", 1)
    land_all(cache_path, (0,))
    tier = tier_on(cache_path, MemoryReader())
    assert tier.land(REVISIONS[0]).wait(60)
    assert tier.store_bytes_per_s is None
    assert tier.land(REVISIONS[1]).wait(60)
    assert tier.store_bytes_per_s > 0
    tier.close()


def test_a_folder_is_one_nodes(cache_path):
    """A second node is told so; after the first has gone it may have it."""
    folder = CacheFolder(cache_path, CAP)
    with pytest.raises(FolderError, match="another process"):
        CacheFolder(cache_path, CAP)
    folder.close()

    CacheFolder(cache_path, CAP).close()


def test_what_only_lies_there_is_shared_too(cache_path):
    """After a restart a variant takes from the base's file what it has too."""
    files = {"base": files_of(BASE), "variant": files_of(ADAPTED, "a longer header")}
    revisions = {name: described(each, f"acme/{name}") for name, each in files.items()}
    for name, revision in revisions.items():
        BLOBS.update(
            {f"/nearfield-blobs/{entry.blake3}": files[name][entry.path] for entry in revision.files}
        )
    tier = tier_on(cache_path, MemoryReader())
    assert tier.land(revisions["base"]).wait(60)
    tier.close()
    reader = MemoryReader()
    tier = tier_on(cache_path, reader)
    landing = tier.land(revisions["variant"])
    assert landing.wait(60)

    assert landing.shared_bytes == ALL_BYTES - LAYER_BYTES
    assert sum(reader.num_bytes.values()) == LAYER_BYTES
    with os.fdopen(os.dup(landing.fd), "rb") as memory:
        whole = landed_bytes(revisions["variant"], files["variant"])
        assert memory.read(len(whole)) == whole
    tier.close()


@needs_locking
def test_a_folder_on_a_disk_keeps_what_it_checked_in_memory(tmp_path):
    """Its pages are locked, so that none is dropped and read again later, unchecked."""
    if lies_in_memory(tmp_path):
        pytest.skip("the temporary folder is in memory")
    land_all(tmp_path, [0])
    tier = tier_on(tmp_path, MemoryReader())
    landing = tier.land(REVISIONS[0], pin=True)
    assert landing.wait(60)
    maps = Path("/proc/self/smaps").read_text().split(f"{weights(tmp_path, 0)}\n")[1]
    locked = next(line for line in maps.splitlines() if line.startswith("Locked:"))

    assert int(locked.split()[1]) * 1024 >= len(WHOLE[0])
    assert contents(landing, 0) == WHOLE[0]
    tier.close()


def test_a_disk_whose_pages_may_not_be_locked_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("weights_cache.kept.folder.lies_in_memory", lambda path: False)
    monkeypatch.setattr("weights_cache.kept.folder_lock.can_lock", lambda num_bytes: False)
    with pytest.raises(FolderError, match="tmpfs"):
        CacheFolder(tmp_path, CAP)


MOUNTINFO = """\
22 1 0:20 / /sys rw,nosuid - sysfs sysfs rw
30 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
31 30 0:25 / /dev/shm rw - tmpfs tmpfs rw,size=24G
"""


@pytest.mark.parametrize(("number", "kind"), [("0:25", "tmpfs"), ("254:0", "ext4"), ("0:99", None)])
def test_the_file_system_of_a_device(number, kind):
    assert file_system(number, MOUNTINFO) == kind

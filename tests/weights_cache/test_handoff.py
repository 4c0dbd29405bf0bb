"""Weights from the store of this host: mapped where they lie, copied where they cannot be, verified either way."""

import gc
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.client.endpoint import SOCKET_NAME
from tests.evidence import count
from tests.storage.stores import READER, Raw, StoreThread, memory_folder
from tests.weights_cache.locking import needs_locking
from weights_cache.cache import NUM_READERS, HostTier
from weights_cache.memory.file_map import FileMap
from weights_cache.memory.view import LandingError, open_landing
from weights_cache.model.coverage import DTYPE_BYTES, FileEntry, TensorEntry
from weights_cache.model.plan import HUGE_BYTES, LEAST_HUGE_BYTES, PAGE_BYTES, MappedFile, layout
from weights_cache.reading import handoff as handoff_file
from weights_cache.reading.fetch import ReadError, blob_path
from weights_cache.reading.handoff import Given, StoreHandoff
from weights_cache.reading.store_socket import Run, StoreSocket, _opened

from .samples import described, safetensors_bytes, tiny_files

pytestmark = needs_locking

CAP = 64 << 20
WAIT_S = 20.0
ENGINE = """
import ctypes, json, os, sys
from weights_cache.model.plan import MappedFile
from weights_cache.model.revision import Revision
from weights_cache.memory.view import open_landing
revision = Revision.from_json(open(sys.argv[1], "rb").read())
fds, mapped = json.loads(sys.argv[2]), [MappedFile(*each) for each in json.loads(sys.argv[3])]
view = open_landing(revision, *fds[:3], mapped, fds[3:])
view.wait_all(20)
tensor = revision.tensors[0]
place = view.layout.place(tensor)
view.buffer[place] ^= 0xFF  # as a careless engine might
print(view.buffer[place], flush=True)
"""


def padded(data):
    """A safetensors file whose data begins on 8 bytes, as the official writer pads its headers."""
    (length,) = struct.unpack("<Q", data[:8])
    more = -length % 8
    return struct.pack("<Q", length + more) + data[8 : 8 + length] + b" " * more + data[8 + length :]


def shards(**more):
    return {
        path: padded(data) if path.endswith(".safetensors") else data
        for path, data in tiny_files(**more).items()
    }


class House:
    """A store, a model whose blobs it has, and what was put."""

    def __init__(self, root=None):
        self.store = StoreThread(root or memory_folder(), min_part_bytes=1)
        self.root = self.store.settings.root
        self.socket = self.root / SOCKET_NAME
        self.raw = Raw(self.store.endpoint())
        assert self.raw.send("PUT", "/nearfield-blobs").status == 200

    def hold(self, files, parts=None):
        """The revision of `files`; `parts`: {path: sizes of the parts it is uploaded in}."""
        revision = described(files)
        for entry in revision.files:
            sizes = (parts or {}).get(entry.path)
            if sizes is None:
                assert self.raw.put("nearfield-blobs", entry.blake3, files[entry.path]).status == 200
            else:
                self.upload(entry.blake3, cut(files[entry.path], sizes))
        return revision

    def upload(self, key, parts):
        upload = self.raw.create_upload("nearfield-blobs", key)
        tags = [
            (n, self.raw.put_part("nearfield-blobs", key, upload, n, part).headers["etag"])
            for n, part in enumerate(parts, 1)
        ]
        assert self.raw.complete("nearfield-blobs", key, upload, tags).status == 200

    def tier(self, endpoint=None, **more):
        endpoint = endpoint or self.store.endpoint()
        return HostTier(endpoint, CAP, handoff=StoreHandoff(self.socket, endpoint), retry_for_s=1.0, **more)

    def blob_files(self):
        return {each for each in (self.root / "blobs").rglob("*") if each.is_file()}

    def close(self):
        self.raw.__exit__()
        self.store.stop()
        shutil.rmtree(self.root)


def cut(data, sizes):
    """`data` in parts of these sizes over and over, the last one what is left."""
    parts, at, turn = [], 0, 0
    while at < len(data):
        parts.append(data[at : at + sizes[turn % len(sizes)]])
        at, turn = at + len(parts[-1]), turn + 1
    return parts


@pytest.fixture
def house():
    found = House()
    yield found
    found.close()


@pytest.fixture(scope="module")
def shared_house():
    found = House()
    yield found
    found.close()


def tensors_of(landing, revision):
    """{name: bytes} as another process sees them, and whether each is on its element's alignment."""
    view = open_landing(
        revision, landing.fd, landing.ready_fd, landing.event_fd, landing.mapped, landing.mapped_fds
    )
    assert view.wait_all(WAIT_S)
    found = {}
    for tensor in revision.tensors:
        start = view.layout.place(tensor)
        found[tensor.name] = bytes(view.buffer[start : start + tensor.length])
    unaligned = tuple(
        number
        for number, each in enumerate(revision.tensors)
        if each.length and view.layout.place(each) % DTYPE_BYTES[each.dtype]
    )
    view.close()
    return found, unaligned


def wanted(files, revision):
    return {
        t.name: files[revision.files[t.file].path][t.offset : t.offset + t.length] for t in revision.tensors
    }


def until(fact):
    deadline = time.monotonic() + WAIT_S
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def num_open():
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def sources(landing):
    return landing.mapped_bytes, landing.copied_bytes, landing.bytes_read


def test_whole_objects_are_mapped_and_nothing_is_read(house):
    """One piece each: every byte is mapped, none is copied or read, and an engine sees all of them right."""
    files = shards()
    revision = house.hold(files)
    tier = house.tier()
    landing = tier.land(revision)
    assert landing.wait(WAIT_S)

    assert sources(landing) == (landing.total_bytes, 0, 0)
    assert tensors_of(landing, revision) == (wanted(files, revision), ())
    assert [entry.mapped_bytes for entry in tier.entries()] == [landing.total_bytes]
    again = tier.land(revision)
    assert (again.source, sources(again)) == ("host", (0, 0, 0))
    assert tensors_of(again, revision)[0] == wanted(files, revision)
    tier.close()


def test_a_multipart_upload_of_equal_parts_is_mapped_whole(house):
    """The parts share one sparse file: what any S3 client uploads is mapped with no byte copied."""
    files = shards()
    revision = house.hold(files, {path: [40_000] for path in files})
    tier = house.tier()
    landing = tier.land(revision)
    assert landing.wait(WAIT_S)

    assert sources(landing) == (landing.total_bytes, 0, 0)
    assert tensors_of(landing, revision)[0] == wanted(files, revision)
    tier.close()


def test_what_is_in_pieces_is_copied_and_counted(house):
    """One shard of growing parts (a blob each) is copied from its files; the other is mapped beside it."""
    files = shards()
    first, second = sorted(path for path in files if path.endswith(".safetensors"))
    revision = house.hold(files, {first: [10_000, 30_000, 70_000]})
    tier = house.tier()
    landing = tier.land(revision)
    assert landing.wait(WAIT_S)

    lengths = {
        path: sum(e.length for e in revision.extents if revision.files[e.file].path == path)
        for path in (first, second)
    }
    assert sources(landing) == (lengths[second], lengths[first], 0)
    assert sources(tier.land(revision)) == (0, 0, 0)
    assert tensors_of(landing, revision)[0] == wanted(files, revision)
    tier.close()


def test_tensors_that_a_mapping_would_leave_unaligned_are_copied(house):
    """A header that is no multiple of four bytes: the data lands on 64 bytes, as before, and is counted."""
    matrix = ("F32", (64, 64), 4 * 64 * 64)
    for more in range(8):
        odd = safetensors_bytes({f"m{'x' * more}.weight": matrix, "n.weight": matrix})
        if struct.unpack("<Q", odd[:8])[0] % 4:
            break
    files = {"config.json": b"{}", "model.safetensors": odd}
    revision = house.hold(files)
    tier = house.tier()
    landing = tier.land(revision)
    assert landing.wait(WAIT_S)

    assert sources(landing) == (0, landing.total_bytes, 0)
    assert tensors_of(landing, revision) == (wanted(files, revision), ())
    tier.close()


@settings(max_examples=count(10, 25), deadline=None)
@given(
    first=st.lists(st.integers(700, 90_000), min_size=1, max_size=4),
    second=st.lists(st.integers(700, 90_000), min_size=1, max_size=4),
    pad=st.booleans(),
)
def test_any_layout_gives_the_same_weights_as_http(shared_house, first, second, pad):
    """Odd parts, padded headers or not: byte for byte what the HTTP path lands, and every byte has one source."""
    files = shards() if pad else tiny_files(seed=3)
    names = sorted(path for path in files if path.endswith(".safetensors"))
    revision = shared_house.hold(files, dict(zip(names, (first, second), strict=True)))
    by_files = shared_house.tier()
    by_http = HostTier(shared_house.store.endpoint(), CAP)
    ours, theirs = by_files.land(revision), by_http.land(revision)
    assert ours.wait(WAIT_S)
    assert theirs.wait(WAIT_S)

    assert tensors_of(ours, revision) == tensors_of(theirs, revision) == (wanted(files, revision), ())
    assert sum(sources(ours)) == ours.total_bytes
    assert sources(theirs) == (0, 0, theirs.total_bytes)
    by_files.close()
    by_http.close()


@given(
    sizes=st.lists(st.tuples(st.integers(9, 9000), st.integers(0, 20_000)), min_size=1, max_size=5),
    dtype=st.sampled_from(sorted(DTYPE_BYTES)),
    data=st.data(),
)
def test_the_layout_keeps_every_file_apart_and_on_its_page(sizes, dtype, data):
    """Spans never overlap, a mapped file keeps its place within a page, and what is landed comes first."""
    files = [
        FileEntry(f"{n}", start + length, "0" * 64, "e") for n, (start, length) in enumerate(sizes) if length
    ]
    starts = [start for start, length in sizes if length]
    tensors = [
        TensorEntry(f"t{n}", dtype, (), n, starts[n], entry.size - starts[n]) for n, entry in enumerate(files)
    ]
    mapped = [
        MappedFile(n, data.draw(st.integers(0, 30_000)))
        for n in range(len(files))
        if data.draw(st.booleans())
    ]
    places = layout(files, tensors, mapped)

    spans = sorted((places.place(t), places.place(t) + t.length) for t in tensors)
    assert all(ahead[1] <= after[0] for ahead, after in pairwise(spans))
    assert all(end <= places.total_bytes for _, end in spans)
    there = {each.file: each.data_at for each in mapped}
    for tensor in tensors:
        if tensor.file in there:
            assert places.place(tensor) % PAGE_BYTES == there[tensor.file] % PAGE_BYTES
            assert places.place(tensor) - there[tensor.file] % PAGE_BYTES >= places.fresh_bytes
        else:
            assert places.place(tensor) % 64 == 0
            assert places.place(tensor) + tensor.length <= places.fresh_bytes


@given(data_at=st.integers(0, 5 << 20), start=st.integers(1, 200), other=st.integers(0, 200_000))
def test_a_large_mapped_file_keeps_its_place_within_a_huge_page(data_at, start, other):
    """So that the kernel may map 2 MiB of it with one entry; what is landed before it keeps its own size."""
    sizes = [start + other, start + LEAST_HUGE_BYTES]
    files = [FileEntry(f"{n}", size, "0" * 64, "e") for n, size in enumerate(sizes)]
    tensors = [TensorEntry(f"t{n}", "U8", (), n, start, size - start) for n, size in enumerate(sizes)]
    places = layout(files, tensors, [MappedFile(1, data_at)])

    assert places.place(tensors[1]) % HUGE_BYTES == data_at % HUGE_BYTES
    assert places.place(tensors[1]) - data_at % PAGE_BYTES >= places.fresh_bytes
    assert places.fresh_bytes - other < 64
    assert places.total_bytes == places.place(tensors[1]) + LEAST_HUGE_BYTES


def test_a_large_file_is_mapped_in_huge_pages(tmp_path):
    """What the store has written in whole blocks is mapped with an entry for each, where files are kept so."""
    house = House(tmp_path / "store")
    data = padded(safetensors_bytes({"a.weight": ("U8", (LEAST_HUGE_BYTES,), LEAST_HUGE_BYTES)}))
    revision = house.hold({"config.json": b"{}", "model.safetensors": data})
    tier = house.tier()
    landing = tier.land(revision)
    assert landing.wait(WAIT_S)
    inode = os.fstat(landing.mapped_fds[0]).st_ino
    of_node = smaps_of(inode)["FilePmdMapped"]
    if not of_node:
        house.close()
        pytest.skip("this file system keeps no files in huge pages")
    tier_map, fds = landing.mapped, landing.mapped_fds
    view = open_landing(revision, landing.fd, landing.ready_fd, landing.event_fd, tier_map, fds)
    view.wait_all()

    ours = [fields["FilePmdMapped"] for fields in all_smaps(inode)]
    assert len(ours) == 2
    assert min(ours) >= (LEAST_HUGE_BYTES - 2 * HUGE_BYTES) // 1024
    view.close()
    tier.close()
    house.close()


def test_a_bad_byte_in_a_mapped_file_is_never_served(house):
    """Wrong in the store's own file, after its check: found in place, and never marked as landed."""
    files = shards()
    revision = house.hold(files)
    extent = revision.extents[-1]
    content = files[revision.files[extent.file].path]
    path = next(each for each in house.blob_files() if each.read_bytes() == content)
    with path.open("r+b") as file:
        file.seek(extent.offset + 5)
        file.write(bytes([content[extent.offset + 5] ^ 1]))
    tier = house.tier(num_readers=1)
    landing = tier.land(revision)
    with pytest.raises(LandingError) as caught:
        landing.wait(WAIT_S)

    assert caught.value.code == "weights_corrupt"
    view = open_landing(
        revision, landing.fd, landing.ready_fd, landing.event_fd, landing.mapped, landing.mapped_fds
    )
    with pytest.raises(LandingError):
        view.wait_all(WAIT_S)
    view.close()
    assert tier.entries() == ()
    tier.close()


def test_a_store_that_is_not_there_or_says_no_is_read_over_http(house):
    """No socket, no grant, no such object yet: the load goes as it always went, with its own errors."""
    files = shards()
    revision = house.hold(files)
    endpoint = house.store.endpoint()
    nowhere = HostTier(endpoint, CAP, handoff=StoreHandoff(house.root / "none.sock", endpoint))
    landing = nowhere.land(revision)
    assert landing.wait(WAIT_S)
    assert sources(landing) == (0, 0, landing.total_bytes)
    nowhere.close()

    stranger = house.tier(house.store.endpoint(READER))
    refused = stranger.land(revision)
    with pytest.raises(LandingError) as caught:
        refused.wait(WAIT_S)
    assert caught.value.code == "store_status_403"
    stranger.close()

    missing = described(shards(seed=9))
    tier = house.tier()
    with pytest.raises(LandingError) as caught:
        tier.land(missing).wait(WAIT_S)
    assert caught.value.code == "store_status_404"
    tier.close()


def test_a_host_that_may_lock_no_memory_copies(house, monkeypatch):
    """Bytes that could leave memory after their check are not used as if they had been checked."""

    def refuse(*_):
        raise OSError(12, "Cannot allocate memory")

    files = shards()
    revision = house.hold(files)
    monkeypatch.setattr("weights_cache.memory.file_map._call", refuse)
    tier = house.tier()
    landing = tier.land(revision)
    assert landing.wait(WAIT_S)

    assert sources(landing) == (0, landing.total_bytes, 0)
    assert tensors_of(landing, revision)[0] == wanted(files, revision)
    tier.close()


def test_mapped_pages_are_the_page_caches_own_and_locked(house):
    """What /proc says of the mapping: all resident, all locked, nothing private of it."""
    data = padded(safetensors_bytes({"a.weight": ("F32", (512, 1024), 4 * 512 * 1024)}))
    revision = house.hold({"config.json": b"{}", "model.safetensors": data})
    tier = house.tier()
    landing = tier.land(revision)
    assert landing.wait(WAIT_S)

    inode = os.fstat(landing.mapped_fds[0]).st_ino
    fields = smaps_of(inode)
    assert fields["Rss"] >= landing.total_bytes // 1024
    assert fields["Locked"] >= landing.total_bytes // 1024
    assert (fields["Anonymous"], fields["Swap"]) == (0, 0)
    tier.close()
    until(lambda: smaps_of(inode) is None)


def smaps_of(inode):
    """The kilobytes that the kernel tells of this process' first mapping of a file; None without one."""
    return next(iter(all_smaps(inode)), None)


def all_smaps(inode):
    """The same of every mapping of it."""
    found, fields = [], None
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, _, rest = line.partition(":")
        if "-" in line.split()[0]:
            fields = {} if line.split()[4] == str(inode) else None
            found += [] if fields is None else [fields]
        elif fields is not None and rest.endswith("kB"):
            fields[name] = int(rest.split()[0])
    return found


def test_an_engine_that_writes_changes_nothing_for_anybody(house, tmp_path):
    """Copy-on-write: another process scribbles over its view; the file, the tier and later engines see the weights."""
    files = shards()
    revision = house.hold(files)
    before = {each: each.read_bytes() for each in house.blob_files()}
    tier = house.tier()
    landing = tier.land(revision)
    assert landing.wait(WAIT_S)
    (tmp_path / "revision").write_bytes(revision.to_json())
    fds = [landing.fd, landing.ready_fd, landing.event_fd, *landing.mapped_fds]
    mapped = [[each.file, each.data_at] for each in landing.mapped]
    told = subprocess.run(
        [sys.executable, "-c", ENGINE, str(tmp_path / "revision"), str(fds), str(mapped)],
        pass_fds=fds,
        capture_output=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )

    first = revision.tensors[0]
    assert int(told.stdout) == wanted(files, revision)[first.name][0] ^ 0xFF
    assert {each: each.read_bytes() for each in house.blob_files()} == before
    assert tensors_of(landing, revision)[0] == wanted(files, revision)
    tier.close()


@pytest.mark.parametrize("end", ["delete", "overwrite", "restart"])
def test_what_is_mapped_stays_whatever_becomes_of_the_object(house, end):
    """The file stays on the disk until the revision is evicted, and its bytes in any case; then it goes."""
    files = shards()
    revision = house.hold(files)
    tier = house.tier()
    landing = tier.land(revision)
    assert landing.wait(WAIT_S)
    held = house.blob_files()
    for entry in revision.files:
        if end == "overwrite":
            house.raw.put("nearfield-blobs", entry.blake3, b"z" * 20_000)
        else:
            house.raw.delete("nearfield-blobs", entry.blake3)
    if end == "restart":
        house.store.stop()
        house.store = StoreThread(house.root, min_part_bytes=1)
        house.raw = Raw(house.store.endpoint())
    else:
        assert held <= house.blob_files()

    assert tensors_of(landing, revision)[0] == wanted(files, revision)
    assert tier.evict(revision.id) >= landing.total_bytes
    until(lambda: not held & house.blob_files())
    tier.close()


def test_sixty_four_askers_share_one_handing_over(house):
    """Single flight: one landing, one lease, the same descriptors for all."""
    revision = house.hold(shards())
    tier, num_gives = house.tier(), []
    give = tier._handoff.give

    def counted(wanted_revision):
        num_gives.append(1)
        time.sleep(0.05)
        return give(wanted_revision)

    tier._handoff.give = counted
    with ThreadPoolExecutor(64) as pool:
        landings = list(pool.map(lambda _: tier.land(revision), range(64)))
    assert all(landing.wait(WAIT_S) for landing in landings)

    assert len(num_gives) == 1
    assert len({landing.mapped_fds for landing in landings}) == 1
    tier.close()


def test_nothing_stays_open_after_loads_evictions_and_failures(house, caplog):
    """Descriptors, mappings and leases: as many at the end as at the beginning."""
    caplog.set_level(
        "ERROR", "nearfield.weights"
    )  # pytest keeps records, and with an error the frames it came by
    files = shards()
    first = next(path for path in files if path.endswith(".safetensors"))
    revision = house.hold(files, {first: [10_000, 30_000, 70_000]})
    missing = described(shards(seed=9))
    tier = house.tier()

    def turn():
        landing = tier.land(revision)
        assert landing.wait(WAIT_S)
        assert tier.evict(revision.id)
        with pytest.raises(LandingError):
            tier.land(missing).wait(WAIT_S)

    turn()
    before = num_open()
    for _ in range(4 * NUM_READERS):
        turn()
    gc.collect()  # pytest keeps what it caught, and with it the waiters' frames, in cycles
    until(
        lambda: num_open() <= before + 2 * NUM_READERS
    )  # kept connections, both ends; one leaked a turn is more
    tier.close()


def test_no_room_gives_back_what_was_handed_over(house):
    """A revision that does not fit is refused, and the store holds nothing for it."""
    files = shards()
    revision = house.hold(files)
    before = num_open()
    endpoint = house.store.endpoint()
    tier = HostTier(endpoint, 1000, handoff=StoreHandoff(house.socket, endpoint))
    with pytest.raises(LandingError) as caught:
        tier.land(revision)
    assert caught.value.code == "host_full"
    held = house.blob_files()
    for entry in revision.files:
        house.raw.delete("nearfield-blobs", entry.blake3)

    until(lambda: not held & house.blob_files())
    until(lambda: num_open() <= before)
    tier.close()


def test_mapped_weights_count_against_the_cap_as_locked_memory(house):
    """Two models of which one fits: the older one goes, as it would if it were a copy."""
    one, two = house.hold(shards(seed=1)), house.hold(shards(seed=5))
    endpoint = house.store.endpoint()
    size = layout(one.files, one.tensors).total_bytes
    tier = HostTier(endpoint, int(size * 1.5) + 3 * PAGE_BYTES, handoff=StoreHandoff(house.socket, endpoint))
    assert tier.land(one).wait(WAIT_S)
    assert tier.land(two).wait(WAIT_S)

    assert [entry.revision_id for entry in tier.entries()] == [two.id]
    tier.close()


def test_more_files_than_are_mapped_are_copied(house, monkeypatch):
    """The shell takes so many descriptors with one message and no more."""
    monkeypatch.setattr(handoff_file, "MAX_MAPPED", 1)
    files = shards()
    revision = house.hold(files)
    tier = house.tier()
    landing = tier.land(revision)
    assert landing.wait(WAIT_S)

    assert len(landing.mapped_fds) == 1
    assert landing.mapped_bytes + landing.copied_bytes == landing.total_bytes
    assert landing.copied_bytes > 0
    assert tensors_of(landing, revision)[0] == wanted(files, revision)
    tier.close()


def test_a_node_that_is_killed_frees_its_lease(house, tmp_path):
    """kill -9 of a process with mapped weights: the deleted blobs go at once."""
    revision = house.hold(shards())
    endpoint = house.store.endpoint()
    (tmp_path / "revision").write_bytes(revision.to_json())
    script = (
        "import sys; from pathlib import Path\n"
        "from storage.client.sdk import Endpoint\n"
        "from weights_cache.cache import NUM_READERS, HostTier\n"
        "from weights_cache.reading.handoff import StoreHandoff\n"
        "from weights_cache.model.revision import Revision\n"
        "store = Endpoint(*sys.argv[3:])\n"
        "tier = HostTier(store, 1 << 26, handoff=StoreHandoff(Path(sys.argv[2]), store))\n"
        "landing = tier.land(Revision.from_json(Path(sys.argv[1]).read_bytes()))\n"
        "landing.wait(60); print(landing.mapped_bytes, flush=True); sys.stdin.read()\n"
    )
    arguments = [str(tmp_path / "revision"), str(house.socket)]
    node = subprocess.Popen(
        [sys.executable, "-c", script, *arguments, endpoint.url, endpoint.access_key, endpoint.secret],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert int(node.stdout.readline()) > 0
    held = house.blob_files()
    for entry in revision.files:
        house.raw.delete("nearfield-blobs", entry.blake3)
    house.raw.put("nearfield-blobs", "later", b"x" * 20_000)
    assert held <= house.blob_files()

    node.send_signal(signal.SIGKILL)
    node.wait()
    node.stdin.close()
    node.stdout.close()
    until(lambda: not held & house.blob_files())


GOOD = {"length": 30, "extents": [[0, 10, 0, 5], [10, 20, 0, 40]]}
BAD = {
    "a gap": {"length": 31, "extents": [[0, 10, 0, 0], [11, 20, 0, 40]]},
    "too short": {"length": 31, "extents": GOOD["extents"]},
    "past the file": {"length": 30, "extents": [[0, 30, 0, 71]]},
    "a file that is not there": {"length": 30, "extents": [[0, 30, 1, 0]]},
    "negative": {"length": 30, "extents": [[0, 30, 0, -1]]},
    "no numbers": {"length": 30, "extents": [[0, "30", 0, 0]]},
    "a truth": {"length": 1, "extents": [[0, True, 0, 0]]},
    "no list": {"length": 30, "extents": 7},
    "nothing": {},
}


@pytest.fixture
def some_file(tmp_path):
    (tmp_path / "f").write_bytes(bytes(100))
    fd = os.open(tmp_path / "f", os.O_RDONLY)
    yield fd
    os.close(fd)


def told(value, fd, **fields):
    return _opened(
        "/b/k", (200, {"x-nearfield-descriptors": "1"} | fields), json.dumps(value).encode(), (fd,)
    )


def test_an_answer_that_makes_sense(some_file):
    """Extents in order, inside the file."""
    found = told(GOOD, some_file, etag='"tag"')
    assert (found.size, found.etag) == (30, "tag")
    assert found.runs == (Run(0, 10, some_file, 5), Run(10, 20, some_file, 40))


@pytest.mark.parametrize("why", BAD)
def test_an_answer_that_makes_no_sense_is_refused(some_file, why):
    """A mapping past the end of a file kills its reader, so nothing is believed."""
    with pytest.raises(ReadError) as caught:
        told(BAD[why], some_file)
    assert caught.value.code == "handoff_broken"


def test_descriptors_that_were_lost_or_not_announced_are_refused(some_file):
    """The count in the head is the count that came."""
    for head in ({"x-nearfield-descriptors": "2"}, {}):
        with pytest.raises(ReadError):
            _opened("/b/k", (200, head), b"{}", (some_file,))


def test_a_map_of_the_middle_of_a_file(tmp_path):
    """Any offset and length; a view outlives the map's end for whoever reads it."""
    data = os.urandom(5 * PAGE_BYTES)
    (tmp_path / "f").write_bytes(data)
    fd = os.open(tmp_path / "f", os.O_RDONLY)
    found = FileMap(fd, PAGE_BYTES + 123, 2 * PAGE_BYTES)
    found.populate(7, PAGE_BYTES)
    view = found.view(7, PAGE_BYTES)
    found.close()
    os.close(fd)

    assert bytes(view) == data[PAGE_BYTES + 130 : 2 * PAGE_BYTES + 130]
    assert view.readonly
    with pytest.raises(ValueError, match="closed"):
        found.view(0, 1)


def test_the_kernel_says_what_may_be_locked():
    """A child with a limit of its own and no privileges is told no, and small amounts yes; nothing is touched."""
    script = (
        "import os, resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 20, 1 << 20))\n"
        "from weights_cache.memory.file_map import can_lock\n"
        "os.geteuid() or os.setresuid(65534, 65534, 65534)\n"
        "print(can_lock(1 << 12), can_lock(1 << 30))\n"
    )
    told = subprocess.run(
        [sys.executable, "-B", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert told.stdout.split() == ["True", "False"]


def test_given_nothing_is_nothing():
    """A tier without a store on its host."""
    found = Given()
    found.let_go()
    found.close()
    assert (found.mapped, found.fds) == ((), ())


def test_a_store_that_hangs_is_given_up(house):
    """A listener that never answers costs the wait and then the bytes are read."""
    revision = house.hold(shards())
    path = house.root / "deaf.sock"
    deaf = socket.socket(socket.AF_UNIX)
    deaf.bind(str(path))
    deaf.listen()
    endpoint = house.store.endpoint()
    tier = HostTier(endpoint, CAP, handoff=StoreHandoff(path, endpoint, answer_s=0.2))
    landing = tier.land(revision)
    assert landing.wait(WAIT_S)
    assert sources(landing) == (0, 0, landing.total_bytes)
    tier.close()
    deaf.close()


def test_a_small_model_in_the_index_is_read(house):
    """Files of at most 16 KiB have no file of their own in the store."""
    files = {
        "config.json": b"{}",
        "model.safetensors": padded(safetensors_bytes({"a.weight": ("F32", (8, 8), 256)})),
    }
    revision = house.hold(files)
    tier = house.tier()
    landing = tier.land(revision)
    assert landing.wait(WAIT_S)
    assert sources(landing) == (0, 0, landing.total_bytes)
    assert tensors_of(landing, revision)[0] == wanted(files, revision)
    tier.close()


def test_the_lease_is_one_connection_that_ends_with_the_eviction(house):
    """While it is landed the store has one holder more; a host that idles out to the region holds nothing."""
    revision = house.hold(shards())
    tier = house.tier()
    landing = tier.land(revision)
    assert landing.wait(WAIT_S)
    lease = next(iter(tier._seats.values())).flight.given.lease
    assert isinstance(lease, StoreSocket)
    assert lease._socket.fileno() >= 0
    tier.evict(revision.id)
    assert lease._socket.fileno() < 0
    assert not any(thread.name.startswith("land-") for thread in threading.enumerate())
    tier.close()


def test_the_path_of_a_blob():
    """Addressed by its BLAKE3, as everywhere."""
    assert blob_path("ab") == "/nearfield-blobs/ab"

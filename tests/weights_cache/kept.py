"""What the tests of kept landings share: three small models, a store in memory, and a folder to keep them in."""

from collections import Counter

from storage.client.sdk import Endpoint
from tests.weights_cache.onebyone import OneByOne
from weights_cache.cache import HostTier
from weights_cache.kept.folder import CacheFolder
from weights_cache.memory.view import open_landing
from weights_cache.model.plan import layout

from .samples import described, landed_bytes, tiny_files
from .store_script import objects_of

FILES = [tiny_files(num_layers=2 + number, width=16, seed=80 + 10 * number) for number in range(3)]
REVISIONS = [described(files, f"acme/k{number}") for number, files in enumerate(FILES)]
WHOLE = [landed_bytes(revision, files) for revision, files in zip(REVISIONS, FILES, strict=True)]
WEIGHT_BYTES = [sum(extent.length for extent in revision.extents) for revision in REVISIONS]
PLACES = [layout(revision.files, revision.tensors) for revision in REVISIONS]
BLOBS = {
    path: data
    for revision, files in zip(REVISIONS, FILES, strict=True)
    for path, data in objects_of(revision, files).items()
}
CAP = 2 << 20  # all three, many times: tests that want it tight say so


class MemoryReader(OneByOne):
    """Reads from memory, counts what it gave, and tells `before` of each read."""

    def __init__(self, before=lambda path, offset, view: None):
        self.num_bytes, self.before = Counter(), before

    def read_into(self, path, offset, view):
        self.before(path, offset, view)
        view[:] = BLOBS[path][offset : offset + len(view)]
        self.num_bytes[path] += len(view)


def tier_on(path, reader, cap=CAP, num_readers=1):
    return HostTier(
        Endpoint("http://127.0.0.1:1", "AK", "s"),
        cap,
        num_readers=num_readers,
        make_reader=lambda: reader,
        folder=CacheFolder(path, cap),
    )


def contents(landing, number):
    """What an engine would see."""
    view = open_landing(REVISIONS[number], landing.fd, landing.ready_fd, landing.event_fd)
    assert view.wait_all(10.0)
    data = bytes(view.buffer)
    view.close()
    return data


def used_bytes(path):
    """What the entries take, by the length of their files."""
    return sum(each.stat().st_size for each in path.iterdir() if each.name != "lock")


def names(path):
    return sorted(each.name for each in path.iterdir() if each.name != "lock")


def entry_bytes(path, number):
    """What one entry takes, as the cap counts it."""
    folder = CacheFolder(path / "measure", CAP)
    num_bytes = folder.num_bytes(REVISIONS[number], PLACES[number])
    folder.close()
    return num_bytes

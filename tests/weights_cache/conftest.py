import tempfile
from pathlib import Path

import pytest

from weights_cache.kept.mounts import lies_in_memory

from .samples import described, tiny_files
from .store_script import ScriptedStore, objects_of


class Model:
    """A revision, its files, and a store that has them."""

    def __init__(self, files):
        self.files = files
        self.revision = described(files)
        self.store = ScriptedStore(objects_of(self.revision, files))


@pytest.fixture
def model():
    found = Model(tiny_files())
    yield found
    found.store.close()


@pytest.fixture
def cache_path(tmp_path):
    """A folder of memory, or where there is none a disk's."""
    memory = Path("/dev/shm")
    if not (memory.is_dir() and lies_in_memory(memory)):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory, prefix="nearfield-test-") as name:
        yield Path(name)

import shutil
from collections.abc import Iterator

import pytest

from tests.storage.people import ALICES_READER, NOBODY, callers
from tests.storage.stores import ADMIN, ALICE, BOB, READER, TENANT, Raw, StoreThread, boto, memory_folder


@pytest.fixture(scope="session")
def store() -> Iterator[StoreThread]:
    """One store for the whole room; each test makes its own buckets or keys."""
    thread = StoreThread(memory_folder())
    with Raw(thread.endpoint()) as raw:
        assert raw.send("PUT", "/models").status == 200
    yield thread
    thread.stop()
    shutil.rmtree(thread.settings.root)


@pytest.fixture(scope="session")
def small_store() -> Iterator[StoreThread]:
    """A store without the 5 MiB minimum, so that multipart tests are quick."""
    thread = StoreThread(memory_folder(), min_part_bytes=1)
    with Raw(thread.endpoint()) as raw:
        assert raw.send("PUT", "/models").status == 200
    yield thread
    thread.stop()
    shutil.rmtree(thread.settings.root)


@pytest.fixture
def raw(store: StoreThread) -> Iterator[Raw]:
    with Raw(store.endpoint()) as connection:
        yield connection


@pytest.fixture
def small(small_store: StoreThread) -> Iterator[Raw]:
    with Raw(small_store.endpoint()) as connection:
        yield connection


@pytest.fixture(scope="session")
def s3(store: StoreThread) -> Iterator[object]:
    client = boto(store.endpoint())
    yield client
    client.close()


@pytest.fixture(scope="session")
def small_s3(small_store: StoreThread) -> Iterator[object]:
    client = boto(small_store.endpoint())
    yield client
    client.close()


@pytest.fixture
def bucket(store: StoreThread, request: pytest.FixtureRequest) -> str:
    """A bucket of the test's own."""
    name = f"b{abs(hash(request.node.nodeid)) % 10**12}"
    with Raw(store.endpoint()) as raw:
        assert raw.send("PUT", f"/{name}").status == 200
    return name


@pytest.fixture(scope="module", params=[True], ids=["open"])
def world(request):
    """Everybody, at a store that lets strangers in."""
    patch = pytest.MonkeyPatch()
    keys = (ADMIN, TENANT, READER, ALICE, BOB, NOBODY, ALICES_READER)
    patch.setattr("tests.storage.stores.KEYS", keys)
    store = StoreThread(memory_folder(), anonymous=request.param)
    found = callers(store)
    assert found["admin"].send("PUT", "/models").status == 200
    yield found
    for caller in found.values():
        caller.__exit__()
    store.stop()
    shutil.rmtree(store.settings.root)
    patch.undo()

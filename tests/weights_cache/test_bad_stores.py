"""A store on its worst day, in the middle of a load: waited out within the deadline, then one clear error for all."""

import threading

import pytest

from storage.client.sdk import Endpoint
from weights_cache.cache import HostTier
from weights_cache.memory.buffers import Buffer, HostMemoryError
from weights_cache.memory.view import LandingError, open_landing
from weights_cache.reading.fetch import HttpReader, blob_path
from weights_cache.reading.patience import pause_s

from .samples import landed_bytes
from .store_script import Cut, Fault, Raw, Reset, ScriptedStore, Short, Stall, Status
from .test_landing import contents

CAP = 64 << 20
STALL_S = 0.2


class WrongRange(Fault):
    """206, the right length, and bytes of somewhere else, said so."""

    def answer(self, store, connection, request):
        size = len(store.objects[request.path])
        body = store.body(request)
        head = f"HTTP/1.1 206 Partial Content\r\ncontent-length: {len(body)}\r\n"
        head += f"content-range: bytes {request.first + 1}-{request.last + 1}/{size}\r\n\r\n"
        connection.sendall(head.encode() + body)
        return True


class Whole(Fault):
    """200 with the whole object where a range was asked for."""

    def answer(self, store, connection, request):
        body = store.objects[request.path]
        connection.sendall(f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        return True


FAULTS = {
    "stalls": lambda: Stall(STALL_S * 2),
    "resets": Reset,
    "closes in a body": Cut,
    "answers 503": lambda: Status(503),
    "answers 429": lambda: Status(429),
    "answers 206 with another range": WrongRange,
    "answers 200 with all of it": Whole,
    "answers a short body": Short,
    "answers nothing": lambda: Raw(b""),
}


@pytest.fixture
def tier(model):
    store, etags = Endpoint(model.store.url, "AK", "s"), {}
    found = HostTier(
        store, CAP, retry_for_s=20.0, make_reader=lambda: HttpReader(store, etags, stall_s=STALL_S)
    )
    yield found
    found.close()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_three_times_is_waited_out(model, tier, fault):
    """The load goes on, each other byte is read once, and the landing is right."""
    model.store.faults += [FAULTS[fault]() for _ in range(3)]
    landing = tier.land(model.revision)
    assert landing.wait(30)

    assert contents(landing, model.revision) == landed_bytes(model.revision, model.files)
    assert landing.bytes_read == landing.total_bytes
    assert len(model.store.requests) == len(model.revision.extents) + 3


class Always(list):
    """A fault that is never used up."""

    def remove(self, fault):
        del fault


@pytest.mark.parametrize("fault", [name for name in FAULTS if name != "answers a short body"])
def test_a_fault_that_stays_is_one_error_for_all_who_wait(model, fault):
    """After the deadline, with the store's own fault in its code; then nothing of the load is left."""
    store, etags = Endpoint(model.store.url, "AK", "s"), {}
    tier = HostTier(
        store, CAP, retry_for_s=0.5, make_reader=lambda: HttpReader(store, etags, stall_s=STALL_S)
    )
    model.store.faults = Always([FAULTS[fault]()])
    landings = [tier.land(model.revision) for _ in range(3)]
    errors = set()
    for landing in landings:
        with pytest.raises(LandingError) as caught:
            landing.wait(30)
        errors.add((caught.value.code, caught.value.message))
    asked = len(model.store.requests)

    assert len(errors) == 1
    assert next(iter(errors))[0].startswith("store_")
    assert tier.entries() == ()
    assert asked < 200  # not in a loop without pauses
    tier.close()


class Change(Fault):
    """At the third request from now the object changes under the load; nobody is answered wrongly by itself."""

    def __init__(self, change):
        super().__init__()
        self.num_left, self.change = 3, change

    def takes(self, request):
        self.num_left -= 1
        if not self.num_left:
            self.change()
        return False


def test_a_file_that_gets_another_tag_in_the_middle_is_read_on(model):
    """The bytes are what was committed, and they decide. One reader: of several none may have heard the first tag."""
    tier = HostTier(Endpoint(model.store.url, "AK", "s"), CAP, 1)
    model.store.faults.append(Change(lambda: setattr(model.store, "etag", "tag-2")))
    landing = tier.land(model.revision)

    assert landing.wait(30)
    assert contents(landing, model.revision) == landed_bytes(model.revision, model.files)
    tier.close()
    assert {if_match for *_, if_match in model.store.requests} >= {'"tag-1"', '"tag-2"'}


def test_a_file_whose_bytes_change_in_the_middle_is_never_served(model, tier):
    """Whatever its tag says: the last extent is not what was committed, and that is the error."""
    extent = model.revision.extents[-1]
    path = blob_path(model.revision.files[extent.file].blake3)
    wrong = bytearray(model.store.objects[path])
    wrong[extent.offset] ^= 1
    model.store.faults.append(Change(lambda: model.store.objects.update({path: bytes(wrong)})))
    landing = tier.land(model.revision)
    with pytest.raises(LandingError) as caught:
        landing.wait(30)

    assert caught.value.code == "weights_corrupt"
    assert not tier.holds(model.revision.id)


def test_pauses_double_and_end(monkeypatch):
    """Between half and all of a doubling, never longer than the last one."""
    monkeypatch.setattr("weights_cache.reading.patience.random.uniform", lambda low, high: high)
    longest = [pause_s(attempt) for attempt in range(10)]
    monkeypatch.setattr("weights_cache.reading.patience.random.uniform", lambda low, high: low)

    assert longest[:5] == [0.05, 0.1, 0.2, 0.4, 0.8]
    assert longest[5:] == [1.0] * 5
    assert [pause_s(attempt) for attempt in range(10)] == [each / 2 for each in longest]


def test_a_load_that_stops_does_not_wait_for_a_stuck_store(model):
    """The node ends while every answer is stuck."""
    store = Endpoint(model.store.url, "AK", "s")
    tier = HostTier(store, CAP, make_reader=lambda: HttpReader(store, {}, stall_s=STALL_S))
    model.store.faults = Always([Stall(STALL_S / 2)])
    landing = tier.land(model.revision)
    closing = threading.Thread(target=tier.close)
    closing.start()
    with pytest.raises(LandingError, match="stopped"):
        landing.wait(30)
    closing.join(30)

    assert not closing.is_alive()


class Dies(Fault):
    """The store is gone with the first bytes of an answer: nobody listens at its port any more."""

    def __init__(self, gone):
        self.gone = gone

    def answer(self, store, connection, request):
        body = store.body(request)
        connection.sendall(store.head(request, len(body)) + body[: len(body) // 2])
        store.close()
        self.gone.set()
        return False


def test_a_store_that_dies_in_a_load_and_comes_back(model, tier):
    """Between the table and the last byte: what had landed is not asked for again, and the rest comes from the next."""
    gone, first = threading.Event(), model.store
    extents = model.revision.extents
    last = extents[-1]
    path = blob_path(model.revision.files[last.file].blake3)
    died = Dies(gone)
    died.takes = lambda request: request.path == path and request.first <= last.offset <= request.last
    first.faults.append(died)
    landing = tier.land(model.revision)
    assert gone.wait(30)
    landed_before = landing.progress().done_bytes
    assert not landing.wait(0.3)
    model.store = ScriptedStore(first.objects, port=first.port)
    assert landing.wait(30)

    assert contents(landing, model.revision) == landed_bytes(model.revision, model.files)
    weights = {blob_path(model.revision.files[number].blake3) for number in model.revision.weight_files}
    asked = sum(last - start + 1 for name, start, last, _ in model.store.requests if name in weights)
    assert 0 < asked <= landing.total_bytes - landed_before


def test_memory_that_ends_in_a_load_is_one_error_and_the_next_load_is_well(model, tier, monkeypatch):
    """The host is full after some extents: every waiter hears so, the memory is given back, nothing is half there."""
    populate, calls = Buffer.populate, []

    def full(self, offset, length, **more):
        calls.append(offset)
        if len(calls) > 2:
            raise HostMemoryError(12, "no memory for these weights")
        populate(self, offset, length, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Buffer, "populate", full)
        landing = tier.land(model.revision)
        view = open_landing(model.revision, landing.fd, landing.ready_fd, landing.event_fd)
        with pytest.raises(LandingError) as caught:
            landing.wait(30)
        with pytest.raises(LandingError):
            view.wait_all(30)
    view.close()
    assert caught.value.code == "host_memory_full"
    assert not tier.entries()

    again = tier.land(model.revision)
    assert again.wait(30)
    assert contents(again, model.revision) == landed_bytes(model.revision, model.files)

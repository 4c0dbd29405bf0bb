"""The engine's side: another process maps the landing, waits per extent and layer, and sees the bytes."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from blake3 import blake3

from storage.client.sdk import Endpoint
from tests.weights_cache.onebyone import OneByOne
from weights_cache.cache import HostTier
from weights_cache.load.flight import Flight
from weights_cache.memory.buffers import Buffer
from weights_cache.memory.view import LandingError, open_landing
from weights_cache.model.revision import Revision

from .conftest import Model
from .samples import described, landed_bytes, tiny_files


class Feed(OneByOne):
    """A reader that delivers an extent only when the test says so."""

    def __init__(self, files, revision):
        self.data = {f"/nearfield-blobs/{entry.blake3}": files[entry.path] for entry in revision.files}
        self.read_end, self.write_end = os.pipe()

    def read_into(self, path, offset, view):
        os.read(self.read_end, 1)
        view[:] = self.data[path][offset : offset + len(view)]

    def allow(self, count=1):
        os.write(self.write_end, b"x" * count)


@pytest.fixture
def gated():
    """A flight of one reader that lands one extent for each `feed.allow()`, and a view of it."""
    files = tiny_files()
    revision = described(files)
    feed = Feed(files, revision)
    buffer = Buffer(1 << 20)
    flight = Flight(revision, buffer, lambda: feed, lambda _: None, lambda _: None)
    flight.start(1)
    view = open_landing(revision, flight.fd, flight.ready_fd, flight.event_fd)
    yield flight, feed, view, landed_bytes(revision, files)
    feed.allow(100)
    flight.ended.wait(60)
    view.close()
    buffer.close()


def test_layers_come_one_by_one(gated):
    """A wait for a layer ends when all up to it is verified, not before; the bytes are there then."""
    flight, feed, view, whole = gated
    layers = [extent.layer for extent in flight.revision.extents]
    assert layers[0] == -1
    assert not view.wait_layer(-1, 0.05)

    for number, extent in enumerate(flight.revision.extents):
        feed.allow()
        assert view.wait_extent(number, 5)
        place = view.layout.place(extent)
        assert view.buffer[place : place + extent.length] == whole[place : place + extent.length]
        assert view.num_landed == number + 1
        is_last_of_layer = number + 1 == len(layers) or layers[number + 1] != extent.layer
        assert view.wait_layer(extent.layer, 0.01) == is_last_of_layer

    assert view.wait_all(5)
    assert bytes(view.buffer) == whole


def test_wait_is_woken_not_polled(gated):
    """A waiting process sleeps: it burns no processor and wakes soon after the extent."""
    _, feed, view, _ = gated
    used = time.process_time()
    assert not view.wait_extent(0, 0.5)
    assert time.process_time() - used < 0.1

    feed.allow()
    assert view.wait_extent(0, 5)


def test_writing_to_the_view_changes_nothing_for_others(gated):
    """The mapping is private: a process that scribbles on its weights harms only itself."""
    flight, feed, view, whole = gated
    feed.allow(100)
    view.wait_all(5)
    view.buffer[:4] = b"\xff" * 4
    other = open_landing(flight.revision, flight.fd, flight.ready_fd, flight.event_fd)

    assert bytes(other.buffer) == whole
    other.close()
    with pytest.raises(OSError):
        os.pwrite(flight.fd, b"x", 0)
    with pytest.raises(OSError):
        os.pwrite(flight.ready_fd, b"\1", 0)


def test_stop_fails_the_waiters(gated):
    """What had landed stays good; what had not is an error."""
    flight, feed, view, _ = gated
    feed.allow()
    view.wait_extent(0, 5)
    flight.stop()

    assert view.wait_extent(0, 5)
    with pytest.raises(LandingError):
        view.wait_all(5)


def _child(link):
    """What an engine does: take the revision and three descriptors, wait layer by layer, hash the whole."""
    data, fds, _, _ = socket.recv_fds(link, 1 << 20, 3)
    revision = Revision.from_json(data)
    view = open_landing(revision, *fds)
    link.sendall(b"opened;")
    for layer in range(-1, revision.facts.num_layers):
        view.wait_layer(layer, 20)
    link.sendall(b"layers;")
    view.wait_all(20)
    link.sendall(blake3(view.buffer).digest())


def test_forked_child_sees_the_bytes():
    """A process forked before the load gets the descriptors over a socket and follows the load to its end."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        signal.alarm(30)
        code = 1
        try:
            _child(theirs)
            code = 0
        finally:
            os._exit(code)
    theirs.close()
    model = Model(tiny_files(num_layers=3))
    model.store.delay_s = 0.02
    tier = HostTier(Endpoint(model.store.url, "AK", "s"), 1 << 30)
    landing = tier.land(model.revision)
    socket.send_fds(ours, [model.revision.to_json()], [landing.fd, landing.ready_fd, landing.event_fd])
    answer = b""
    while more := ours.recv(1000):
        answer += more
    _, status = os.waitpid(pid, 0)
    tier.close()
    model.store.close()
    ours.close()

    assert status == 0
    assert answer == b"opened;layers;" + blake3(landed_bytes(model.revision, model.files)).digest()


def test_pages_are_mapped_when_their_extent_is_waited_for_and_once(model, monkeypatch):
    """Opening maps none, though all of it is there; each extent's come with the first wait for it."""
    present = []
    monkeypatch.setattr(
        "weights_cache.memory.view._make_present", lambda _map, place, length: present.append((place, length))
    )
    tier = HostTier(Endpoint(model.store.url, "AK", "s"), 1 << 30)
    landing = tier.land(model.revision)
    landing.wait(60)
    view = open_landing(model.revision, landing.fd, landing.ready_fd, landing.event_fd)
    spans = [(view.layout.place(each), each.length) for each in model.revision.extents]
    assert present == []
    assert all(view.wait_extent(1, 20) for _ in range(2))
    assert present == [spans[1]]
    assert view.wait_all(20)
    assert sorted(present) == sorted(spans)
    view.close()
    tier.close()


def test_what_somebody_touched_is_not_mapped_again(model, monkeypatch):
    """An engine that has read a page of each turn says so, once all is here."""
    present = []
    monkeypatch.setattr("weights_cache.memory.view._make_present", lambda *span: present.append(span))
    tier = HostTier(Endpoint(model.store.url, "AK", "s"), 1 << 30)
    landing = tier.land(model.revision)
    landing.wait(60)
    view = open_landing(model.revision, landing.fd, landing.ready_fd, landing.event_fd)
    assert view.is_whole
    view.note_mapped()
    assert view.wait_all(20)
    assert present == []
    view.close()
    tier.close()


def test_a_landing_is_whole_with_its_last_extent(gated):
    """Not a moment before."""
    flight, feed, view, _ = gated
    last = len(flight.revision.extents) - 1
    feed.allow(last)
    assert view.wait_extent(last - 1, 20)
    assert not view.is_whole
    feed.allow()
    assert view.wait_extent(last, 20)
    assert view.is_whole


def test_engine_side_needs_no_torch():
    """Neither side of a landing loads torch, transformers or an SDK."""
    code = (
        "import sys, weights_cache.memory.view, weights_cache.cache, weights_cache.model.describe\n"
        "heavy = {'torch', 'transformers', 'numpy', 'boto3', 'botocore', 'aiobotocore'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=Path(__file__).parents[2])

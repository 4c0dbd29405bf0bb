"""The power is cut after each call of each write path: what was acknowledged is there, the rest whole or not at all."""

import http.client
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from storage.client.endpoint import SOCKET_NAME
from tests.evidence import IS_WHOLE
from tests.storage.powercut import CALLS, Call, Disk, read_trace
from tests.storage.stores import Raw, StoreThread, memory_folder
from tests.storage.test_crash import StoreProcess, attach, await_sweep, check_folder
from tests.storage.walk import Walk

NUM_CUTS = 12  # of each way in `make test`, spread over the walk; all of them otherwise


class Recording:
    """A walk, the disk before it, and every call that it made."""

    def __init__(self, folder: Path) -> None:
        self.walk = Walk()
        self.before = folder / "before"
        self.root = (folder / "store").resolve()
        trace = folder / "trace"
        store = StoreProcess(folder, any_part=True)
        with Raw(store.endpoint) as raw:
            assert raw.send("PUT", "/models").status == 200
            shutil.copytree(self.root, self.before, ignore=shutil.ignore_patterns(SOCKET_NAME))  # not a file
            tracer = attach(
                store.process.pid, f"trace={CALLS}", "-xx", "-y", "-s", "1000000", output=str(trace)
            )
            if tracer is not None:
                self.walk.go(raw)
        store.stop()
        if tracer is None:
            pytest.skip("strace is not here or may not attach")
        tracer.wait(60)
        tracer.stderr.close()
        with trace.open() as lines:
            self.calls = list(read_trace(lines, self.root))
        assert self.walk.done == self.walk.length

    def disk_after(self, calls: list[Call]) -> Disk:
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(self.before, self.root)
        disk = Disk(self.root)
        for call in calls:
            disk.play(call)
        return disk


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return Recording(tmp_path_factory.mktemp("recorded"))


def cuts_of(calls: list[Call]) -> list[int]:
    """How many calls to play: all counts up to the last answer, or an even choice and some answers."""
    acks = [n for n, call in enumerate(calls, 1) if call.name == "ack"]
    if IS_WHOLE:
        return list(range(acks[-1] + 1))
    return sorted({*random.Random(3).sample(range(acks[-1]), NUM_CUTS - 4), *acks[1::4]})


@contextmanager
def opened(folder: Path) -> Iterator[Raw]:
    """A store on a folder for as long as it takes."""
    store = StoreThread(folder, min_part_bytes=1)
    try:
        with Raw(store.endpoint()) as raw:
            yield raw
    finally:
        store.stop()


def check_cut(recording: Recording, disk: Disk, way: str, seed: int) -> None:
    folder = memory_folder()
    try:
        disk.write_out(folder, way, seed)
        with opened(folder) as raw:
            recording.walk.check(raw, disk.num_acks)
            recording.walk.finish_upload(raw, disk.num_acks)
            await_sweep(folder)
        check_folder(folder)
    finally:
        shutil.rmtree(folder)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("way", ["kept", "dropped", "torn"])
def test_a_cut_after_any_call_loses_nothing_acknowledged(recording, way):
    disk = recording.disk_after([])
    played = 0
    for cut in cuts_of(recording.calls):
        for call in recording.calls[played:cut]:
            disk.play(call)
        played = cut
        check_cut(recording, disk, way, seed=cut)


def test_every_step_is_in_the_recording(recording):
    """Or the cuts would be at nothing."""
    names = [call.name for call in recording.calls]
    flushed = [call.path for call in recording.calls if call.name == "flush"]

    assert names.count("ack") == recording.walk.length
    assert names.count("rename") >= 4
    assert {"create", "pwrite64", "unlink"} <= set(names)
    assert sum("/blobs/" in path for path in flushed) >= 8
    assert sum(path.endswith("-wal") for path in flushed) >= recording.walk.length


def loses(recording: Recording, calls: list[Call]) -> bool:
    try:
        check_cut(recording, recording.disk_after(calls), "dropped", 0)
    except (AssertionError, http.client.HTTPException):
        return True
    return False


@pytest.mark.parametrize("left_out", ["/tmp/", "/blobs/", "-wal"])
def test_a_store_that_left_out_a_flush_would_be_found_out(recording, left_out):
    """The test of the test: the same calls without those flushes lose or halve an acknowledged object."""
    root = str(recording.root)
    calls = [
        call
        for call in recording.calls
        if call.name != "flush" or left_out not in call.path.removeprefix(root)
    ]
    acks = [n for n, call in enumerate(calls, 1) if call.name == "ack"]

    assert [cut for cut in (acks[1], acks[9]) if loses(recording, calls[:cut])] != []

"""Each call of each write path fails, or is the last: what was refused is not done, what was acknowledged is there."""

import errno
import os
import shutil
import signal
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from storage.disk import blobs, blocks, writers
from storage.fault import StoreBroken
from tests.evidence import IS_WHOLE
from tests.storage.stores import Raw, StoreThread, memory_folder
from tests.storage.test_crash import StoreProcess, attach, await_sweep, check_folder
from tests.storage.walk import Walk

NO_ROOM, BROKEN = (507, "InsufficientStorage"), (503, "ServiceUnavailable")
FAILED = (500, "InternalError")
# how often each call is made on files in one walk: fault n of each, all of them in the whole evidence
FILE_CALLS = {"open": 6, "pwrite": 7, "fsync": 13, "rename": 5}
INDEX_CALLS = {"pwrite64": 130, "fdatasync": 14}


@dataclass
class FaultyOs:
    """`os`, but for the nth call of one name, which fails."""

    call: str
    nth: int
    number: int
    seen: Counter = field(default_factory=Counter)
    armed: bool = False

    @property
    def is_broken(self) -> bool:
        return self.call == "fsync" and self.number == errno.EIO

    def __getattr__(self, name: str) -> object:
        real = getattr(os, name)
        return self._faulty(name, real) if name == self.call else real

    def _faulty(self, name: str, real):
        def call(*args, **named):
            if self.armed and not (name == "open" and not args[1] & os.O_CREAT):
                self.seen[name] += 1
                if self.seen[name] == self.nth:
                    raise OSError(self.number, os.strerror(self.number))
            return real(*args, **named)

        return call


def chosen(calls: dict[str, int], few: int) -> list[tuple[str, int]]:
    """(call, which one): the whole table, or the first, the last and some between of each."""
    picked = []
    for call, num in calls.items():
        step = 1 if IS_WHOLE else max(num // few, 1)
        picked += [(call, nth) for nth in range(1, num + 1, step)]
    return picked


def check_after(root: Path, walk: Walk, *, exactly: bool) -> None:
    """A new start finds what was acknowledged, and nothing of what was refused."""
    store = StoreThread(root, min_part_bytes=1)
    try:
        with Raw(store.endpoint()) as raw:
            walk.check(raw, walk.done, exactly=exactly)
            walk.finish_upload(raw, walk.done)
            await_sweep(root)
    finally:
        store.stop()
    check_folder(root)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize(("call", "nth"), chosen(FILE_CALLS, 2))
def test_a_failing_call_on_a_file(monkeypatch, call, nth, number):
    root = memory_folder()
    faulty = FaultyOs(call, nth, number)
    for module in (blobs, blocks, writers):
        monkeypatch.setattr(module, "os", faulty)
    monkeypatch.setattr(Path, "rename", lambda self, target: faulty.rename(self, target))  # noqa: PLW0108 - binds self
    store, walk = StoreThread(root, min_part_bytes=1), Walk()
    with Raw(store.endpoint()) as raw:
        raw.send("PUT", "/models")
        faulty.armed = True
        walk.go(raw)
    if faulty.is_broken:
        store._thread.join(60)  # it stops by itself
    stopped = stop(store)
    monkeypatch.undo()

    assert walk.refusal is not None, f"call {nth} of {call} was never made: {faulty.seen}"
    expected = NO_ROOM if number == errno.ENOSPC else BROKEN if faulty.is_broken else FAILED
    assert (walk.refusal.status, walk.refusal.code) == expected
    assert stopped == faulty.is_broken
    check_after(root, walk, exactly=True)
    shutil.rmtree(root)


def stop(store: StoreThread) -> bool:
    """Stop it; True if it had stopped by itself and said why."""
    try:
        store.stop()
    except StoreBroken:
        return True
    except RuntimeError:  # the loop is closed: it was quicker
        return isinstance(store._failure, StoreBroken)
    return False


@pytest.mark.parametrize("number", ["EIO", "ENOSPC"])
@pytest.mark.parametrize(("call", "nth"), chosen(INDEX_CALLS, 2))
def test_a_failing_call_on_the_index(tmp_path, call, nth, number):
    log = str((tmp_path / "store/meta.db-wal").resolve())
    store, walk = walked(tmp_path, f"inject={call}:error={number}:when={nth}", "-P", log)
    status = store.process.poll() if walk.refusal is None else None
    store.kill()

    assert walk.done < walk.length, f"the walk makes fewer than {nth} calls of {call} now: mend INDEX_CALLS"
    assert walk.refusal is not None or status is not None
    if walk.refusal is not None:
        full = number == "ENOSPC" and call == "pwrite64"  # SQLite has no "full" for a flush
        assert (walk.refusal.status, walk.refusal.code) == (NO_ROOM if full else BROKEN)
    check_after(tmp_path / "store", walk, exactly=walk.refusal is not None and walk.refusal.status == 507)


@pytest.mark.parametrize(
    ("call", "nth"), chosen({"fsync": 13, "rename": 5, "unlink": 4, "fdatasync": 14, "pwrite64": 130}, 2)
)
def test_a_kill_at_each_call(tmp_path, call, nth):
    store, walk = walked(tmp_path, f"inject={call}:signal=KILL:when={nth}")
    killed = store.process.wait(60) == -signal.SIGKILL
    store.kill()

    assert killed
    check_after(tmp_path / "store", walk, exactly=False)


def walked(folder: Path, what: str, *words: str) -> tuple[StoreProcess, Walk]:
    """A store in a process of its own that a walk was tried on, under strace."""
    store, walk = StoreProcess(folder, any_part=True), Walk()
    with Raw(store.endpoint) as raw:
        raw.send("PUT", "/models")
        tracer = attach(store.process.pid, what, *words)
        if tracer is None:
            store.stop()
            pytest.skip("strace is not here or may not attach")
        walk.go(raw)
    threading.Thread(target=tracer.wait).start()
    tracer.stderr.close()
    return store, walk

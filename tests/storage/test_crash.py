"""`kill -9` of a real store under load: what was acknowledged is there, whole; what was not is whole or absent."""

import http.client
import os
import random
import re
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from storage.client.sdk import Endpoint
from storage.index.columns import unpack_extents
from tests.storage.stem import Forked
from tests.storage.stores import Raw
from tests.storage.test_index import check_references

NUM_WRITERS = 4
NUM_KILLS = 3


class StoreProcess:
    """`python -m storage` in a process of its own, forked where all is imported."""

    def __init__(self, folder: Path, *, any_part: bool = False) -> None:
        words = (
            ("tests.storage.anypart", str(folder)) if any_part else ("storage", str(folder), "--port", "0")
        )
        self.process = Forked(*words)
        url = self.process.stdout.readline().split()[1]
        keys = re.findall(r"= (\S+)", (folder / "credentials").read_text())
        self.endpoint = Endpoint(url, *keys)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()

    def stop(self) -> int:
        self.process.terminate()
        status = self.process.wait(60)
        self.process.stdout.close()
        return status


class Writer(threading.Thread):
    """Puts objects until the store is gone; remembers what was acknowledged."""

    def __init__(self, endpoint: Endpoint, number: int) -> None:
        super().__init__()
        self.endpoint = endpoint
        self.random = random.Random(number)
        self.number = number
        self.acked: dict[str, bytes | None] = {}
        self.pending: tuple[str, bytes | None] | None = None

    def run(self) -> None:
        try:
            with Raw(self.endpoint) as raw:
                while True:
                    self.step(raw)
        except OSError:
            pass
        except http.client.HTTPException:
            pass

    def step(self, raw: Raw) -> None:
        key = f"w{self.number}-{self.random.randrange(6)}"
        size = self.random.choice([0, 100, 70_000, 900_000])
        data = self.random.randbytes(size)
        kind = self.random.choice(["put", "put", "delete", "multipart"])
        self.pending = (key, None if kind == "delete" else data)
        if kind == "delete":
            answer = raw.delete("models", key)
        elif kind == "put":
            answer = raw.put("models", key, data)
        else:
            upload = raw.create_upload("models", key)
            etag = raw.put_part("models", key, upload, 1, data).headers["etag"]
            answer = raw.complete("models", key, upload, [(1, etag)])
        assert answer.status in {200, 204}, answer
        self.acked[key] = self.pending[1]
        self.pending = None


def test_nothing_acknowledged_is_lost(tmp_path):
    store = StoreProcess(tmp_path)
    with Raw(store.endpoint) as raw:
        assert raw.send("PUT", "/models").status == 200
    state: dict[str, bytes | None] = {}
    num_acked = 0
    for turn in range(NUM_KILLS):
        writers = [Writer(store.endpoint, turn * NUM_WRITERS + n) for n in range(NUM_WRITERS)]
        for n, writer in enumerate(writers):
            writer.number = n
            writer.start()
        time.sleep(0.6 + 0.2 * turn)
        while sum(len(writer.acked) for writer in writers) <= 20 // NUM_KILLS:
            time.sleep(0.02)  # a busy machine
        store.kill()
        for writer in writers:
            writer.join()
        store = StoreProcess(tmp_path)
        with Raw(store.endpoint) as raw:
            for writer in writers:
                num_acked += len(writer.acked)
                state |= writer.acked
                if writer.pending is not None:
                    settle(raw, state, *writer.pending)
            for key, data in state.items():
                answer = raw.get("models", key)
                assert (answer.status, answer.body) == (
                    (404, answer.body) if data is None else (200, data)
                ), key
    assert num_acked > 20
    await_sweep(tmp_path / "store")
    assert store.stop() == 0
    check_folder(tmp_path / "store")


def settle(raw: Raw, state: dict, key: str, data: bytes | None) -> None:
    """The write that was under way when the store died: done or not done, never half."""
    answer = raw.get("models", key)
    now = answer.body if answer.status == 200 else None
    assert now in (state.get(key), data)
    state[key] = now


def await_sweep(root: Path) -> None:
    """A start deletes orphans beside its other work; a stop may come before it is through."""
    db = sqlite3.connect(root / "meta.db")
    for _ in range(2000):
        named = {row[0] for row in db.execute("SELECT id FROM blobs")}
        if {path.name for path in root.glob("blobs/*/*")} <= named:
            break
        time.sleep(0.02)
    db.close()


def check_folder(root: Path) -> None:
    """Every row has its bytes, every count is right, and a start swept what nobody names."""
    db = sqlite3.connect(root / "meta.db")
    check_references(db)
    named = {row[0] for row in db.execute("SELECT id FROM blobs")}
    inline = {row[0] for row in db.execute("SELECT id FROM inline")}
    assert {name for name in named if name.startswith("in-")} == inline
    for (extents,) in db.execute("SELECT extents FROM objects UNION ALL SELECT extents FROM parts"):
        for extent in unpack_extents(extents):
            file = root / "blobs" / extent.blob[-1] / extent.blob
            assert extent.inline or file.stat().st_size >= extent.offset + extent.length
    db.close()
    on_disk = {path.name for path in root.glob("blobs/*/*")}
    assert on_disk <= named
    assert list(root.glob("tmp/*")) == []


@pytest.mark.parametrize("point", ["fsync:when=1", "rename:when=1", "fsync:when=2", "fdatasync:when=1"])
def test_a_kill_at_each_step_of_a_put(tmp_path, point):
    """Bytes, flush, name, flush of the folder, row, answer: dying at any of them leaves the old object or the new."""
    store = StoreProcess(tmp_path)
    with Raw(store.endpoint) as raw:
        raw.send("PUT", "/models")
        raw.put("models", "k", b"old")
    call, when = point.split(":")
    tracer = attach(store.process.pid, f"inject={call}:signal=KILL:{when}")
    if tracer is None:
        store.stop()
        pytest.skip("strace is not here or may not attach")
    writer = Overwriter(store.endpoint)
    writer.start()
    writer.join(60)
    assert store.process.wait(60) == -signal.SIGKILL
    tracer.wait(60)
    tracer.stderr.close()
    store.kill()

    store = StoreProcess(tmp_path)
    with Raw(store.endpoint) as raw:
        assert raw.get("models", "k").body in (writer.old, writer.new)
    await_sweep(tmp_path / "store")
    assert store.stop() == 0
    check_folder(tmp_path / "store")


class Overwriter(Writer):
    """Overwrites one object until the store is gone."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint, 0)
        self.old = b"old"
        self.new = b""

    def step(self, raw: Raw) -> None:
        self.new = self.random.randbytes(300_000)
        assert raw.put("models", "k", self.new).status == 200
        self.old = self.new


def attach(pid: int, what: str, *words: str, output: str = "/dev/null") -> subprocess.Popen | None:
    try:
        command = ["strace", "-f", "-qq", "-o", output, "-e", what, *words, "-p", str(pid)]
        tracer = subprocess.Popen(command, stderr=subprocess.PIPE)
    except FileNotFoundError:
        return None
    for _ in range(2000):
        if tracer.poll() is not None:
            tracer.stderr.close()
            return None
        if "TracerPid:\t0" not in Path(f"/proc/{pid}/status").read_text():
            return tracer
        time.sleep(0.02)
    return tracer


def test_a_start_removes_what_a_crash_left(tmp_path):
    store = StoreProcess(tmp_path)
    with Raw(store.endpoint) as raw:
        raw.send("PUT", "/models")
        raw.put("models", "k", b"kept")
    store.kill()
    root = tmp_path / "store"
    (root / "blobs/f").mkdir(exist_ok=True)
    orphan = root / "blobs/f" / f"00000001{'a' * 22}ff"
    orphan.write_bytes(b"orphan")
    (root / "tmp/half").write_bytes(b"half")

    store = StoreProcess(tmp_path)
    for _ in range(2000):
        if not orphan.exists():
            break
        time.sleep(0.02)
    with Raw(store.endpoint) as raw:
        assert raw.get("models", "k").body == b"kept"
    assert store.stop() == 0
    assert not orphan.exists()
    check_folder(root)


def test_a_full_disk_refuses_and_recovers(tmp_path):
    """The file size limit stands in for the disk: the same refusal from the same calls, without root."""
    store = StoreProcess(tmp_path)
    limit = resource.prlimit(store.process.pid, resource.RLIMIT_FSIZE)
    with Raw(store.endpoint) as raw:
        raw.send("PUT", "/models")
        upload = raw.create_upload("models", "k")
        resource.prlimit(store.process.pid, resource.RLIMIT_FSIZE, (400_000, limit[1]))
        refused = [
            raw.put("models", "k", bytes(700_000)),
            raw.put_part("models", "k", upload, 1, bytes(700_000)),
        ]
        small = raw.put("models", "small", b"fits")
        resource.prlimit(store.process.pid, resource.RLIMIT_FSIZE, limit)
        after = raw.put("models", "k", bytes(700_000))
        part = raw.put_part("models", "k", upload, 1, bytes(700_000))
        done = raw.complete("models", "k", upload, [(1, part.headers["etag"])])
    await_sweep(tmp_path / "store")
    assert store.stop() == 0

    assert [(answer.status, answer.code) for answer in refused] == [(507, "InsufficientStorage")] * 2
    assert [answer.status for answer in (small, after, part, done)] == [200] * 4
    check_folder(tmp_path / "store")


def test_a_start_is_cheap(tmp_path):
    """0.2 s of wall time alone. Counted in processor time against a start of the interpreter and the parts of its own
    library that any server needs, because the machine has other work and may be slow."""
    store = StoreProcess(tmp_path)
    fields = Path(f"/proc/{store.process.pid}/stat").read_text().rpartition(")")[2].split()
    cpu_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    store.stop()

    assert cpu_s < 6 * bare_start_s()


def bare_start_s() -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", "import asyncio, http.client, sqlite3, ssl"], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

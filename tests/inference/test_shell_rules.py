"""The shell's own rules, without a fork: who may connect, what it refuses, whom it kills."""

import errno
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from inference import molds
from inference.children import Children
from inference.link import EngineLink
from inference.shell import Shell
from inference.spec import EngineSpec, SpecError, mold_key


def test_a_process_with_a_second_thread_does_not_fork():
    code = (
        "import socket, threading, time\n"
        "from inference.shell import Shell\n"
        "threading.Thread(target=time.sleep, args=(5,), daemon=True).start()\n"
        "a, b = socket.socketpair()\n"
        "print(Shell(a)._done({'op': 'inspect', 'request': {}}, [0]))\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert "2 threads and may not fork" in out.stdout


@pytest.mark.parametrize(
    ("message", "num_fds", "reason"),
    [
        ({"op": "dance"}, 0, "unknown operation"),
        ({"op": "fork", "spec": {}}, 3, "unknown operation"),
        ({"op": "inspect", "request": []}, 1, "not an object"),
        ({"op": "fork", "spec": {"revision": {}, "config": {}, "dtype": "int1"}}, 4, "dtype"),
        ({"op": "fork", "spec": 5}, 4, "not an object"),
    ],
)
def test_what_it_does_not_know_is_refused(monkeypatch, message, num_fds, reason):
    monkeypatch.setattr("inference.shell.num_threads", lambda: 1)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        answer = Shell(theirs)._done(message, [0] * num_fds)
    assert answer["op"] == "refused"
    assert reason in answer["message"]


def held():
    """The descriptors of this process, each with what it is of; not that of the listing, which is closed by then."""
    numbers = [*Path("/proc/self/fd").iterdir()]
    return {(each.name, str(each.readlink())) for each in numbers if each.is_symlink()}


def test_a_host_without_processes_is_no_end_of_the_shell(monkeypatch):
    """A limit of processes (a container's, mostly) ended the shell, and with it every engine of the node."""

    def refused():
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr("inference.shell.num_threads", lambda: 1)
    monkeypatch.setattr(os, "fork", refused)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        shell = Shell(theirs)
        before = held()
        answer = shell._done({"op": "inspect", "request": {}}, [0])

        assert answer == {
            "op": "refused",
            "message": "no process can be forked now: Resource temporarily unavailable",
            "later": True,
        }
        assert held() <= before, "nothing of it stays open; what other tests left behind may close meanwhile"


@pytest.mark.parametrize("lack", [OSError(errno.ENOMEM, "no addresses"), MemoryError()])
def test_a_mold_that_only_its_trial_found_room_for_is_none(monkeypatch, lack):
    """Making it again is the shell's own work, and every engine's end if it ended the shell."""

    def cast(_spec):
        raise lack

    monkeypatch.setattr(molds, "_cast", cast)
    shelf = molds.MoldShelf()
    shelf.tried(7, molds.Trial("key", None))

    assert shelf.ended(7, 0) == {"op": "not_molded", "key": "key", "status": 0}
    assert shelf.find("key") is None


def test_late_children_are_killed_and_every_end_is_heard():
    children, forked = Children(), set()
    for deadline in (time.monotonic() - 1, None):
        pid = os.fork()
        if not pid:
            time.sleep(0.0 if deadline is None else 60.0)
            os._exit(3)
        children.deadlines[pid] = deadline
        forked.add(pid)
    assert children.next_deadline_s(time.monotonic()) == 0
    children.kill_late(time.monotonic())
    ended = {}
    while children.deadlines:
        ended |= dict(children.reap())
        time.sleep(0.01)
    assert sorted(status for pid, status in ended.items() if pid in forked) == [-9, 3]
    assert children.next_deadline_s(0.0) is None


@pytest.mark.parametrize(
    "change",
    [
        {"max_slots": 0},
        {"max_slots": True},
        {"num_threads": "2"},
        {"mapped": [[0]]},
        {"mapped": [[0, -1]]},
        {"mapped": [[0, True]]},
        {"mapped": [["0", 8]]},
        {"mapped": 7},
        {"mapped": [7]},
        {"kv_budget_bytes": -1},
        {"max_len": -1},
        {"num_speculative_tokens": -1},
        {"dtype": "float64"},
        {"deterministic": 1},
        {"quantize": "int4"},
        {"revision": None},
        {"colour": "red"},
    ],
)
def test_a_spec_is_checked(change):
    with pytest.raises(SpecError):
        EngineSpec.from_value({"revision": {}, "config": {}} | change)


def test_importing_the_nodes_side_loads_no_torch():
    code = (
        "import sys, inference.workers.shell.link, inference.link, inference.spec\n"
        "import inference.engine.steps.slots, inference.engine.orders.reading\n"
        "print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert out.stdout.strip() == "[]"


def test_an_engine_link_waits_no_longer_than_told():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        started = time.perf_counter()
        assert EngineLink(theirs).poll(0.05) == []
        assert 0.04 < time.perf_counter() - started < 30


def test_a_molds_name_tells_the_specs_apart_that_it_cannot_serve():
    spec = {"revision": {}, "config": {}, "max_slots": 8, "mapped": [(0, 64)]}
    key = mold_key("r", spec)
    assert mold_key("r", spec | {"usage_log": "/of/this/one", "gated": False, "revision": {"id": 1}}) == key
    others = [("r", spec | {"mapped": []}), ("r", spec | {"max_slots": 4}), ("s", spec)]
    assert len({key, *(mold_key(*other) for other in others)}) == 4

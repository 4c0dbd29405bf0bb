"""Stores forked from a process that has imported them: a third of a second of imports is paid once, not sixty times.

What runs in the child is `python -m storage` (or `tests.storage.anypart`) from its first line; that the command itself
starts is shown by `test_access.py`.
"""

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from threading import RLock

from storage import __main__ as plain
from tests.storage import anypart

MAINS = {"storage": plain.main, "tests.storage.anypart": anypart.main}
MOST_BYTES = 65_536
STDOUT = 1


class Forked:
    """A child of the stem, with as much of `subprocess.Popen` as stores need. What it prints is on `stdout`."""

    def __init__(self, *words: str) -> None:
        reading, writing = os.pipe()
        self.stdout = os.fdopen(reading)
        self.pid = _stem().fork(words, writing)
        os.close(writing)

    def poll(self) -> int | None:
        return _stem().status(self.pid)

    def wait(self, timeout_s: float = 60) -> int:
        end_s = time.monotonic() + timeout_s
        while (status := self.poll()) is None:
            if time.monotonic() > end_s:
                raise TimeoutError(f"store {self.pid} goes on after {timeout_s} s")
            _stem().await_word(0.1)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


class Stem:
    """This process' end: one order at a time; exits are told as they come."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._statuses: dict[int, int] = {}
        self._lock = RLock()
        command = [sys.executable, "-m", "tests.storage.stem", str(theirs.fileno())]
        self._process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], cwd=Path(__file__).parents[2], start_new_session=True
        )
        theirs.close()

    def fork(self, words: tuple[str, ...], stdout: int) -> int:
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(words).encode()], [stdout])
            while True:
                told = self._hear()
                if "pid" in told:
                    return told["pid"]

    def status(self, pid: int) -> int | None:
        with self._lock:
            while pid not in self._statuses and self.await_word(0):
                self._hear()
            return self._statuses.get(pid)

    def await_word(self, patience_s: float) -> bool:
        return bool(select.select([self._socket], [], [], patience_s)[0])

    def close(self) -> None:
        self._socket.close()
        self._process.wait(60)

    def _hear(self) -> dict[str, int]:
        told = json.loads(self._socket.recv(MOST_BYTES))
        if "status" in told:
            self._statuses[told["of"]] = told["status"]
        return told


@cache
def _stem() -> Stem:
    made = Stem()
    atexit.register(made.close)
    return made


def _serve(line: socket.socket) -> None:
    """Until the other end is gone; then no child stays. One thread, so that it can be forked."""
    poll, children = select.poll(), {}
    poll.register(line, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd == line.fileno():
                data, fds, _, _ = socket.recv_fds(line, MOST_BYTES, 1)
                if not data:
                    break
                pid = _fork(line, json.loads(data), fds[0])
                children[watched := os.pidfd_open(pid)] = pid
                poll.register(watched)
                line.send(json.dumps({"pid": pid}).encode())
            else:
                poll.unregister(fd)
                pid = children.pop(fd)
                os.close(fd)
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                line.send(json.dumps({"of": pid, "status": status}).encode())
        else:
            continue
        break
    for pid in children.values():
        os.kill(pid, signal.SIGKILL)


def _fork(line: socket.socket, words: list[str], stdout: int) -> int:
    pid = os.fork()
    if pid:
        os.close(stdout)
        return pid
    status = 1
    try:
        line.close()
        os.dup2(stdout, STDOUT)
        os.close(stdout)
        sys.argv = words
        status = MAINS[words[0]]() or 0
    except SystemExit as end:  # argparse
        status = int(end.code or 0)
    finally:
        sys.stdout.flush()
        os._exit(status)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's is for the tests: they end us
    _serve(socket.socket(fileno=int(sys.argv[1])))

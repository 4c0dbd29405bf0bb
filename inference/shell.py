"""The shell: everything imported, nothing computed, one thread; it forks engines that are ready at once.

Each node has one, forked by its host's zygote (`inference.zygote`), at the other end of a Unix stream socket. Messages
are link frames; descriptors come with a frame's first bytes (SCM_RIGHTS).

    {"op":"fork","seq":n,"spec":{..}} + landing, ready, event, link, mapped files ->
    {"op":"forked","seq":n,"pid":p,"ms":t} {"op":"inspect","seq":n,"request":{..}} + answer
    -> {"op":"inspecting",..}, the answer on its own fd or        -> {"op":"refused","seq":n,"message":".."}
    {"op":"mold","seq":n,"key":k,"spec":{..}} ->                     {"op":"molding",..}, later molded or not_molded
    {"op":"drop","seq":n,"key":k} -> {"op":"dropped",..}              (`inference.molds`)
    {"op":"bye"} and the end of the stream
    "refused" has "later":true where the host lacked what it may have another time
    first of all {"op":"hello","pid":p,"import_ms":t}; whenever a child ends {"op":"exited","pid":p,"status":s}

A fork copies one thread only, so a second one (an OpenMP pool after one matrix product, measured) would
leave its locks held for ever in the child. Hence: no thread, no tensor operation, a look at
/proc/self/task before each fork. Nor does a GPU's context survive a fork: the shell never looks at one, and a
few spares (`inference.spares`), forked ahead, bring it up and are handed what a fork would be. It ends when the
node's connection ends, as it does when the node dies; its children die with it.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.children import PR_SET_NAME, Children, be_child, take_little
from inference.devices import CPU
from inference.link import Message, frame_bytes, receive_frame
from inference.molds import MoldShelf, Trial, be_trial
from inference.spares import SparePool
from inference.spec import EngineSpec, SpecError

if TYPE_CHECKING:
    from collections.abc import Callable

    from inference.engine.attach.mold import Mold

INSPECT_DEADLINE_S = 20.0
"""A throw-away child that takes longer is killed; a 1,000-layer config takes under 2 s."""
WARM_DEADLINE_S = 60.0
"""A spare that takes longer to bring its device up hangs in the driver; a context takes 0.3 to 3 s."""
TRIAL_NICE = 10
"""Nobody waits for a mold."""
FORK_WAIT_S = 5.0
"""Until a forked child says that it runs; a host that is slower than this is out of memory."""
NUM_ENGINE_FDS = 4
"""Of an engine without mapped files: landing, ready, event, link."""


def num_threads() -> int:
    """Threads of this process."""
    return sum(1 for _ in Path("/proc/self/task").iterdir())


class Shell:
    """One connection's loop. Everything happens in this one thread."""

    def __init__(self, connection: socket.socket, spares: SparePool | None = None) -> None:
        self._connection = connection
        self._spares = spares or SparePool(CPU, 0)
        self._children = Children()
        self._molds = MoldShelf()
        self._is_dismissed = False
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)

    def serve(self, import_ms: float) -> bool:
        """Answer until the node closes the connection; whether it said bye before.

        Raises:
            LinkError: the node sent a bad frame.
        """
        signal.signal(signal.SIGCHLD, lambda *_: None)  # makes the kernel write to the wake-up socket
        signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        self._send({"op": "hello", "pid": os.getpid(), "import_ms": round(import_ms, 1)})
        while True:
            self._wait()
            self._children.kill_late(time.monotonic())
            for pid, status in self._children.reap():
                self._tell_end(pid, status)
            self._hear_spares()
            if self._readable() and not self._answer():
                return self._is_dismissed
            self._add_spare()

    def _wait(self) -> None:
        now = time.monotonic()
        ends = (self._children.next_deadline_s(now), self._spares.roster.next_due_s(now))
        poller = _poller(self._connection, self._wake_read, *self._spares.sockets.values())
        wait_s = min((end for end in ends if end is not None), default=None)
        poller.poll(None if wait_s is None else wait_s * 1000 + 1)
        try:
            self._wake_read.recv(4096)
        except BlockingIOError:
            return  # it was the node, or a deadline

    def _readable(self) -> bool:
        return bool(_poller(self._connection).poll(0))

    def _answer(self) -> bool:
        """Hear one message and answer it; False when the node is gone."""
        message, fds = receive_frame(self._connection)
        if message is None:
            return False
        if message.get("op") == "bye":
            self._is_dismissed = True
            return True
        try:
            self._send({"seq": message.get("seq"), **self._done(message, fds)})
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def _done(self, message: Message, fds: list[int]) -> Message:
        try:
            if (threads := num_threads()) != 1:
                return {"op": "refused", "message": f"the shell has {threads} threads and may not fork"}
            return self._obeyed(message, fds)
        except OSError as fault:  # if it ended over that, so would every engine of the node
            lack = f"no process can be forked now: {fault.strerror}"
            return {"op": "refused", "message": lack, "later": True}

    def _obeyed(self, message: Message, fds: list[int]) -> Message:
        """Raises OSError: there is no process, descriptor or memory left."""
        match message.get("op"), len(fds):
            case "fork", count if count >= NUM_ENGINE_FDS:
                return self._fork_engine(message.get("spec"), fds, self._molds.find(message.get("mold")))
            case "inspect", 1:
                return self._fork_inspection(message.get("request"), fds)
            case "mold", 0:
                return self._fork_trial(message.get("key"), message.get("spec"))
            case "drop", 0:
                self._molds.drop(message.get("key"))
                return {"op": "dropped"}
            case op, count:
                return {"op": "refused", "message": f"unknown operation {op!r} with {count} descriptors"}

    def _fork_engine(self, value: object, fds: list[int], mold: Mold | None) -> Message:
        if mold is not None and isinstance(value, dict):
            value = {"revision": mold.spec.revision, "config": mold.spec.config, **value}
        try:
            spec = EngineSpec.from_value(value)
        except SpecError as fault:
            return {"op": "refused", "message": str(fault)}
        if len(spec.mapped) != len(fds) - NUM_ENGINE_FDS:
            return {"op": "refused", "message": f"{len(fds)} descriptors for {len(spec.mapped)} mapped files"}
        started = time.perf_counter()
        if spec.device == self._spares.device and (pid := self._spares.hand_over(value, fds)) is not None:
            return {"op": "forked", "pid": pid, "ms": _ms_since(started), "spare": True}
        return self._fork("nf-engine", lambda: _be_engine(spec, fds, mold), None)

    def _fork_trial(self, key: object, value: object) -> Message:
        try:
            trial = Trial(str(key), EngineSpec.from_value(value))
        except SpecError as fault:
            return {"op": "refused", "message": str(fault)}
        forked = self._fork("nf-mold", lambda: _be_trial(trial.spec), INSPECT_DEADLINE_S)
        self._molds.tried(forked["pid"], trial)
        return {**forked, "op": "molding"}

    def _fork_inspection(self, request: object, fds: list[int]) -> Message:
        if not isinstance(request, dict):
            return {"op": "refused", "message": "the request is not an object"}
        forked = self._fork("nf-inspect", lambda: _be_inspection(request, fds[0]), INSPECT_DEADLINE_S)
        return {**forked, "op": "inspecting"}

    def _tell_end(self, pid: int, status: int) -> None:
        if (told := self._molds.ended(pid, status)) is not None:
            self._send(told)
        elif (fault := self._spares.gone(pid, time.monotonic())) is None:
            self._send({"op": "exited", "pid": pid, "status": status})
        else:
            self._send({"op": "spare_ended", "pid": pid, "fault": fault or f"its exit status is {status}"})

    def _hear_spares(self) -> None:
        for pid in self._spares.hear():
            self._children.deadlines[pid] = None
            self._send({"op": "spare_ready", "pid": pid})

    def _add_spare(self) -> None:
        """Fork the next one if one is due."""
        now = time.monotonic()
        if not self._spares.roster.is_due(now):
            return
        try:
            if num_threads() == 1:
                self._fork_spare()
        except OSError:  # no memory, process or descriptor left: later
            self._spares.roster.note_failure(now)

    def _fork_spare(self) -> None:
        """Raises OSError."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                forked = self._fork(
                    "nf-spare", lambda: self._spares.be_spare(ours, theirs, _be_engine), WARM_DEADLINE_S
                )
            except OSError:
                ours.close()
                raise
        self._spares.add(forked["pid"], ours)

    def _fork(self, name: str, work: Callable[[], None], deadline_s: float | None) -> Message:
        started = time.perf_counter()
        shell_pid = os.getpid()
        told_read, told_write = socket.socketpair()
        with told_read:
            with told_write:
                if not (pid := os.fork()):
                    ours = (self._connection, self._wake_read, self._wake_write, told_read)
                    be_child(shell_pid, name, told_write, work, [*ours, *self._spares.sockets.values()])
            self._children.deadlines[pid] = None if deadline_s is None else time.monotonic() + deadline_s
            _poller(told_read).poll(FORK_WAIT_S * 1000)
        return {"op": "forked", "pid": pid, "ms": _ms_since(started)}

    def _send(self, message: Message) -> None:
        self._connection.sendall(frame_bytes(message))


def _ms_since(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 3)


def _poller(*readable: socket.socket | int) -> Any:
    poller = importlib.import_module("select").poll()
    for each in readable:
        poller.register(each, 1)
    return poller


def _be_engine(spec: EngineSpec, fds: list[int], mold: Mold | None = None) -> None:
    from inference.engine.process import run  # noqa: PLC0415 - imported already, by the zygote

    ctypes.CDLL(None).prctl(PR_SET_NAME, b"nf-engine")  # a spare was called otherwise
    landing, ready, event, link, *mapped = fds
    run(spec, (landing, ready, event, *mapped), link, mold)


def warm_up(device: str) -> str:
    """Bring a device up in a forked child; gives what went wrong, or nothing."""
    from inference.engine.gpu.device import bring_up  # noqa: PLC0415 - imported already, by the zygote

    return bring_up(device)


def _be_trial(spec: EngineSpec) -> None:
    os.nice(TRIAL_NICE)
    take_little(INSPECT_DEADLINE_S, int(spec.revision["facts"]["weight_bytes"]))
    be_trial(spec, num_threads)


def _be_inspection(request: Message, answer_fd: int) -> None:
    from inference.inspect import inspect  # noqa: PLC0415 - imported already, by the zygote

    take_little(INSPECT_DEADLINE_S)
    with os.fdopen(answer_fd, "wb") as answer:
        answer.write(json.dumps(inspect(request)).encode())

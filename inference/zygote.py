"""The zygote: one process per host that has imported everything and forks a shell for each node that asks.

`python -m inference.zygote --socket PATH` listens on a Unix socket (mode 0600). Each connection is a node's, and gets
a shell of its own (`inference.shell`), forked in a millisecond, which the node tells what it needs:

    {"op":"serve","device":d,"spares":n,"environment":{..}} + the node's standard error
    or, to end well, the end of the stream after {"op":"bye"}

Where the host lets no process be forked now, it hears {"op":"refused","message":".."} in place of its shell's hello.

Torch and transformers take seconds of processor time and 400 MiB: a host pays them once, however many nodes it has
and however often one is started again. (Android starts its apps this way, and gave it the name.) A shell is bound to
its node by their connection alone, so that shells outlive a zygote that was killed; who needs one next starts another.

It ends with its last shell: at once if that one's node said bye, else after a while, since a node that was killed is
about to be back. With `--owner PID` it stays, used or not, until that process ends.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib.util
import os
import re
import select
import signal
import socket
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from inference.children import PR_SET_NAME
from inference.devices import CPU
from inference.heap import fill_holes
from inference.link import LinkError, Message, frame_bytes, receive_frame
from inference.shell import Shell, num_threads, warm_up
from inference.spares import SparePool

ENVIRONMENT = {
    "GOMP_SPINCOUNT": "5000",  # about 0.3 ms: a thread that waits so long for its next product need not be woken
    "HF_DEACTIVATE_ASYNC_LOAD": "1",  # views need no loading threads
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",  # nothing is ever fetched
    "OMP_WAIT_POLICY": "PASSIVE",  # workers that spin for ever on shared cores: a pass 15 times slower
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # a look for GPUs that leaves CUDA alone: it does not survive a fork
    "OPENBLAS_NUM_THREADS": "1",  # numpy's and scipy's pools are threads, made at import
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
"""Set before torch is loaded; whoever starts us sets it too, as some of it is read when Python starts."""
ARCHITECTURES = (
    "llama", "qwen2", "qwen3", "mistral", "gpt2", "gemma", "gemma2", "gemma3", "phi", "phi3", "gpt_neox", "bert",
)  # fmt: skip
"""Imported ahead; another one is imported by the child that needs it (about 0.1 s)."""
OURS = ("inference.engine.process", "inference.inspect")
ON_DEVICES = "inference.engine.gpu.kernels"
"""Where there is Triton, which comes with torch's CUDA build; to import it touches no device."""
UNUSED = (
    "jax",
    "librosa",
    "pandas",
    "pyarrow",
    "scipy",
    "sklearn",
    "tensorflow",
    "torchaudio",
    "torchvision",
)
"""What transformers imports where it is installed, and no model of ours needs: seconds, memory, and threads (Arrow's
allocator has one), with which there is no safe fork."""
LINGER_S = 10.0
"""How long a zygote that nobody uses waits for a node that was killed to come back."""
SERVE_DEADLINE_S = 10.0
"""Until a node that has connected says what it needs; the connection is given up after."""
GONE_S = 15.0
"""A shell ends when its node does, or after what it is at (`shell.FORK_WAIT_S`); one that does not is frozen."""
LOOK_S = 1.0
BACKLOG = 64
PEER = struct.Struct("3i")
"""Process, user and group (SO_PEERCRED)."""
SERVE_FDS = 1
"""With `serve` comes the node's standard error: what an engine writes belongs into its node's log."""
DEVICE_VARIABLES = ("CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES")
"""What a node may see of the host's devices is its own; everything else of the environment is the zygote's."""


def prepare() -> float:
    """Import all that an engine needs; the milliseconds it took."""
    started = time.perf_counter()
    os.environ.update(ENVIRONMENT)
    sys.modules.update(dict.fromkeys(UNUSED))  # type: ignore[arg-type]  # None: as if it were not installed
    gc.disable()  # what an import makes stays: looking through it again and again took 0.5 s of 3.3 (measured)
    import torch  # noqa: PLC0415 - after the environment, and not when this file is only looked at

    torch.set_num_threads(1)
    for name in ARCHITECTURES:
        importlib.import_module(f"transformers.models.{name}.modeling_{name}")
    for name in (*OURS, *([ON_DEVICES] if importlib.util.find_spec("triton") else [])):
        importlib.import_module(name)
    importlib.import_module("transformers.utils.logging").disable_progress_bar()
    # transformers compiles its 900 renaming patterns at the first load: 180 of a small model's 240 ms (measured)
    importlib.import_module("transformers.conversion_mapping").get_checkpoint_conversion_mapping("llama")
    _learn_losses()
    gc.collect()
    gc.freeze()  # the children's collector never touches, and so never copies, the pages we share
    fill_holes()
    gc.enable()
    return (time.perf_counter() - started) * 1000


def _learn_losses() -> None:
    """A model looks for its loss by a pattern of all of them in the name of its class: 5 ms until that is compiled."""
    known = importlib.import_module("transformers.modeling_utils").LOSS_MAPPING
    re.compile(f"({'|'.join(known)})")


class Node:
    """The process at the other end of a connection, for as long as it lives."""

    def __init__(self, connection: socket.socket) -> None:
        pid, _, _ = PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER.size))
        self._pidfd: int | None = None
        self._gone_at: float | None = None
        with suppress(OSError):  # it is gone already, or there is no descriptor for it
            self._pidfd = os.pidfd_open(pid)

    def gone_s(self, now: float) -> float:
        """Seconds since it was first seen to be gone; 0 while it lives."""
        if self._gone_at is None and self._is_gone():
            self._gone_at = now
        return 0.0 if self._gone_at is None else now - self._gone_at

    def _is_gone(self) -> bool:
        return self._pidfd is None or bool(select.select([self._pidfd], [], [], 0)[0])

    def close(self) -> None:
        """Let go of it."""
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


class Zygote:
    """The listener's loop, in the one thread that there is."""

    def __init__(
        self, listener: socket.socket, import_ms: float, *, lock: int | None = None, owner: int | None = None
    ) -> None:
        self._listener = listener
        self._lock = lock
        self._import_ms = import_ms
        self._owner = owner
        self._shells: dict[int, Node] = {}
        self._unused_until = time.monotonic() + LINGER_S
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)

    def serve(self) -> None:
        """Fork a shell for each connection, until nobody needs one any more."""
        signal.signal(signal.SIGCHLD, lambda *_: None)  # makes the kernel's word reach the pipe
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        poller = select.poll()
        for each in (
            self._listener.fileno(),
            self._wake_read,
            *([] if self._owner is None else [self._owner]),
        ):
            poller.register(each, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poller.poll(self._wait_ms())}
            self._reap()
            self._end_orphans(time.monotonic())
            if self._listener.fileno() in ready:
                self._accept()
            elif self._owner in ready or self._is_done():
                return

    def _is_done(self) -> bool:
        return self._owner is None and not self._shells and time.monotonic() >= self._unused_until

    def _wait_ms(self) -> float | None:
        if self._shells:
            return LOOK_S * 1000
        if self._owner is not None:
            return None
        return max(0.0, self._unused_until - time.monotonic()) * 1000 + 1

    def _reap(self) -> None:
        while True:
            try:
                os.read(self._wake_read, 4096)
            except BlockingIOError:
                break
        while self._shells:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            if (node := self._shells.pop(pid, None)) is not None:
                node.close()
            self._unused_until = time.monotonic() + (LINGER_S if status else 0.0)

    def _end_orphans(self, now: float) -> None:
        """End the shells that have not noticed for long that their nodes are gone."""
        for pid, node in self._shells.items():
            if node.gone_s(now) >= GONE_S:
                os.kill(pid, signal.SIGKILL)  # ours, and not reaped: it can be no other process

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return  # it went away again
        with connection:
            if num_threads() != 1:
                raise RuntimeError("the zygote has a second thread and may not fork")
            try:
                pid = os.fork()
            except OSError as fault:  # to end over that would cost the next node an import
                _refuse(connection, f"no shell can be forked now: {fault.strerror}")
                return
            if not pid:
                self._be_shell(connection)
            self._shells[pid] = Node(connection)

    def _be_shell(self, connection: socket.socket) -> NoReturn:
        """What a shell is from its fork on. Status 0: its node said bye."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            self._listener.close()
            for fd in (self._wake_read, self._wake_write, self._lock, self._owner):
                if fd is not None:
                    os.close(fd)
            for node in self._shells.values():
                node.close()
            ctypes.CDLL(None).prctl(PR_SET_NAME, b"nf-shell")
            status = int(not _serve(connection, self._import_ms))
        except LinkError as fault:
            sys.stderr.write(f"the shell of a node ended: {fault}\n")
        finally:
            os._exit(status)


def _refuse(connection: socket.socket, message: str) -> None:
    """Tell a node that asks for a shell why it gets none now; it may have gone already."""
    sys.stderr.write(f"{message}\n")
    with suppress(OSError):
        connection.sendall(frame_bytes({"op": "refused", "message": message}))


def _serve(connection: socket.socket, import_ms: float) -> bool:
    """Be the shell of the node behind `connection`; whether it said bye."""
    connection.settimeout(SERVE_DEADLINE_S)
    try:
        message, fds = receive_frame(connection)
    except TimeoutError:
        return False
    if message is None:
        return True  # somebody looked whether we are here
    connection.settimeout(None)
    if message.get("op") != "serve" or len(fds) != SERVE_FDS:
        raise LinkError(f"the first message is {message.get('op')!r} with {len(fds)} descriptors")
    os.dup2(fds[0], sys.stderr.fileno())
    os.close(fds[0])
    device, num_spares = _wishes(message)
    return Shell(connection, SparePool(device, num_spares, warm_up)).serve(import_ms)


def _wishes(message: Message) -> tuple[str, int]:
    """(device, number of spares), and the environment as the node has it."""
    device, num_spares, environment = (message.get(key) for key in ("device", "spares", "environment"))
    if not isinstance(device, str) or type(num_spares) is not int or not isinstance(environment, dict):
        raise LinkError("serve wants a device, a number of spares and an environment")
    for name in DEVICE_VARIABLES:
        os.environ.pop(name, None)
        if name in environment:
            os.environ[name] = str(environment[name])
    return device or CPU, num_spares


def listen(path: Path) -> socket.socket:
    """A listening Unix socket that only our own user may connect to.

    Raises:
        OSError: the path is too long, or its folder cannot be written to.
    """
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


def main() -> None:
    """Listen, import, then fork shells; nodes that connect meanwhile wait."""
    parser = argparse.ArgumentParser(prog="python -m inference.zygote", description=__doc__)
    parser.add_argument("--socket", required=True, type=Path, help="path of the Unix socket to listen on")
    parser.add_argument("--lock", type=int, help="descriptor of the lock that says that we live")
    parser.add_argument("--owner", type=int, help="pid of a process: stay, used or not, until it ends")
    settings = parser.parse_args()
    owner = None if settings.owner is None else os.pidfd_open(settings.owner)
    with listen(settings.socket) as listener:
        ctypes.CDLL(None).prctl(PR_SET_NAME, b"nf-zygote")
        Zygote(listener, prepare(), lock=settings.lock, owner=owner).serve()
        settings.socket.unlink(missing_ok=True)  # we hold the lock: it is ours still


if __name__ == "__main__":
    main()

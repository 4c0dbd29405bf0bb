"""The node's side of the zygote: where this host's one listens, and how it is started where there is none.

Every node that is given the same folder finds the same zygote. Its socket is named after what it would import, so that
a node of another version, or a changed source, never gets an engine of the old one. Whoever holds the lock beside the
socket starts it; the zygote inherits the lock, and with it the word that one lives. Standard library only.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import socket
import sys
import tempfile
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from inference.zygote import DEVICE_VARIABLES, ENVIRONMENT

if TYPE_CHECKING:
    from collections.abc import Mapping

PACKAGE_ROOT = str(Path(__file__).resolve().parents[3])
"""Where `inference` is found, whatever folder the node was started in."""
ROOMS = ("inference", "regions", "weights_cache", "wire")
"""Whose modules an engine may load."""
LIBRARIES = ("torch", "transformers", "safetensors")
COMMAND = ("-m", "inference.zygote")
TUNABLES, HUGE_HEAP = "GLIBC_TUNABLES", ("glibc.malloc.hugetlb", "1")
"""Read by the C library when a process begins."""
MAX_SOCKET_PATH_BYTES = 100
"""The kernel takes 107 bytes; for a deeper folder the sockets lie in a short one of our own."""
RETRY_S = 0.02
_started: list[int] = []
"""Our children, until one is found to have ended: a zygote may outlive us, so nobody waits for it."""


class ZygoteError(Exception):
    """No zygote answers, and none can be started."""


@cache
def build_id() -> str:
    """16 hex digits that differ where an engine's code would: interpreter, libraries, and each file of ours."""
    parts = [sys.executable, sys.version, PACKAGE_ROOT, *(f"{name} {version(name)}" for name in LIBRARIES)]
    for room in ROOMS:
        for path in sorted((Path(PACKAGE_ROOT) / room).rglob("*.py")):
            stat = path.stat()
            parts.append(f"{path} {stat.st_mtime_ns} {stat.st_size}")
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()


def socket_path(folder: Path) -> Path:
    """Where the zygote of the nodes that share `folder` listens.

    Raises:
        ZygoteError: the short folder that stands in for a deep one is not ours.
    """
    folder = folder.resolve()
    path = folder / f"zygote-{build_id()}.sock"
    if len(bytes(path)) <= MAX_SOCKET_PATH_BYTES:
        return path
    digest = hashlib.blake2b(bytes(folder), digest_size=8).hexdigest()
    return _own_folder(Path(tempfile.gettempdir()) / f"nf-{os.getuid()}-{digest}") / path.name


def _own_folder(path: Path) -> Path:
    path.mkdir(mode=0o700, exist_ok=True)
    stat = path.lstat()
    if stat.st_uid != os.getuid() or stat.st_mode & 0o077:
        raise ZygoteError(f"{path} is not ours alone; remove it, or give the node a shorter state folder")
    return path


async def connect(path: Path) -> socket.socket:
    """A connection to the zygote at `path`, started if need be. It may still import: who connects waits for its word.

    Raises:
        ZygoteError: it ends before it listens.
        OSError: the folder cannot be written to.
    """
    started: int | None = None
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, str(path))
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
            sock.close()
            if started is not None and has_ended(started):
                raise ZygoteError(f"the zygote ended before it listened; {log_path(path)} says why") from None
            started = started or launch(path)
            await asyncio.sleep(RETRY_S)
        else:
            return sock


def launch(path: Path, owner: int | None = None) -> int | None:
    """Start a zygote that listens at `path`; its pid, or None if one lives there or is being started.

    With `owner` it stays until that process ends; see `inference.zygote`.
    """
    _started[:] = [pid for pid in _started if not has_ended(pid)]
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    else:
        _started.append(pid := _spawn(path, lock, owner))
        return pid
    finally:
        os.close(lock)


def _spawn(path: Path, lock: int, owner: int | None) -> int:
    """In a session of its own: a Ctrl-C is the node's to handle. What it writes goes to a file: it may outlive us.

    It does not see our choice of devices: torch counts those that are named `MIG-...` by asking CUDA itself, and a
    process that has asked CUDA cannot fork ones that use it.
    """
    kept = {name: each for name, each in os.environ.items() if name not in DEVICE_VARIABLES}
    search = os.pathsep.join(filter(None, (PACKAGE_ROOT, os.environ.get("PYTHONPATH"))))
    os.set_inheritable(lock, True)
    words = [sys.executable, *COMMAND, "--socket", str(path), "--lock", str(lock)]
    log = log_path(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    return os.posix_spawn(
        sys.executable,
        words if owner is None else [*words, "--owner", str(owner)],
        {**kept, **ENVIRONMENT, **huge_heap(kept), "PYTHONPATH": search},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, str(log), flags, 0o600),
        ],
        setsid=True,
    )


def huge_heap(environment: Mapping[str, str]) -> dict[str, str]:
    """Have the C library's heap in huge pages, where it is glibc 2.35 or later and the kernel makes some.

    A fork then copies 512 entries of the page table by one: 3.7 to 4.5 ms of processor time in place of 5.9 to 8.1, and
    what an engine computes in takes half the page faults of its first pass (measured; Linux 6.18, 260 MiB). Who has set
    it otherwise keeps that.
    """
    known = environment.get(TUNABLES, "")
    return {} if HUGE_HEAP[0] in known else {TUNABLES: ":".join(filter(None, (known, "=".join(HUGE_HEAP))))}


def log_path(path: Path) -> Path:
    """What the zygote at `path` has to say, which is little."""
    return path.with_suffix(".log")


def has_ended(pid: int) -> bool:
    """Whether a zygote that we started has ended; one that has is reaped."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return True

"""Open files to a process of this host: a Unix socket's peer, who it is, and descriptors beside an answer's bytes.

A descriptor travels as ancillary data of the bytes it was sent with (SCM_RIGHTS). The kernel takes at most 253 in
one message and never joins two such messages in one receive, so a large hand-over is several small ones.
"""

import asyncio
import os
import socket
import stat
import struct
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

from wire.listener.filesend import writable

BATCH = 64  # descriptors a message: a receiver's control buffer stays under 300 bytes
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


def listen_unix(path: Path) -> socket.socket:
    """A listening socket at `path` that only our own user may reach; one left there by a crash is replaced.

    The name may be longer than the 107 bytes that an address holds: it is bound from inside its folder.
    Raises: OSError; FileExistsError if something else than a socket lies there.
    """
    if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
        raise FileExistsError(f"{path} is not a socket")
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listener.fileno(), 0o600)  # before the bind: the name never exists with another mode
        with Folder(path.parent) as folder:
            listener.bind(folder.address(path.name))
    except BaseException:
        listener.close()
        raise
    return listener


def connect_unix(path: Path, timeout_s: float | None) -> socket.socket:
    """A connection to the socket at `path`, however long that is. Raises: OSError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout_s)
        with Folder(path.parent) as folder:
            connection.connect(folder.address(path.name))
    except BaseException:
        connection.close()
        raise
    return connection


class Folder:
    """A folder by its descriptor: a short way to say a long path. A context manager."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def address(self, name: str) -> str:
        """The Unix address of a socket in this folder."""
        return f"/proc/self/fd/{self._fd}/{name}"


def peer_uid(transport: asyncio.Transport) -> int:
    """The user whose process connected, as the kernel noted it then. Raises: OSError."""
    with _same_socket(transport) as sock:
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(raw)[1])


async def send_descriptors(
    transport: asyncio.Transport, data: bytes, fds: Sequence[int], stall_s: float
) -> None:
    """Send `data` with `fds` beside it, in batches, on a Unix transport whose own buffer is empty.

    There must be a byte for each batch. Raises: OSError, TimeoutError if nothing is taken for `stall_s`.
    """
    batches = [fds[at : at + BATCH] for at in range(0, len(fds), BATCH)]
    if len(data) < len(batches):
        raise ValueError("descriptors travel with bytes, and there are too few")
    with _same_socket(transport) as sock:
        sock.setblocking(False)
        for number, batch in enumerate(batches):
            await _send(sock, data[number : number + 1], batch, stall_s)
        rest = data[len(batches) :]
        while rest:
            rest = rest[await _send(sock, rest, (), stall_s) :]


async def _send(sock: socket.socket, data: bytes, fds: Sequence[int], stall_s: float) -> int:
    """One message, once there is room for it; bytes taken."""
    while True:
        try:
            return socket.send_fds(sock, [data], list(fds)) if fds else sock.send(data)
        except BlockingIOError:
            await writable(sock.fileno(), stall_s)


def _same_socket(transport: asyncio.Transport) -> socket.socket:
    """The transport's socket by a descriptor of our own: neither loop gives its own away."""
    return socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))


def receive_descriptors(sock: socket.socket, num_bytes: int) -> tuple[bytes, list[int]]:
    """Up to `num_bytes` bytes and the descriptors beside them, closed on exec; no bytes at the end of the stream.

    Raises: OSError; also if the kernel had to drop descriptors, and then none is left open.
    """
    room = socket.CMSG_SPACE(BATCH * array("i").itemsize)
    data, ancillary, flags, _ = sock.recvmsg(num_bytes, room, socket.MSG_CMSG_CLOEXEC)
    fds = array("i")
    for level, kind, raw in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(raw[: len(raw) - len(raw) % fds.itemsize])
    if flags & socket.MSG_CTRUNC:
        close_all(fds)
        raise OSError("descriptors were lost on the way: too many are open in this process")
    return data, list(fds)


def close_all(fds: Iterable[int]) -> None:
    """Close each of them."""
    for fd in fds:
        os.close(fd)

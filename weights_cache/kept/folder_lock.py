"""Who may use a folder of kept landings, and whether its disk's pages may stay in memory."""

import errno
import fcntl
import os
from pathlib import Path

from weights_cache.memory.file_map import can_lock, lift_lock_limit


class FolderError(OSError):
    """The folder cannot be used; the message says why and what to do."""


def locked(path: Path) -> int:
    """The lock of a folder, as a descriptor that holds it. Raises FolderError."""
    fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        message = f"another process keeps its weights in {path}; give each node a `cache` of its own"
        raise FolderError(errno.EBUSY, message) from error
    return fd


def need_locks(path: Path, cap_bytes: int) -> None:
    """Pages of a disk are kept in memory once checked: one that was read again later would be unchecked."""
    lift_lock_limit()
    if not can_lock(cap_bytes):
        message = (
            f"{path} is on a disk, and this host does not let the node lock {cap_bytes:,} bytes in memory: "
            "put `cache` on a tmpfs, or raise the limit (ulimit -l)"
        )
        raise FolderError(errno.EPERM, message)

"""What a PUT is made of, each measured alone: hashing memory, and writing memory to the disk durably."""

import base64
import hashlib
import os
import time
from pathlib import Path

from blake3 import blake3

from storage.checksum import Hasher, crc64nvme

BATCH_BYTES = 512 * 1024  # as the store hashes
WRITE_BYTES = 1024 * 1024


def crc64_header(data: memoryview) -> str:
    """The value of x-amz-checksum-crc64nvme."""
    crc = crc64nvme()
    crc.update(data)
    return base64.b64encode(crc.digest()).decode()


def hashing_rate(data: memoryview) -> float:
    """Bytes a second of what the store hashes, on one thread: BLAKE3 for the ETag and CRC64NVME."""
    return _rate(data, blake3(), crc64nvme())


def md5_rate(data: memoryview) -> float:
    """The same where the ETag must be an MD5."""
    return _rate(data, hashlib.md5(usedforsecurity=False), crc64nvme())


def _rate(data: memoryview, *hashers: Hasher) -> float:
    started = time.perf_counter()
    for at in range(0, len(data), BATCH_BYTES):
        piece = data[at : at + BATCH_BYTES]
        for hasher in hashers:
            hasher.update(piece)
    return len(data) / (time.perf_counter() - started)


def disk_rate(data: memoryview, folder: Path) -> float:
    """Bytes a second of writing a file and flushing it, its room asked for first."""
    path = folder / "disk-alone"
    started = time.perf_counter()
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    try:
        os.posix_fallocate(fd, 0, len(data))
        for at in range(0, len(data), WRITE_BYTES):
            piece = data[at : at + WRITE_BYTES]
            while piece:
                piece = piece[os.write(fd, piece) :]
        os.fsync(fd)
        return len(data) / (time.perf_counter() - started)
    finally:
        os.close(fd)
        path.unlink()

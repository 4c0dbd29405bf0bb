"""Is a local file what the bucket or a region has already? Digests of files, reckoned only where sizes agree."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from blake3 import blake3

from storage.client.sdk import PART_BYTES

CHUNK_BYTES = 1024 * 1024


def is_same(path: Path, etag: str) -> bool:
    """Whether the file has this ETag: an MD5, or as S3 makes it of the parts that `nearfield push` sends.

    An ETag of another kind says nothing, and the file is taken to differ.
    """
    digest, dash, num = etag.partition("-")
    if len(digest) != 32:
        return False
    return etag == (_of_parts(path, int(num)) if dash and num.isdigit() else _md5(path))


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _of_parts(path: Path, num: int) -> str:
    """The MD5 of the MD5s of parts of PART_BYTES; another number of parts is another way of cutting."""
    if num < 1 or num != -(-path.stat().st_size // PART_BYTES):
        return ""
    whole = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        for _ in range(num):
            whole.update(_next_part(file))
    return f"{whole.hexdigest()}-{num}"


def _next_part(file: BinaryIO) -> bytes:
    part = hashlib.md5(usedforsecurity=False)
    for _ in range(PART_BYTES // CHUNK_BYTES):
        part.update(file.read(CHUNK_BYTES))
    return part.digest()


def blake3_of(path: Path) -> str:
    """The name of the file's bytes in every region's `nearfield-blobs`."""
    return blake3(max_threads=blake3.AUTO).update_mmap(path).hexdigest()


def held(files: Mapping[str, tuple[Path, int]], stored: Mapping[str, int], known: dict[str, str]) -> set[str]:
    """Those files whose bytes a store has, by its blobs' names and sizes; `known` keeps what was reckoned."""
    sizes = set(stored.values())
    found = set()
    for name, (path, size) in files.items():
        if size in sizes:
            known[name] = known.get(name) or blake3_of(path)
            if stored.get(known[name]) == size:
                found.add(name)
    return found

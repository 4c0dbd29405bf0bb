"""A model's weights as the folder of files that any engine reads, made from what this host has in memory.

A weights file that the store of this host handed over whole is linked, not copied: its name leads to the store's own
open file. Any other is written once, from the landing into a sealed file in memory (memfd): one copy in the kernel,
and as much memory again as the file is large, until the landing's is wanted by another model. To a sealed file nobody
can write, not even root; a linked one is guarded by the store's own mode. The names are links into
`/proc/<our pid>/fd`, so nothing of it is on a disk, and nothing is left when this process ends. Small files are
ordinary ones.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from weights_cache.model.header import HeaderError, header_end, read_header
from weights_cache.model.plan import layout

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from inference.workers.seams import Landing
    from weights_cache.model.header import HeaderTensor
    from weights_cache.model.plan import MappedFile
    from weights_cache.model.revision import Revision, TensorEntry

COPY_BYTES = 1 << 30
"""One call of sendfile takes at most 2 GiB less a page."""
HEADER_ALIGN_BYTES = 64
"""Where the tensors of a file that we write begin: what torch and a cache line want."""
LENGTH_BYTES = 8
SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


@dataclass(slots=True)
class WeightsFolder:
    """`path` can be read until `close`; `fds` are the open files behind its links."""

    path: Path
    fds: list[int]
    linked_bytes: int = 0
    copied_bytes: int = 0

    def close(self) -> None:
        """Forget it all. May be called twice."""
        while self.fds:
            os.close(self.fds.pop())
        with suppress(FileNotFoundError):
            self.path.chmod(0o700)
        shutil.rmtree(self.path, ignore_errors=True)


def make_folder(
    path: Path, revision: Revision, landing: Landing, small: Mapping[str, bytes]
) -> WeightsFolder:
    """The folder of a revision whose landing is whole. Blocks while it copies. Raises OSError: no room."""
    made = WeightsFolder(path, [])
    try:
        path.mkdir(parents=True, mode=0o700)
        for name, data in small.items():
            _write_small(path / name, data)
        for number in revision.weight_files:
            _add_weights(made, revision, landing, number)
        path.chmod(0o500)
    except BaseException:
        made.close()
        raise
    return made


def _write_small(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.write_bytes(data)
    path.chmod(0o400)


def _add_weights(made: WeightsFolder, revision: Revision, landing: Landing, number: int) -> None:
    entry = revision.files[number]
    found = {each.file: (each, fd) for each, fd in zip(landing.mapped, landing.mapped_fds, strict=True)}
    if number in found and _is_whole(revision, *found[number]):
        fd = os.dup(found[number][1])
        made.linked_bytes += entry.size
    else:
        fd = _copied(revision, landing, number)
        made.copied_bytes += entry.size
    made.fds.append(fd)
    path = made.path / entry.path
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.symlink_to(f"/proc/{os.getpid()}/fd/{fd}")


def _is_whole(revision: Revision, mapped: MappedFile, fd: int) -> bool:
    """Whether the store's file is the model's file from its first byte to its last, its header as committed.

    Extents cover tensors only, so the header is compared with the revision: nothing unverified is linked.
    """
    entry = revision.files[mapped.file]
    if os.fstat(fd).st_size != entry.size:
        return False
    try:
        end = header_end(os.pread(fd, LENGTH_BYTES, 0), entry.size)
        header = read_header(os.pread(fd, end, 0), entry.size)
    except HeaderError:
        return False
    own = [tensor for tensor in revision.tensors if tensor.file == mapped.file]
    return header.data_start == mapped.data_at and sorted(map(_key, header.tensors)) == sorted(map(_key, own))


def _key(tensor: HeaderTensor | TensorEntry) -> tuple[Any, ...]:
    return tensor.name, tensor.dtype, tuple(tensor.shape), tensor.offset, tensor.length


def _copied(revision: Revision, landing: Landing, number: int) -> int:
    """The file, written anew into sealed memory; the tensors' bytes are those that were verified."""
    fd = os.memfd_create(
        revision.files[number].path.replace("/", "_")[:200], os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    )
    try:
        head = header_of(revision, number)
        source, start, length = _source(revision, landing, number)
        os.truncate(fd, len(head) + length)
        os.write(fd, head)
        _send(fd, source, start, length)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _send(fd: int, source: int, start: int, length: int) -> None:
    """Append bytes of `source`, without bringing them into this process. Raises OSError."""
    while length:
        num_bytes = os.sendfile(fd, source, start, min(length, COPY_BYTES))
        if not num_bytes:
            raise OSError(f"a file of weights ends {length:,} bytes too early")
        start, length = start + num_bytes, length - num_bytes


def _source(revision: Revision, landing: Landing, number: int) -> tuple[int, int, int]:
    """Where the bytes of a file's tensors are: (descriptor, first byte, how many)."""
    places = layout(revision.files, revision.tensors, landing.mapped)
    length = revision.files[number].size - places.data_starts[number]
    for each, fd in zip(landing.mapped, landing.mapped_fds, strict=True):
        if each.file == number:
            return fd, each.data_at, length
    return landing.fd, places.file_starts[number], length


def header_of(revision: Revision, number: int) -> bytes:
    """The safetensors header of one file, its length before it; `format` is what transformers looks for."""
    own = sorted((each for each in revision.tensors if each.file == number), key=lambda each: each.offset)
    first = own[0].offset
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for each in own:
        offsets = [each.offset - first, each.offset - first + each.length]
        entries[each.name] = {"dtype": each.dtype, "shape": list(each.shape), "data_offsets": offsets}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(LENGTH_BYTES + len(text)) % HEADER_ALIGN_BYTES)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text

"""The parts of a revision: files, tensors, extents; and whether the extents cover the tensors. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from weights_cache.model.strict import StrictError

DTYPE_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "I64": 8,
    "U64": 8,
    "F64": 8,
}


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of the model: `path` relative to the prefix, `size` in bytes, `blake3` of the whole file."""

    path: str
    size: int
    blake3: str
    etag: str


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor: `offset` (bytes) is absolute in file number `file`; `dtype` is safetensors' name for it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Extent:
    """One verified piece, at most 16 MiB: neighbouring tensors of one layer, or a slice of a large tensor.

    `layer` is -1 for what runs before the first layer, 0..n-1 for the layers, n for what runs after the last.
    `tensors` are indices into the revision's tensors; tensors of no bytes are in no extent.
    """

    file: int
    offset: int
    length: int
    xxh3: str
    blake3: str
    layer: int
    tensors: tuple[int, ...]


def num_elements(shape: Sequence[int]) -> int:
    """Elements of a tensor of this shape (1 for a scalar)."""
    count = 1
    for size in shape:
        count *= size
    return count


def check_tensors(files: "Sequence[FileEntry]", tensors: "Sequence[TensorEntry]") -> None:
    """Names are unique, every tensor lies in its file and is as long as its shape. Raises StrictError."""
    if len({entry.path for entry in files}) != len(files):
        raise StrictError("two files have the same path")
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise StrictError("two tensors have the same name")
    for tensor in tensors:
        if tensor.file >= len(files) or tensor.offset + tensor.length > files[tensor.file].size:
            raise StrictError(f"tensor {tensor.name} lies outside its file")
        if num_elements(tensor.shape) * DTYPE_BYTES[tensor.dtype] != tensor.length:
            raise StrictError(f"tensor {tensor.name} has a length that is not its shape's")


def check_extents(
    files: "Sequence[FileEntry]", tensors: "Sequence[TensorEntry]", extents: "Sequence[Extent]"
) -> None:
    """Every byte of every tensor is in exactly one extent that names it. Raises StrictError."""
    if any(ahead.layer > extent.layer for ahead, extent in pairwise(extents)):
        raise StrictError("the extents are not in execution order")
    parts: dict[int, list[tuple[int, int]]] = {}
    for number, extent in enumerate(extents):
        if extent.file >= len(files) or extent.offset + extent.length > files[extent.file].size:
            raise StrictError(f"extent {number} lies outside its file")
        if sum(_named_bytes(tensors, extent, parts)) != extent.length:
            raise StrictError(f"extent {number} is not made of the tensors it names")
    for index, tensor in enumerate(tensors):
        _check_covered(tensor, sorted(parts.get(index, ())))


def _named_bytes(
    tensors: "Sequence[TensorEntry]", extent: "Extent", parts: dict[int, list[tuple[int, int]]]
) -> list[int]:
    """Bytes of `extent` in each tensor it names; each such part is noted under the tensor's index."""
    lengths = []
    for index in extent.tensors:
        if index >= len(tensors) or tensors[index].file != extent.file:
            raise StrictError("an extent names a tensor that is not in its file")
        tensor = tensors[index]
        start = max(extent.offset, tensor.offset)
        end = min(extent.offset + extent.length, tensor.offset + tensor.length)
        if end <= start:
            raise StrictError(f"an extent names the tensor {tensor.name} and holds none of it")
        parts.setdefault(index, []).append((start, end))
        lengths.append(end - start)
    return lengths


def _check_covered(tensor: "TensorEntry", parts: Sequence[tuple[int, int]]) -> None:
    reached = tensor.offset
    for start, end in parts:
        if start != reached:
            raise StrictError(f"tensor {tensor.name} is not covered exactly once")
        reached = end
    if reached != tensor.offset + tensor.length:
        raise StrictError(f"tensor {tensor.name} is not covered exactly once")

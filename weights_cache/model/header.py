"""The header of a safetensors file, read under caps of our own.

A file is 8 bytes of little-endian header length, that many bytes of JSON, and the tensors' bytes. The
reference reader takes 200,000 empty tensors, shapes of 100,000 dimensions and names like `../../etc/x`
(measured with safetensors 0.8.0), so everything a pushed header may say is bounded here, before anything is
allocated for it. Pure: bytes and a size in, a Header or a HeaderError out, never anything else.
"""

import re
from dataclasses import dataclass
from typing import Any

from weights_cache.model.coverage import DTYPE_BYTES, num_elements
from weights_cache.model.revision import MAX_DIMS, MAX_TENSORS, TENSOR_NAME
from weights_cache.model.strict import MAX_INT, StrictError, parse

LENGTH_BYTES = 8  # the header's length, u64 little-endian
MAX_HEADER_BYTES = 16 << 20  # 65,536 tensors at 256 bytes each; the largest seen in public is under 4 MiB
MAX_HEADER_MARKS = 1 << 20  # '{' '[' ',' in all: 65,536 tensors need 15 each; bounds what json.loads builds
MAX_METADATA_KEYS = 1_024  # free text of the format's `__metadata__`; never used, only bounded
FIRST_READ_BYTES = 512 << 10  # one small ranged GET holds nearly every header

_OTHERS = (b"PK\x03\x04", b"\x80\x02")
"""How a zip and a pickle begin. As a length that is far beyond ours, but for the last: it may be 640 bytes as well."""
_NAME = re.compile(TENSOR_NAME)
_ENTRY = {"dtype", "shape", "data_offsets"}

NEXT = {
    "header_truncated": "upload the file again; it ends before its header does",
    "header_too_large": "save the model again as safetensors, in shards (model.save_pretrained does both), and push it",
    "header_not_json": "save the model again with safetensors (model.save_pretrained does) and push it",
    "lfs_pointer": "run `git lfs pull` in the model folder and push again",
    "not_safetensors": "convert the weights to safetensors (model.save_pretrained does) and push them",
    "too_many_tensors": "split the model into shards of at most 65,536 tensors",
    "bad_tensor_name": "rename the tensor: letters, digits, '.', '_' and '-', at most 256 characters",
    "unknown_dtype": "save the tensor in a dtype that safetensors and torch both have",
    "bad_shape": "save the model again with safetensors and push it",
    "bad_offsets": "save the model again with safetensors and push it",
    "size_mismatch": "upload the file again; it is cut short or has bytes that belong to no tensor",
}


class HeaderError(ValueError):
    """The file is not one we would load: `code`, `message` (one sentence) and `next_step` for its owner."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.next_step = NEXT[code]


@dataclass(frozen=True, slots=True)
class HeaderTensor:
    """One tensor of a file: `offset` is absolute in the file; `offset` and `length` in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Header:
    """A checked header. `data_start` is where the tensors' bytes begin; tensors are in file order."""

    data_start: int
    size: int
    tensors: tuple[HeaderTensor, ...]


def header_end(first: bytes, object_size: int) -> int:
    """How many bytes of the file `read_header` needs, from its first 8. Raises HeaderError."""
    if first.startswith(b"version https://git-lfs"):
        raise HeaderError("lfs_pointer", "this is a Git LFS pointer, not the file it points to")
    if len(first) < LENGTH_BYTES or object_size < LENGTH_BYTES + 2:
        raise HeaderError("header_truncated", f"a file of {object_size:,} bytes has no safetensors header")
    length = int.from_bytes(first[:LENGTH_BYTES], "little")
    if length > MAX_HEADER_BYTES:
        if first.startswith(_OTHERS):
            raise HeaderError("not_safetensors", "this is a zip archive or a pickle, not safetensors")
        raise HeaderError(
            "header_too_large", f"the header says {length:,} bytes; at most {MAX_HEADER_BYTES:,} are read"
        )
    if length < 2:
        raise HeaderError("header_not_json", f"the header says {length} bytes; an empty one has 2")
    if LENGTH_BYTES + length > object_size:
        raise HeaderError(
            "header_truncated", f"the header says {length:,} bytes, the whole file has {object_size:,}"
        )
    return LENGTH_BYTES + length


def read_header(prefix: bytes, object_size: int) -> Header:
    """The header in the first bytes of a file of `object_size` bytes.

    `prefix` holds at least the first `header_end(...)` bytes. Raises HeaderError.
    """
    end = header_end(prefix, object_size)
    if len(prefix) < end:
        raise HeaderError("header_truncated", f"{len(prefix):,} of the header's {end:,} bytes are there")
    entries = _entries(bytes(prefix[LENGTH_BYTES:end]))
    found = [_tensor(name, entry, end) for name, entry in entries.items()]
    found.sort(key=lambda tensor: (tensor.offset, tensor.length))
    _check_contiguous(found, end, object_size)
    return Header(end, object_size, tuple(found))


def _entries(data: bytes) -> dict[str, Any]:
    """The header's tensors by name, still unread; `__metadata__` is checked and dropped."""
    if sum(data.count(mark) for mark in (b"{", b"[", b",")) > MAX_HEADER_MARKS:
        raise HeaderError("too_many_tensors", f"the header has more than {MAX_HEADER_MARKS:,} values")
    try:
        value = parse(data, MAX_HEADER_BYTES)
    except StrictError as error:
        raise HeaderError("header_not_json", f"the header cannot be read: {error}") from error
    if not data.startswith(b"{") or not isinstance(value, dict):
        raise HeaderError("header_not_json", "the header is not a JSON object")
    _check_metadata(value.pop("__metadata__", {}))
    if len(value) > MAX_TENSORS:
        raise HeaderError("too_many_tensors", f"{len(value):,} tensors, at most {MAX_TENSORS:,} are read")
    return value


def _check_metadata(value: object) -> None:
    if not isinstance(value, dict) or len(value) > MAX_METADATA_KEYS:
        raise HeaderError("header_not_json", f"__metadata__ is no object of {MAX_METADATA_KEYS} keys")
    if not all(isinstance(text, str) for text in value.values()):
        raise HeaderError("header_not_json", "__metadata__ has a value that is not text")


def _tensor(name: str, entry: object, data_start: int) -> HeaderTensor:
    if not _NAME.fullmatch(name):
        raise HeaderError("bad_tensor_name", f"a tensor is called {name[:80]!r}")
    if not isinstance(entry, dict) or entry.keys() != _ENTRY:
        raise HeaderError("header_not_json", f"{name} does not have exactly dtype, shape and data_offsets")
    dtype, shape = entry["dtype"], entry["shape"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise HeaderError("unknown_dtype", f"{name} has the dtype {str(dtype)[:40]!r}")
    if not isinstance(shape, list) or len(shape) > MAX_DIMS or not all(map(_is_size, shape)):
        raise HeaderError("bad_shape", f"{name} has no shape of at most {MAX_DIMS} sizes")
    begin, end = _span(name, entry["data_offsets"])
    if num_elements(shape) * DTYPE_BYTES[dtype] != end - begin:
        raise HeaderError("bad_shape", f"{name} has {end - begin:,} bytes, which is not its shape's size")
    return HeaderTensor(name, dtype, tuple(shape), data_start + begin, end - begin)


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_INT


def _span(name: str, value: object) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2 or not all(map(_is_size, value)):
        raise HeaderError("bad_offsets", f"{name} has no pair of data offsets")
    begin, end = value
    if begin > end:
        raise HeaderError("bad_offsets", f"{name} ends before it begins")
    return begin, end


def _check_contiguous(found: list[HeaderTensor], data_start: int, object_size: int) -> None:
    """No gap, no overlap, nothing before the first tensor and nothing after the last."""
    reached = data_start
    for tensor in found:
        if tensor.offset != reached:
            raise HeaderError(
                "bad_offsets", f"{tensor.name} overlaps its neighbour or leaves a gap before it"
            )
        reached += tensor.length
    if reached != object_size:
        raise HeaderError(
            "size_mismatch", f"header and tensors make {reached:,} bytes, the file has {object_size:,}"
        )

"""Which bytes of a model move first, in which pieces, and where they land. Pure.

The order is the order in which a forward pass needs them: embeddings, the layers by number (files sort them
0, 1, 10, 11, 2), the last norm, the head. A tensor whose place cannot be told from its name goes first:
waiting for too much is slow, waiting for too little is wrong.
"""

import mmap
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from weights_cache.model.coverage import DTYPE_BYTES
from weights_cache.model.revision import MAX_EXTENT_BYTES, FileEntry, TensorEntry

LANDING_ALIGN_BYTES = 64  # a cache line and torch's own alignment; file data sections start on it
PAGE_BYTES = mmap.PAGESIZE  # where a mapping of a file may begin, in the file and in memory
HUGE_BYTES = 2 << 20  # a run of this size that lies alike in file and memory may be mapped with one entry
LEAST_HUGE_BYTES = 32 << 20  # of a file's tensors, so that what is left free before it is none of its size
SLICE_ALIGN_BYTES = 4_096  # slices of one tensor start on its pages: they stay aligned for any dtype

_EMBEDDINGS = re.compile(r"embed(?!_out)|wte|wpe|word_emb|pos_emb|position_emb|token_emb", re.IGNORECASE)
_TAIL = frozenset(
    {
        *("norm", "norm_f", "ln_f", "ln_out", "final_norm", "final_layernorm", "final_layer_norm"),
        *("lm_head", "embed_out", "head", "output", "output_projection", "project_out"),
        *("score", "classifier", "pooler", "cls", "predictions", "qa_outputs", "lm_head_norm"),
    }
)
_SIDE_TOWERS = re.compile(r"vision|visual|image|audio|speech", re.IGNORECASE)


class Span(Protocol):
    """Anything that lies in one file: a tensor, an extent, a piece."""

    @property
    def file(self) -> int:
        """The file's number in the revision."""
        ...

    @property
    def offset(self) -> int:
        """Bytes from the file's first byte."""
        ...

    @property
    def length(self) -> int:
        """Bytes."""
        ...


@dataclass(frozen=True, slots=True)
class Piece:
    """An extent before it has digests; fields as `revision.Extent`."""

    file: int
    offset: int
    length: int
    layer: int
    tensors: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class MappedFile:
    """A file that is not landed but mapped where it lies: its data section starts at byte `data_at` there."""

    file: int
    data_at: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each file's data section lies in the landing, in bytes; -1 for a file without tensors.

    The first `fresh_bytes` are memory that is filled, the rest are files that are mapped.
    """

    total_bytes: int
    file_starts: tuple[int, ...]
    data_starts: tuple[int, ...]
    fresh_bytes: int

    def place(self, span: Span) -> int:
        """The offset in the landing of a tensor or an extent."""
        return self.file_starts[span.file] + span.offset - self.data_starts[span.file]


def execution_order(names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """For each tensor name its (layer, rank): -1 before the layers, 0..n-1, n after; rank orders within."""
    stacks = [_stack(name) for name in names]
    found = sorted({stack for stack in stacks if stack})
    layers = {stack: layer for layer, stack in enumerate(found)}
    return tuple(
        (layers[stack], 0) if stack else _outside(name, len(found))
        for name, stack in zip(names, stacks, strict=True)
    )


def _stack(name: str) -> tuple[int, str, int] | None:
    """The layer a name speaks of: (order of its stack, the stack, number), or None outside the layers.

    The first number in the name is the layer's: what comes after it (experts, blocks of a layer) is inside.
    """
    parts = name.split(".")
    for index, part in enumerate(parts[1:], 1):
        if part.isdecimal() and len(part) <= 6:
            stack = ".".join(parts[:index])
            return _tower_order(stack), stack, int(part)
    return None


def _tower_order(stack: str) -> int:
    if _SIDE_TOWERS.search(stack):
        return 0
    return 2 if "decoder" in stack else 1


def _outside(name: str, num_layers: int) -> tuple[int, int]:
    parts = name.split(".")
    if any(_EMBEDDINGS.match(part) for part in parts):
        return -1, 0
    if _TAIL.isdisjoint(parts):
        return -1, 1
    return num_layers, 0 if any("norm" in part or part.startswith("ln_") for part in parts) else 1


def extents(tensors: Sequence[TensorEntry]) -> tuple[Piece, ...]:
    """The pieces that cover every byte of every tensor once, in execution order, at most 16 MiB each."""
    order = execution_order([tensor.name for tensor in tensors])
    by_need = sorted(
        (index for index, tensor in enumerate(tensors) if tensor.length),
        key=lambda index: (*order[index], tensors[index].file, tensors[index].offset),
    )
    return tuple(_joined(_whole_or_sliced(tensors[i], i, order[i][0]) for i in by_need))


def _whole_or_sliced(tensor: TensorEntry, index: int, layer: int) -> list[Piece]:
    """One piece for a tensor of at most 16 MiB, equal pieces for a larger one."""
    num_slices = -(-tensor.length // MAX_EXTENT_BYTES)
    step = -(-tensor.length // num_slices)
    step += -step % SLICE_ALIGN_BYTES if num_slices > 1 else 0
    return [
        Piece(tensor.file, tensor.offset + at, min(step, tensor.length - at), layer, (index,))
        for at in range(0, tensor.length, step)
    ]


def _joined(tensors: Iterable[list[Piece]]) -> Iterator[Piece]:
    """Neighbours in one file and one layer become one piece, up to the cap; slices stay by themselves."""
    last: Piece | None = None
    for pieces in tensors:
        if last and len(pieces) == 1 and _touch(last, pieces[0]):
            length, names = last.length + pieces[0].length, last.tensors + pieces[0].tensors
            last = Piece(last.file, last.offset, length, last.layer, names)
            continue
        if last:
            yield last
        yield from pieces[:-1]
        last = pieces[-1]
        if len(pieces) > 1:
            yield last
            last = None
    if last:
        yield last


def _touch(ahead: Piece, piece: Piece) -> bool:
    return (
        ahead.file == piece.file
        and ahead.layer == piece.layer
        and ahead.offset + ahead.length == piece.offset
        and ahead.length + piece.length <= MAX_EXTENT_BYTES
    )


def layout(
    files: Sequence[FileEntry], tensors: Sequence[TensorEntry], mapped: Sequence[MappedFile] = ()
) -> Layout:
    """Each weight file's data section contiguous, in file order, each one starting on 64 bytes.

    After them the files that are mapped, each from a page on: a mapping keeps a file's place within its page, and a
    large one's within a huge page.
    """
    data_starts = _data_starts(files, tensors)
    elsewhere = {each.file for each in mapped}
    file_starts, total_bytes = [-1] * len(files), 0
    for number, data_start in enumerate(data_starts):
        if data_start >= 0 and number not in elsewhere:
            file_starts[number] = total_bytes
            total_bytes = _up(total_bytes + files[number].size - data_start, LANDING_ALIGN_BYTES)
    fresh_bytes = total_bytes
    for each in mapped:
        num_bytes = files[each.file].size - data_starts[each.file]
        align_bytes = HUGE_BYTES if num_bytes >= LEAST_HUGE_BYTES else PAGE_BYTES
        file_starts[each.file] = _up(total_bytes, align_bytes) + each.data_at % align_bytes
        total_bytes = file_starts[each.file] + num_bytes
    return Layout(total_bytes, tuple(file_starts), tuple(data_starts), fresh_bytes)


def _data_starts(files: Sequence[FileEntry], tensors: Sequence[TensorEntry]) -> list[int]:
    """Where in each file its first tensor begins; -1 for a file without tensors."""
    found = [-1] * len(files)
    for tensor in tensors:
        known = found[tensor.file]
        found[tensor.file] = tensor.offset if known < 0 else min(known, tensor.offset)
    return found


def _up(num_bytes: int, align_bytes: int) -> int:
    return num_bytes + -num_bytes % align_bytes


def fits_a_mapping(tensors: Sequence[TensorEntry], file: int, data_at: int) -> bool:
    """True if every tensor of `file` is as well aligned mapped as it would be landed.

    A tensor need only be aligned to its own element; the page alignment that a mapping needs is kept by `layout`.
    """
    widest = max((DTYPE_BYTES[tensor.dtype] for tensor in tensors if tensor.file == file), default=1)
    return data_at % widest == 0


@dataclass(frozen=True, slots=True)
class Held:
    """One revision in the host tier, as the eviction choice sees it; `model` is whose revision it is."""

    revision_id: str
    num_bytes: int
    last_used_s: float
    pinned: bool
    model: str = ""


def evictions(held: Sequence[Held], need_bytes: int, cap_bytes: int) -> tuple[str, ...] | None:
    """Which revisions to drop so that `need_bytes` more fit under the cap: old ones, then the least recently used.

    Old is a revision when a newer one of its model was used since. A pinned one is never among those that go. None
    when even dropping all others is not enough.
    """
    excess = sum(entry.num_bytes for entry in held) + need_bytes - cap_bytes
    chosen = []
    for entry in eviction_order(held):
        if excess <= 0:
            break
        chosen.append(entry.revision_id)
        excess -= entry.num_bytes
    return tuple(chosen) if excess <= 0 else None


def eviction_order(held: Iterable[Held]) -> list[Held]:
    """Those that may go, in the order in which they would."""
    entries = tuple(held)
    newest: dict[str, float] = {}
    for entry in entries:
        newest[entry.model] = max(entry.last_used_s, newest.get(entry.model, entry.last_used_s))
    free = [entry for entry in entries if not entry.pinned]
    return sorted(free, key=lambda entry: (_is_newest(entry, newest), entry.last_used_s))


def _is_newest(entry: Held, newest: dict[str, float]) -> bool:
    return not entry.model or entry.last_used_s >= newest[entry.model]

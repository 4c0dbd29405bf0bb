"""The way of weights through a ring of pinned memory to a device, as two lists of steps. Pure: no torch, no clock.

A GPU reads host memory by itself only if it is pinned, and pinning a whole model takes longer than copying it:
so the bytes go through a few pinned slots. One list fills slots, as far ahead as there are free ones; the other tells
the device to copy what is filled. A slot may be filled again only when the device has read it, which its own event
says, and never sooner (vLLM lost weights to that race: vllm-exl3 PR #28). The order is that of execution, the memory
is bounded by the ring, and every byte is sent once, whatever the tensors' sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from weights_cache.model.revision import MAX_EXTENT_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from weights_cache.model.plan import Layout
    from weights_cache.model.revision import Extent, TensorEntry

PART_ALIGN_BYTES = 16
"""Of each part in its slot: the widest element has 8 bytes, and a device copies 16 at a time."""


@dataclass(frozen=True, slots=True)
class Ring:
    """How much pinned memory: at least two slots, so that one is filled while the other is read.

    A slot holds a whole extent, and two threads fill it: half of them are filled while the device reads the others.
    On an H200 beside 16 cores (55 GB/s) 96 MiB and 64 gave 45 to 50 GB/s of weights that were here, 128 no more.
    """

    num_slots: int = 6
    slot_bytes: int = MAX_EXTENT_BYTES

    def __post_init__(self) -> None:
        if self.num_slots < 2 or self.slot_bytes < PART_ALIGN_BYTES or self.slot_bytes % PART_ALIGN_BYTES:
            raise ValueError(f"a ring has two slots or more, of a multiple of {PART_ALIGN_BYTES} bytes")


WHILE_LANDING = Ring(4)
"""Of weights that still land: whoever lands them wants the processors and the caches too (13.0 to 13.3 GB/s of a store
where eight slots had 11.9 to 12.4, and 14.0 to 14.3 against 12.2 to 13.3; H200, 16 cores)."""


@dataclass(frozen=True, slots=True)
class Part:
    """`length` bytes of one tensor, from its byte `start` on, which lie at byte `source` of the landing."""

    extent: int
    layer: int
    tensor: int
    start: int
    source: int
    length: int


@dataclass(frozen=True, slots=True)
class WaitExtent:
    """The filling side waits until the extent is in memory and verified."""

    extent: int


@dataclass(frozen=True, slots=True)
class WaitSlot:
    """The filling side waits until the slot was marked, and the device has read it."""

    slot: int


@dataclass(frozen=True, slots=True)
class Fill:
    """Parts are copied to their places in a slot, by anybody, while the next steps are taken."""

    slot: int
    load: tuple[tuple[int, Part], ...]


@dataclass(frozen=True, slots=True)
class WaitFill:
    """The sending side waits until the slot is filled."""

    slot: int


@dataclass(frozen=True, slots=True)
class Send:
    """The device is told to copy the part at byte `at` of a slot to its tensor."""

    slot: int
    at: int
    part: Part


@dataclass(frozen=True, slots=True)
class MarkSlot:
    """An event behind all that was sent so far: when it has happened, the slot is free."""

    slot: int


@dataclass(frozen=True, slots=True)
class MarkLayer:
    """An event behind all that was sent so far: when it has happened, the layer may run, and all before it."""

    layer: int


FillStep = WaitExtent | WaitSlot | Fill
SendStep = WaitFill | Send | MarkSlot | MarkLayer


def parts_of(extents: Sequence[Extent], tensors: Sequence[TensorEntry], places: Layout) -> Iterator[Part]:
    """The tensors' bytes in the order of the extents, which is that of execution."""
    for number, extent in enumerate(extents):
        end = extent.offset + extent.length
        for index in extent.tensors:
            tensor = tensors[index]
            first, last = max(extent.offset, tensor.offset), min(end, tensor.offset + tensor.length)
            if first < last:
                source = places.place(tensor) + first - tensor.offset
                yield Part(number, extent.layer, index, first - tensor.offset, source, last - first)


def fills(parts: Iterable[Part], ring: Ring) -> Iterator[FillStep]:
    """What the filling side does, one after another. A slot's turn is everywhere that of its load."""
    extent = None
    for number, load in enumerate(_loads(parts, ring.slot_bytes)):
        slot, first = number % ring.num_slots, load[0][1]
        if first.extent != extent:
            yield WaitExtent(first.extent)
        if number >= ring.num_slots:
            yield WaitSlot(slot)
        yield Fill(slot, tuple(load))
        extent = first.extent


def sends(parts: Iterable[Part], ring: Ring) -> Iterator[SendStep]:
    """What the sending side does, one after another. Parts of a layer are neighbours."""
    layer = None
    for number, load in enumerate(_loads(parts, ring.slot_bytes)):
        slot, first = number % ring.num_slots, load[0][1]
        if layer is not None and first.layer != layer:
            yield MarkLayer(layer)
        yield WaitFill(slot)
        yield from (Send(slot, at, part) for at, part in load)
        yield MarkSlot(slot)
        layer = first.layer
    if layer is not None:
        yield MarkLayer(layer)


def _loads(parts: Iterable[Part], slot_bytes: int) -> Iterator[list[tuple[int, Part]]]:
    """What goes into one slot: parts of one extent and their places there; a part that is too long is cut."""
    load: list[tuple[int, Part]] = []
    at = 0
    for part in parts:
        if load and part.extent != load[0][1].extent:
            yield load
            load, at = [], 0
        for piece in _cut(part, slot_bytes):
            if at + piece.length > slot_bytes:
                yield load
                load, at = [], 0
            load.append((at, piece))
            at += piece.length + -piece.length % PART_ALIGN_BYTES
    if load:
        yield load


def _cut(part: Part, slot_bytes: int) -> Iterator[Part]:
    """Pieces of at most a slot, each whole elements of any dtype."""
    for done in range(0, part.length, slot_bytes):
        length = min(slot_bytes, part.length - done)
        yield Part(part.extent, part.layer, part.tensor, part.start + done, part.source + done, length)

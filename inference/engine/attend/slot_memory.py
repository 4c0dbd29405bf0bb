"""The memory of slots and kept pages on a CPU: addresses for all layers that are alike, filled as they are used.

All of it is taken at the first layer, not a part at each. Small objects that stay, made between the large ones of a
pass that go, leave no gap as large as the next one needs: a first pass through 33 layers grew the heap by 9 MB, and the
system cleared each page of that (2,400 page faults on two threads; 1,600 since; measured).

It is private memory: a page of it costs less than one of shared memory, and a slot's goes back by MADV_DONTNEED.
"""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from inference.engine.steps.pages import PAGE_TOKENS
from weights_cache.memory.pages import MAP_NORESERVE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inference.engine.steps.slots import SlotPlan

_FLAGS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE


@dataclass(frozen=True, slots=True)
class Form:
    """What one position of a layer takes: heads and the size of each, of `dtype`."""

    num_heads: int
    head_size: int
    dtype: torch.dtype

    @classmethod
    def of(cls, like: torch.Tensor) -> Form:
        """Of keys or values of a step, [1, heads, tokens, size]."""
        return cls(like.shape[1], like.shape[3], like.dtype)


@dataclass(frozen=True, slots=True)
class LayerMemory:
    """Keys and values of one layer: by slot, [slots, heads, max_len, size]; by page, [pages, heads, tokens, size]."""

    slots: tuple[torch.Tensor, torch.Tensor]
    pages: tuple[torch.Tensor, torch.Tensor]


class SlotMemory:
    """Addresses for `num_layers` layers with one form for keys and one for values; zeros until they are written."""

    def __init__(self, room: SlotPlan, keys: Form, values: Form, num_layers: int) -> None:
        self._num_layers = num_layers
        self._parts = [_Part(room.num_slots, room.max_len, form) for form in (keys, values)]
        self._parts += [_Part(room.num_pages, PAGE_TOKENS, form) for form in (keys, values)]
        self._layer_bytes = sum(part.num_bytes for part in self._parts)
        self._map = mmap.mmap(-1, num_layers * self._layer_bytes, _FLAGS)

    def layer(self, number: int) -> LayerMemory:
        """The memory of one layer."""
        keys, values, *pages = (part.view(self._map, at) for part, at in self._placed(number))
        return LayerMemory((keys, values), (pages[0], pages[1]))

    def give_back(self, slot: int) -> None:
        """Return to the system what a slot holds in every layer; it reads as zeros from then on."""
        for number in range(self._num_layers):
            for part, at in [*self._placed(number)][:2]:
                start, end = (at + part.row_bytes * edge for edge in (slot, slot + 1))
                first = start + -start % mmap.PAGESIZE
                if (length := end - end % mmap.PAGESIZE - first) > 0:
                    self._map.madvise(mmap.MADV_DONTNEED, first, length)

    def _placed(self, number: int) -> Iterator[tuple[_Part, int]]:
        """A layer's parts, and where each begins."""
        at = number * self._layer_bytes
        for part in self._parts:
            yield part, at
            at += part.num_bytes


class _Part:
    """Rows of one kind of one layer: keys or values, by slot or by page."""

    __slots__ = ("_dtype", "_shape", "num_bytes", "row_bytes")

    def __init__(self, count: int, length: int, form: Form) -> None:
        self._shape = (count, form.num_heads, length, form.head_size)
        self._dtype = form.dtype
        self.row_bytes = form.num_heads * length * form.head_size * form.dtype.itemsize
        num_bytes = count * self.row_bytes
        self.num_bytes = num_bytes + -num_bytes % mmap.PAGESIZE

    def view(self, memory: mmap.mmap, at: int) -> torch.Tensor:
        """It as a tensor."""
        count = math.prod(self._shape)
        if not count:
            return torch.empty(self._shape, dtype=self._dtype)
        return torch.frombuffer(memory, dtype=self._dtype, count=count, offset=at).view(self._shape)

"""Tensors as views of where they land: no byte is copied, or need be there, for one that is aligned to its element."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from weights_cache.model.plan import Layout
    from weights_cache.model.revision import Revision, TensorEntry

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "I64": torch.int64,
    "U64": torch.uint64,
    "F64": torch.float64,
}
COMPUTED = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""The dtypes a model computes in; measured here, bf16 and fp16 need no conversion on a CPU (AMX, AVX-512)."""
NAMED = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""The dtypes a model's spec may name, beside "auto"."""


class Place(Protocol):
    """Where a landing lies, or will (`weights_cache.memory.addresses.Addresses`)."""

    @property
    def buffer(self) -> memoryview:
        """Its bytes, there or not."""

    @property
    def layout(self) -> Layout:
        """Where each tensor and extent lies in them."""


def stored_dtype(tensors: tuple[TensorEntry, ...]) -> torch.dtype:
    """The computing dtype that most bytes of these tensors are stored in; float32 if none is."""
    totals = dict.fromkeys(COMPUTED, 0)
    for tensor in tensors:
        if tensor.dtype in totals:
            totals[tensor.dtype] += tensor.length
    return COMPUTED[max(totals, key=lambda name: totals[name])]


def views_of(revision: Revision, landed: Place) -> dict[str, torch.Tensor]:
    """Every tensor where it landed; copied only if it is not aligned to its own element."""
    places, buffer = landed.layout, landed.buffer
    whole = {DTYPES[name]: _whole(buffer, DTYPES[name]) for name in {each.dtype for each in revision.tensors}}
    return {
        tensor.name: _view(buffer, whole[DTYPES[tensor.dtype]], places.place(tensor), tensor)
        for tensor in revision.tensors
    }


def _whole(buffer: memoryview, dtype: torch.dtype) -> torch.Tensor:
    """The landing as one run of numbers: a tensor that is cut from it costs a third of one made of the buffer."""
    count = len(buffer) // dtype.itemsize
    return torch.frombuffer(buffer, dtype=dtype, count=count) if count else torch.empty(0, dtype=dtype)


def _view(buffer: memoryview, whole: torch.Tensor, start: int, tensor: TensorEntry) -> torch.Tensor:
    dtype = whole.dtype
    if not tensor.length:
        return torch.empty(tensor.shape, dtype=dtype)
    if start % dtype.itemsize:
        own = torch.frombuffer(buffer, dtype=torch.uint8, count=tensor.length, offset=start).clone()
        return own.view(dtype).view(tensor.shape)
    return whole.as_strided(tensor.shape, _strides(tensor.shape), start // dtype.itemsize)


def _strides(shape: tuple[int, ...]) -> list[int]:
    """Of a tensor that lies in one piece, row by row."""
    strides = [1] * len(shape)
    for axis in range(len(shape) - 1, 0, -1):
        strides[axis - 1] = strides[axis] * shape[axis]
    return strides


def spans_of(weights: Mapping[str, torch.Tensor], buffer: memoryview) -> dict[str, range | None]:
    """For each weight the bytes of the landing that it views; None for one that is elsewhere."""
    if not len(buffer):
        return {}
    base = torch.frombuffer(buffer, dtype=torch.uint8).data_ptr()
    spans: dict[str, range | None] = {}
    for name, tensor in weights.items():
        start = tensor.data_ptr() - base
        inside = start >= 0 and start + tensor.nbytes <= len(buffer)
        spans[name] = range(start, start + tensor.nbytes) if inside else None
    return spans

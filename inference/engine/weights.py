"""From landed bytes to a model: views without copies, attached before the bytes are there where that is safe.

`attach` hands transformers a state dict of views into the landing, so that its own rules for names, ties and
buffers hold. If every weight ends up as a view at its tensor's own place, the model may run while bytes still
land: `Gate`s make each module wait for its own extents. If anything was copied or converted (another dtype,
merged experts, unaligned tensors), the bytes are waited for first.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch.nn import ModuleList

from inference.engine.filling import filled

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

    from inference.engine.copier import Copier
    from weights_cache.plan import Layout
    from weights_cache.revision import Revision, TensorEntry

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


class Landed(Protocol):
    """What `weights_cache.view.LandingView` offers: bytes, and waiting for them."""

    @property
    def buffer(self) -> memoryview:
        """The landing's bytes."""

    @property
    def layout(self) -> Layout:
        """Where each tensor and extent lies in them."""

    def wait_extent(self, number: int) -> bool:
        """Wait for one extent; raises LandingError."""

    def wait_landed(self, number: int) -> bool:
        """As `wait_extent`, but whoever reads it maps its pages."""

    def wait_all(self) -> bool:
        """Wait for every extent; raises LandingError."""


class Waits(Protocol):
    """What makes modules wait for their bytes, once each."""

    waited_ms: float

    @property
    def num_closed(self) -> int:
        """Modules that have not run yet."""

    def figures(self) -> dict[str, float]:
        """What is known by now of work that goes on beside the passes."""


@dataclass(frozen=True, slots=True)
class Attached:
    """A model whose every weight is filled, now or when its gate opens."""

    model: PreTrainedModel
    copied_bytes: int
    """Bytes of weights that are not views of the landing."""
    gates: Waits | None
    """None if every byte is here."""
    copier: Copier | None = None
    """What brings (or brought) the weights to a device."""


def attach(
    revision: Revision,
    landed: Landed,
    model_class: type[PreTrainedModel],
    config: PreTrainedConfig,
    *,
    dtype: str,
    gated: bool,
) -> Attached:
    """Fill a model with the revision's weights, in `dtype` ("auto" keeps the one most bytes are stored in).

    `gated` allows a start before the bytes are here, for classes that call their layers as modules.

    Raises:
        AttachError: a weight is missing or has another shape.
        LandingError: the bytes do not land.
    """
    target = NAMED.get(dtype) or stored_dtype(revision.tensors)
    if gated and not _reads_bytes(revision, landed.layout, model_class, config, target):
        model = filled(model_class, config, _views(revision, landed), target)
        spans = _spans(model.state_dict(keep_vars=True), landed.buffer)
        if None not in spans.values():
            return Attached(model, 0, Gates(model, revision, landed, spans))
    landed.wait_all()
    model = filled(model_class, config, _views(revision, landed), target)
    return Attached(model, _copied_bytes(model, landed.buffer), None)


def stored_dtype(tensors: tuple[TensorEntry, ...]) -> torch.dtype:
    """The computing dtype that most bytes of these tensors are stored in; float32 if none is."""
    totals = dict.fromkeys(COMPUTED, 0)
    for tensor in tensors:
        if tensor.dtype in totals:
            totals[tensor.dtype] += tensor.length
    return COMPUTED[max(totals, key=lambda name: totals[name])]


def _reads_bytes(
    revision: Revision,
    places: Layout,
    model_class: type[PreTrainedModel],
    config: PreTrainedConfig,
    target: torch.dtype,
) -> bool:
    """True if attaching looks at values: to convert, to align, or to compare a tied pair stored twice."""
    return ties_stored_twice(revision, model_class, config) or any(
        (tensor.dtype in COMPUTED and DTYPES[tensor.dtype] != target)
        or places.place(tensor) % DTYPES[tensor.dtype].itemsize
        for tensor in revision.tensors
    )


def ties_stored_twice(
    revision: Revision, model_class: type[PreTrainedModel], config: PreTrainedConfig
) -> bool:
    """True if a weight that is tied to another is stored too: then their values say whether it is."""
    ties = getattr(config.get_text_config(), "tie_word_embeddings", True)
    tied = tuple(getattr(model_class, "_tied_weights_keys", None) or ()) if ties else ()
    return any(tensor.name.endswith(name) for tensor in revision.tensors for name in tied)


def _views(revision: Revision, landed: Landed) -> dict[str, torch.Tensor]:
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


def _spans(weights: Mapping[str, torch.Tensor], buffer: memoryview) -> dict[str, range | None]:
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


def _copied_bytes(model: PreTrainedModel, buffer: memoryview) -> int:
    weights = model.state_dict(keep_vars=True)
    outside = {name for name, span in _spans(weights, buffer).items() if span is None}
    return sum({weights[name].data_ptr(): weights[name].nbytes for name in outside}.values())


def units(model: nn.Module, names: Collection[str]) -> Iterator[tuple[nn.Module, list[str]]]:
    """The modules that wait, and which of `names`, those of its state dict, each waits for."""
    inside: tuple[str, ...] = ()
    stored = set(names)
    for path, module in model.named_modules():
        if path.startswith(inside):
            continue
        prefix = f"{path}." if path else ""
        if isinstance(module, ModuleList):
            layers = _by_layer(names, prefix)
            for number, layer in enumerate(module):
                yield layer, layers.get(str(number), [])
            inside = (*inside, prefix)
        else:
            own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
            yield module, [f"{prefix}{part}" for part, _ in own if f"{prefix}{part}" in stored]


def _by_layer(names: Iterable[str], prefix: str) -> dict[str, list[str]]:
    """The names below a list of modules, by the number that comes next."""
    found: dict[str, list[str]] = {}
    for name in names:
        if name.startswith(prefix):
            found.setdefault(name[len(prefix) :].partition(".")[0], []).append(name)
    return found


class Gates:
    """Makes a model wait for its bytes where it needs them, once.

    A layer (an entry of an outermost module list) waits for all its weights before anything in it runs,
    any other module for those it owns itself.
    """

    def __init__(
        self, model: PreTrainedModel, revision: Revision, landed: Landed, spans: Mapping[str, range | None]
    ) -> None:
        """`spans`: for each weight the bytes of the landing that it views."""
        self._landed = landed
        places = landed.layout
        order = sorted((places.place(extent), number) for number, extent in enumerate(revision.extents))
        self._starts, self._numbers = [start for start, _ in order], [number for _, number in order]
        self._closed: dict[nn.Module, Any] = {}
        self.waited_ms = 0.0
        """Time that forward passes spent waiting for bytes."""
        for module, names in units(model, spans):
            numbers = {number for name in names if (span := spans[name]) for number in self._extents_of(span)}
            if numbers:
                self._closed[module] = module.register_forward_pre_hook(self._hook(sorted(numbers)))

    @property
    def num_closed(self) -> int:
        """Modules that have not run yet."""
        return len(self._closed)

    def figures(self) -> dict[str, float]:
        """See `Waits`: bytes land without the engine."""
        return {}

    def open_all(self) -> None:
        """Wait for every byte and take all gates away."""
        self._landed.wait_all()
        for handle in self._closed.values():
            handle.remove()
        self._closed.clear()

    def _extents_of(self, span: range) -> list[int]:
        first = bisect_right(self._starts, span.start) - 1
        return self._numbers[max(0, first) : bisect_right(self._starts, span.stop - 1)]

    def _hook(self, numbers: list[int]) -> Any:
        def wait(module: nn.Module, _args: Any) -> None:
            started = time.perf_counter()
            for number in numbers:
                self._landed.wait_extent(number)
            self.waited_ms += (time.perf_counter() - started) * 1000
            self._closed.pop(module).remove()

        return wait

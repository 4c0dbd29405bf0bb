"""From landed bytes to a model on a device: tensors in execution order, filled through the pinned ring.

transformers makes the model first, from views of memory that is never touched (a *shadow* of the weights, in the
dtypes they will compute in), so that its own rules for names, ties and buffers hold before a byte is here. Each
weight that is a stored tensor's shadow then gets its place on the device. If any is not (merged experts, a tied
pair that is stored twice, modules kept in float32), the model is filled in host memory and copied as it is.
"""

from __future__ import annotations

import mmap
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from inference.engine.attach.filling import filled
from inference.engine.attach.gates import units
from inference.engine.attach.views import COMPUTED, DTYPES, NAMED, stored_dtype
from inference.engine.attach.weights import Attached, attach, ties_stored_twice
from inference.engine.gpu.copier import Copier, Target
from inference.engine.gpu.ring import Part, Ring, parts_of
from weights_cache.memory.pages import MAP_NORESERVE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

    from inference.engine.attach.gates import Landed
    from inference.engine.gpu.device import Device
    from weights_cache.model.revision import Revision, TensorEntry

PLACE_BYTES = 256
"""Every tensor starts on so many bytes of the device, whatever its file did: cuBLAS wants 16, a read 128."""


Key = tuple[int, torch.dtype, tuple[int, ...], tuple[int, ...]]
"""One tensor as it lies in memory: where, and what is seen there."""
K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class Shape:
    """One weight as it computes."""

    dtype: torch.dtype
    size: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Of its elements."""
        return torch.Size(self.size).numel() * self.dtype.itemsize


def attach_on(
    device: Device,
    revision: Revision,
    landed: Landed,
    model_class: type[PreTrainedModel],
    config: PreTrainedConfig,
    *,
    dtype: str,
    gated: bool,
    ring: Ring | None = None,
) -> Attached:
    """As `inference.engine.attach.weights.attach`, with the model's weights and buffers on `device`.

    Raises:
        AttachError: a weight is missing or has another shape.
        LandingError: the bytes do not land.
        DeviceError: they do not fit there, or a copy failed.
    """
    ring = ring or Ring()
    if not ties_stored_twice(revision, model_class, config):
        target = NAMED.get(dtype) or stored_dtype(revision.tensors)
        model, names = _shadow_model(revision, model_class, config, target)
        if names is not None:
            return _through_the_ring(device, ring, revision, landed, model, names, gated=gated)
    found = attach(revision, landed, model_class, config, dtype=dtype, gated=False)
    copier = move_whole(device, ring, found.model)
    return Attached(found.model, found.copied_bytes, None, copier)


def _through_the_ring(
    device: Device,
    ring: Ring,
    revision: Revision,
    landed: Landed,
    model: PreTrainedModel,
    names: dict[str, int],
    *,
    gated: bool,
) -> Attached:
    """Give the model its tensors on the device, and fill them from the landing."""
    parts = [*parts_of(revision.extents, revision.tensors, landed.layout)]
    weights = model.state_dict(keep_vars=True)
    used = {index: weights[name] for name, index in names.items()}
    order = [*dict.fromkeys(part.tensor for part in parts if part.tensor in used)]
    made = _places(device, {index: _shape(used[index]) for index in order})
    targets = {
        index: Target(tensor.flatten(), DTYPES[revision.tensors[index].dtype])
        for index, tensor in made.items()
    }
    _move(model, {_key(used[index]): tensor for index, tensor in made.items()}, device)
    copier = Copier(device, ring, LandedBytes(landed), targets)
    wanted = [part for part in parts if part.tensor in made]
    if not gated:
        copier.run(wanted)
        return Attached(model, 0, None, copier)
    gates = DeviceGates(model, names, wanted, copier)
    copier.start(wanted)
    return Attached(model, 0, gates, copier)


def move_whole(device: Device, ring: Ring, model: nn.Module) -> Copier:
    """Copy a model that is whole in host memory. Raises DeviceError."""
    weights = {
        _key(tensor): tensor.data for tensor in model.state_dict(keep_vars=True).values() if tensor.nbytes
    }
    made = _places(device, {key: _shape(tensor) for key, tensor in weights.items()})
    targets = {n: Target(tensor.flatten(), tensor.dtype) for n, tensor in enumerate(made.values())}
    held = HeldBytes([tensor.contiguous() for tensor in weights.values()])
    _move(model, made, device)
    copier = Copier(device, ring, held, targets)
    copier.run([Part(n, 0, n, 0, 0, tensor.nbytes) for n, tensor in enumerate(held.tensors)])
    return copier


def _shadow_model(
    revision: Revision, model_class: type[PreTrainedModel], config: PreTrainedConfig, target: torch.dtype
) -> tuple[PreTrainedModel, dict[str, int] | None]:
    """A model of views of untouched memory, and which tensor each of its weights is; None if one is not any."""
    shapes = [_computed_shape(tensor, target) for tensor in revision.tensors]
    starts, num_bytes = _laid_out(shapes)
    memory = mmap.mmap(-1, max(1, num_bytes), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
    flat = torch.frombuffer(memory, dtype=torch.uint8)
    views = [_view(flat, start, shape) for start, shape in zip(starts, shapes, strict=True)]
    by_name = {tensor.name: view for tensor, view in zip(revision.tensors, views, strict=True)}
    model = filled(model_class, config, by_name, target)
    known = {_key(view): number for number, view in enumerate(views) if view.nbytes}
    found = {
        name: known.get(_key(weight), -1)
        for name, weight in model.state_dict(keep_vars=True).items()
        if weight.nbytes
    }
    return model, None if -1 in found.values() else found


def _computed_shape(tensor: TensorEntry, target: torch.dtype) -> Shape:
    return Shape(target if tensor.dtype in COMPUTED else DTYPES[tensor.dtype], tuple(tensor.shape))


def _key(tensor: torch.Tensor) -> Key:
    return tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()


def _shape(tensor: torch.Tensor) -> Shape:
    return Shape(tensor.dtype, tuple(tensor.shape))


def _laid_out(shapes: Sequence[Shape]) -> tuple[list[int], int]:
    """Where each starts, one after another, and the bytes of all."""
    starts, at = [], 0
    for shape in shapes:
        starts.append(at)
        at += shape.num_bytes + -shape.num_bytes % PLACE_BYTES
    return starts, at


def _view(flat: torch.Tensor, start: int, shape: Shape) -> torch.Tensor:
    if not shape.num_bytes:
        return torch.empty(shape.size, dtype=shape.dtype, device=flat.device)
    return flat[start : start + shape.num_bytes].view(shape.dtype).view(shape.size)


def _places(device: Device, shapes: dict[K, Shape]) -> dict[K, torch.Tensor]:
    """One piece of device memory, and in it the tensors in their order. Raises DeviceError."""
    starts, num_bytes = _laid_out([*shapes.values()])
    flat = device.empty(num_bytes)
    return {
        key: _view(flat, start, shape) for (key, shape), start in zip(shapes.items(), starts, strict=True)
    }


def _move(model: nn.Module, made: dict[Key, torch.Tensor], device: Device) -> None:
    """Put weights in the places made for them (by where they lay), and every other buffer on the device.

    Modules keep their `Parameter`s, so what was tied stays tied.
    """
    for weight in model.parameters():
        weight.data = _moved(weight.data, made, device)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = _moved(buffer, made, device)  # noqa: SLF001 - as torch's own `_apply`


def _moved(tensor: torch.Tensor, made: dict[Key, torch.Tensor], device: Device) -> torch.Tensor:
    place = made.get(_key(tensor)) if tensor.nbytes else None
    return tensor.to(device.torch_device) if place is None else place


class LandedBytes:
    """The landing as a `Source`."""

    def __init__(self, landed: Landed) -> None:
        self._landed = landed
        buffer = landed.buffer
        self._flat = torch.frombuffer(buffer, dtype=torch.uint8) if len(buffer) else torch.empty(0)

    def wait(self, extent: int) -> None:
        """See `Source`."""
        self._landed.wait_landed(extent)

    def read(self, part: Part) -> torch.Tensor:
        """See `Source`."""
        return self._flat[part.source : part.source + part.length]


class HeldBytes:
    """Whole tensors in host memory as a `Source`."""

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        self.tensors = tensors

    def wait(self, extent: int) -> None:
        """They are here."""

    def read(self, part: Part) -> torch.Tensor:
        """See `Source`."""
        flat = self.tensors[part.tensor].flatten().view(torch.uint8)
        return flat[part.start : part.start + part.length]


class DeviceGates:
    """As `inference.engine.attach.weights.Gates`: each module's first pass waits for the last layer that it needs."""

    def __init__(
        self, model: nn.Module, names: dict[str, int], parts: Sequence[Part], copier: Copier
    ) -> None:
        self._copier = copier
        self._closed: dict[nn.Module, Any] = {}
        self.waited_ms = 0.0
        """Time that forward passes spent until the copies they need were under way; the device's own wait for
        them is part of the pass."""
        last = {part.tensor: part.layer for part in parts}
        for module, owned in units(model, model.state_dict()):
            layers = [last[names[name]] for name in owned if name in names]
            if layers:
                self._closed[module] = module.register_forward_pre_hook(self._hook(max(layers)))

    @property
    def num_closed(self) -> int:
        """Modules that have not run yet."""
        return len(self._closed)

    def figures(self) -> dict[str, float]:
        """See `Waits`: how long the copies took, once all are done."""
        took_ms = self._copier.h2d_ms
        return {} if took_ms is None else {"h2d_ms": round(took_ms, 3)}

    def _hook(self, layer: int) -> Any:
        def wait(module: nn.Module, _args: Any) -> None:
            started = time.perf_counter()
            self._copier.wait_layer(layer)
            self.waited_ms += (time.perf_counter() - started) * 1000
            self._closed.pop(module).remove()

        return wait

"""What the engine asks of a device: memory, pinned memory, copies that go on by themselves, events, recorded work.

`Device` is all that moving weights and computing steps need, so that both are tested on a machine without a GPU, by
a device whose copies come as late as they may. `Cuda` is the real one. Nothing here runs before a fork.
"""

from __future__ import annotations

import gc
import importlib.util
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from inference.devices import CPU
from inference.engine.gpu.norms import Gain
from inference.engine.gpu.ring import Ring

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

    from inference.engine.gpu.graphs import Graph
    from inference.engine.gpu.paged import Kernels


class DeviceError(Exception):
    """The device cannot be used, or a copy to it failed; `code` and a sentence."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Mark(Protocol):
    """A point in what a stream was told to do, as `torch.cuda.Event` is one."""

    def record(self, stream: Any) -> None:
        """Set the point behind everything that the stream was told so far."""

    def synchronize(self) -> None:
        """Have the host wait until the point is reached; a mark that was not recorded is reached."""

    def wait(self) -> None:
        """Have everything that is computed from now on wait for the point, and the host go on."""


class Fetched(Protocol):
    """A device's tensor on its way to the host."""

    def wait(self) -> torch.Tensor:
        """The host's copy, when it is here."""


class Device(Protocol):
    """One accelerator."""

    @property
    def torch_device(self) -> torch.device:
        """Where its tensors are."""

    def empty(self, num_bytes: int) -> torch.Tensor:
        """Device memory with anything in it: [num_bytes] uint8. Raises DeviceError."""

    def pinned(self, num_bytes: int) -> torch.Tensor:
        """Host memory that the device reads by itself: [num_bytes] uint8. Raises DeviceError."""

    def stream(self) -> Any:
        """A side stream: what it is told happens in order, beside what is computed."""

    def copy(self, stream: Any, target: torch.Tensor, source: torch.Tensor) -> None:
        """Tell the stream to copy, converting the dtype; `source` stays as it is until a mark behind it."""

    def event(self) -> Mark:
        """A mark, not recorded yet."""

    def put(self, tensor: torch.Tensor) -> torch.Tensor:
        """A host tensor on the device, for what is computed from now on; the host does not wait."""

    def fetch(self, tensor: torch.Tensor) -> Fetched:
        """Begin to copy a tensor to the host, behind what was computed so far; nobody may change it until then."""

    def capture(self, work: Callable[[], torch.Tensor]) -> tuple[Graph, torch.Tensor]:
        """Record what `work` does; a replay's result lies in the tensor. Raises RuntimeError."""

    def free_bytes(self) -> int:
        """Memory that can still be had."""

    def kernels(self) -> Kernels:
        """What attention is made of here. Raises DeviceError."""


class Cuda:
    """A CUDA device, its context up."""

    def __init__(self, name: str) -> None:
        self.torch_device = torch.device(name)
        self._graph_pool: Any = None
        self._recording: torch.cuda.Stream | None = None
        num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (self.torch_device.index or 0) >= num_gpus:
            message = f"{name} cannot be used: torch {torch.__version__} finds {num_gpus} GPUs here"
            raise DeviceError("device_unavailable", message)
        try:
            torch.cuda.set_device(self.torch_device)  # of this thread: pinned memory belongs to a context
            warm_up(self.torch_device)
        except RuntimeError as cause:
            raise DeviceError("device_unavailable", f"{name} cannot be used: {cause}") from cause

    def empty(self, num_bytes: int) -> torch.Tensor:
        """See `Device`."""
        try:
            return torch.empty(num_bytes, dtype=torch.uint8, device=self.torch_device)
        except torch.OutOfMemoryError as cause:
            free_bytes, _ = torch.cuda.mem_get_info(self.torch_device)
            message = f"{self.torch_device} has {free_bytes:,} bytes free, and {num_bytes:,} are needed"
            raise DeviceError("device_memory_full", message) from cause

    def pinned(self, num_bytes: int) -> torch.Tensor:
        """See `Device`."""
        try:
            return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)
        except RuntimeError as cause:
            message = f"{num_bytes:,} bytes of host memory could not be pinned: {cause}"
            raise DeviceError("pinned_memory_full", message) from cause

    def stream(self) -> torch.cuda.Stream:
        """See `Device`. It waits for what was computed so far: memory given out again may still be in use there."""
        side: torch.cuda.Stream = torch.cuda.Stream(self.torch_device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(self.torch_device))
        return side

    def copy(self, stream: torch.cuda.Stream, target: torch.Tensor, source: torch.Tensor) -> None:
        """See `Device`."""
        with torch.cuda.stream(stream):
            target.copy_(source, non_blocking=True)

    def event(self) -> Mark:
        """See `Device`."""
        mark: Mark = torch.cuda.Event()  # type: ignore[no-untyped-call]
        return mark

    def put(self, tensor: torch.Tensor) -> torch.Tensor:
        """See `Device`. torch keeps the pinned memory until the copy is done."""
        return tensor.pin_memory().to(self.torch_device, non_blocking=True)

    def fetch(self, tensor: torch.Tensor) -> Fetched:
        """See `Device`."""
        target = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        stream = torch.cuda.current_stream(self.torch_device)
        self.copy(stream, target, tensor)
        mark = self.event()
        mark.record(stream)
        return Marked(target, mark)

    def capture(self, work: Callable[[], torch.Tensor]) -> tuple[Graph, torch.Tensor]:
        """See `Device`. All graphs share one pool and one stream, whose memory they use again: one runs at a time.

        By hand, since `torch.cuda.graph` walks the whole heap and gives all cached memory back first: 0.7 s in a
        request's way (measured). What the collector would free meanwhile might not be freed in a capture, so it rests.
        """
        if self._recording is None:
            self._graph_pool, self._recording = torch.cuda.graph_pool_handle(), self.stream()
        graph, stream = torch.cuda.CUDAGraph(), self._recording
        torch.cuda.synchronize(self.torch_device)
        with _collector_at_rest(), torch.cuda.stream(stream):
            graph.capture_begin(pool=self._graph_pool, capture_error_mode="thread_local")
            try:
                found = work()
            finally:
                graph.capture_end()
        torch.cuda.current_stream(self.torch_device).wait_stream(stream)
        return graph, found

    def free_bytes(self) -> int:
        """See `Device`. What torch holds and does not use counts as free."""
        free_bytes, _ = torch.cuda.mem_get_info(self.torch_device)
        unused = torch.cuda.memory_reserved(self.torch_device) - torch.cuda.memory_allocated(
            self.torch_device
        )
        return int(free_bytes + unused)

    def kernels(self) -> Kernels:
        """See `Device`."""
        try:
            from inference.engine.gpu.kernels import TritonKernels  # noqa: PLC0415 - torch's CPU build has no Triton
        except ImportError as cause:
            message = (
                f"attention on {self.torch_device} needs Triton, which torch's CUDA build brings: {cause}"
            )
            raise DeviceError("device_unavailable", message) from cause
        properties = torch.cuda.get_device_properties(self.torch_device)
        return TritonKernels(properties.multi_processor_count)


@dataclass(frozen=True, slots=True)
class Marked:
    """Memory that a copy writes, and the mark behind it."""

    target: torch.Tensor
    mark: Mark

    def wait(self) -> torch.Tensor:
        """See `Fetched`."""
        self.mark.synchronize()
        return self.target


@contextmanager
def _collector_at_rest() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def warm_up(device: torch.device) -> None:
    """Do once what a first pass would wait for: context, allocator, a matrix product's library, and Triton's driver."""
    square = torch.ones(16, 16, device=device)
    if importlib.util.find_spec("triton") is not None:
        from inference.engine.gpu.norm_kernel import normalise  # noqa: PLC0415 - torch's CPU build has no Triton

        square = normalise(square, square[0], 1e-6, Gain.ROUNDED)
    (square @ square).sum().item()  # comes back when it is done


def open_device(name: str) -> Device | None:
    """The device of that name (`inference.devices`); None for the CPU, whose weights are views of the landing.

    Raises:
        DeviceError: there is none, or it cannot be used.
    """
    return None if name == CPU else Cuda(name)


def bring_up(name: str) -> str:
    """What a process may do before it knows its model; gives what went wrong, or nothing.

    The ring's memory is pinned once: torch keeps it, and it takes 0.11 s for 128 MiB (measured, H200).
    """
    try:
        device, ring = open_device(name), Ring()
        slots = [] if device is None else [device.pinned(ring.slot_bytes) for _ in range(ring.num_slots)]
    except DeviceError as fault:
        return fault.message
    slots.clear()
    return ""


def device_of(model: nn.Module) -> torch.device:
    """Where a model computes: where its weights are."""
    weights: Iterator[torch.Tensor] = model.parameters()
    return next(weights).device

"""What the engine asks of a device: memory, pinned memory, copies that go on by themselves, and events.

`Device` is all that moving weights needs, so that the way they take is tested on a machine without a GPU, by a
device whose copies come as late as they may. `Cuda` is the real one. Nothing here runs before a fork.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch

from inference.devices import CPU

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn


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


class Cuda:
    """A CUDA device, its context up."""

    def __init__(self, name: str) -> None:
        self.torch_device = torch.device(name)
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


def warm_up(device: torch.device) -> None:
    """Do once what a first pass would wait for: the context, the allocator, a matrix product's library."""
    square = torch.ones(16, 16, device=device)
    (square @ square).sum().item()  # comes back when it is done


def open_device(name: str) -> Device | None:
    """The device of that name (`inference.devices`); None for the CPU, whose weights are views of the landing.

    Raises:
        DeviceError: there is none, or it cannot be used.
    """
    return None if name == CPU else Cuda(name)


def bring_up(name: str) -> str:
    """What a process may do before it knows its model; gives what went wrong, or nothing."""
    try:
        open_device(name)
    except DeviceError as fault:
        return fault.message
    return ""


def device_of(model: nn.Module) -> torch.device:
    """Where a model computes: where its weights are."""
    weights: Iterator[torch.Tensor] = model.parameters()
    return next(weights).device

"""Sends the slots of `inference.engine.gpu.ring` to a device: weights go over while they land, and layers may run."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inference.engine.gpu.device import DeviceError
from inference.engine.gpu.ring import MarkLayer, MarkSlot, Send, SendStep, WaitFill, sends
from inference.engine.gpu.ring_fill import Filler
from weights_cache.memory.view import LandingError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from inference.engine.gpu.device import Device, Mark
    from inference.engine.gpu.ring import Part, Ring
    from inference.engine.gpu.ring_fill import Source


@dataclass(frozen=True, slots=True)
class Target:
    """One tensor on the device, flat: as it computes, and the dtype its bytes arrive in."""

    flat: torch.Tensor
    stored: torch.dtype


class Copier:
    """Brings every part to its target, once: in this thread (`run`) or beside it (`start`).

    What is sent is one thread's work; `wait_layer` and the figures are for others. A landing or a copy that fails
    ends it, and everybody who waits is told the same fault.
    """

    def __init__(self, device: Device, ring: Ring, source: Source, targets: Mapping[int, Target]) -> None:
        self._device, self._ring = device, ring
        self._source, self._targets = source, targets
        self._changed = threading.Condition()
        self._marks: dict[int, Mark] = {}
        self._fault: LandingError | DeviceError | None = None
        self._slots: list[torch.Tensor] = []
        self._scratch: dict[int, torch.Tensor] = {}
        self._events: list[Mark] = []
        self._stream: Any = None
        self.num_bytes = 0
        """Bytes that the device was told to copy."""
        self.planned_bytes = 0
        """Bytes that it will have been told in the end."""
        self.waited_ms = 0.0
        """Time in which nothing was here to be copied."""
        self.total_ms: float | None = None
        """From the first step to the last byte on the device; None until then."""

    def start(self, parts: Sequence[Part]) -> None:
        """Copy in a thread of its own; the process may end without waiting for it. Raises DeviceError."""
        self._prepare(parts)
        thread = threading.Thread(target=self._guarded, args=(parts,), name="nf-copier", daemon=True)
        thread.start()

    def run(self, parts: Sequence[Part]) -> None:
        """Copy, and return when everything is on the device. Raises LandingError, DeviceError."""
        self._prepare(parts)
        self._guarded(parts)
        if self._fault is not None:
            raise self._fault

    def wait_layer(self, layer: int) -> None:
        """Let what is computed next wait for a layer's bytes; the host waits only until the copies are told.

        Raises:
            LandingError: bytes of the weights will not land.
            DeviceError: a copy failed.
        """
        with self._changed:
            self._changed.wait_for(lambda: layer in self._marks or self._fault is not None)
        if self._fault is not None:
            raise self._fault
        try:
            self._marks[layer].wait()
        except RuntimeError as cause:  # the copies were told, and then failed: it may be seen here first
            raise _failed(cause) from cause

    @property
    def h2d_ms(self) -> float | None:
        """What the copies took, without the wait for bytes; None until the last one is done."""
        return None if self.total_ms is None else self.total_ms - self.waited_ms

    def _prepare(self, parts: Sequence[Part]) -> None:
        """Pinned memory is a context's: it is taken where the context is current, in the caller's thread."""
        self.planned_bytes = sum(part.length for part in parts)
        self._slots = [self._device.pinned(self._ring.slot_bytes) for _ in range(self._ring.num_slots)]
        self._events = [self._device.event() for _ in self._slots]
        self._stream = self._device.stream()

    def _guarded(self, parts: Sequence[Part]) -> None:
        filler = Filler(self._ring, self._source, self._slots, self._events)
        try:
            filler.start(parts)
            self._copy(parts, filler)
        except (LandingError, DeviceError) as fault:
            self._fail(fault)
        except (RuntimeError, OSError, ValueError) as cause:  # what torch raises for a device's fault
            self._fail(_failed(cause))
        finally:
            filler.stop()
            self._slots, self._events, self._scratch = [], [], {}  # pinned memory is for the start alone

    def _fail(self, fault: LandingError | DeviceError) -> None:
        with self._changed:
            self._fault = fault
            self._changed.notify_all()

    def _copy(self, parts: Sequence[Part], filler: Filler) -> None:
        started = time.perf_counter()
        last = None
        for step in sends(parts, self._ring):
            last = self._take(step, filler) or last
        if last is not None:
            last.synchronize()
        self.total_ms = (time.perf_counter() - started) * 1000

    def _take(self, step: SendStep, filler: Filler) -> Mark | None:
        match step:
            case WaitFill():
                self._wait_fill(step.slot, filler)
            case Send():
                self._send(step)
            case MarkSlot():
                self._events[step.slot].record(self._stream)
                filler.give_back()
            case MarkLayer():
                return self._mark(step.layer)
        return None

    def _wait_fill(self, slot: int, filler: Filler) -> None:
        """What was waited for bytes that were not here counts as such; for their copy to the slot it does not."""
        started = time.perf_counter()
        here = min(filler.wait(slot), time.perf_counter())
        self.waited_ms += max(0.0, here - started) * 1000

    def _send(self, step: Send) -> None:
        """Bytes go straight to their tensor; those of another dtype to the slot's double there, and on from it."""
        target, part = self._targets[step.part.tensor], step.part
        size, came = target.stored.itemsize, self._bytes_of(self._slots, step)
        own = target.flat[part.start // size : (part.start + part.length) // size]
        self.num_bytes += part.length
        if target.flat.dtype == target.stored:
            self._device.copy(self._stream, own, came.view(target.stored))
            return
        if step.slot not in self._scratch:
            self._scratch[step.slot] = self._device.empty(self._ring.slot_bytes)
        there = self._bytes_of(self._scratch, step).view(target.stored)
        self._device.copy(self._stream, there, came.view(target.stored))
        self._device.copy(self._stream, own, there)

    def _mark(self, layer: int) -> Mark:
        mark = self._device.event()
        mark.record(self._stream)
        with self._changed:
            self._marks[layer] = mark
            self._changed.notify_all()
        return mark

    @staticmethod
    def _bytes_of(slots: Sequence[torch.Tensor] | dict[int, torch.Tensor], step: Send) -> torch.Tensor:
        return slots[step.slot][step.at : step.at + step.part.length]


def _failed(cause: Exception) -> DeviceError:
    return DeviceError("copy_failed", f"weights could not be copied to the device: {cause}")

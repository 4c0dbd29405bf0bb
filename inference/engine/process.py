"""The engine process: one model, one thread of control, orders in and tokens out over the link.

`run` is what the shell calls in a freshly forked child. It attaches the weights, says `ready` and then
steps: hear every order that is here, compute one step, send what happened. Orders may be sent at once,
they wait in the link until the engine is ready. A fault in one request's work fails that request; any
other ends the process with a last `fatal` message.
"""

from __future__ import annotations

import gc
import os
import socket
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import torch

from inference.engine.attach.ahead import map_ahead
from inference.engine.attach.mold import Mold, Steps, fit, most_tokens
from inference.engine.attach.weights import Attached, attach
from inference.engine.embed import Encoder, Scorer
from inference.engine.embedding import EmbedLoop
from inference.engine.freed import keep_freed
from inference.engine.generation import GenerateLoop
from inference.engine.gpu.attach import attach_on
from inference.engine.gpu.blocks import BlockPool
from inference.engine.gpu.device import open_device
from inference.engine.gpu.pace import DevicePace
from inference.engine.gpu.paged_model import PagedModel
from inference.engine.gpu.ring import WHILE_LANDING, Ring
from inference.engine.gpu.room import DeviceRoom
from inference.engine.linear.int8 import check_processor, quantise
from inference.engine.linear.packing import Growth
from inference.engine.model import SlotModel, drafter_of, shares_a_pass
from inference.engine.orders.asked import Bounds
from inference.engine.steps.gather import Gather
from inference.engine.steps.scheduler import Scheduler
from inference.link import EngineLink, LinkError
from inference.usage.meter import Meter
from inference.usage.own_log import OwnLog
from weights_cache.memory.view import LandingView

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from inference.engine.gpu.device import Device
    from inference.engine.linear.packing import Packing
    from inference.engine.model import StepModel
    from inference.engine.steps.slots import SlotPlan
    from inference.spec import EngineSpec
    from weights_cache.model.plan import Layout

MAX_MESSAGE_CHARS = 2000
"""Of a fatal message: torch quotes whole lists of names."""
PROGRESS_S = 0.25
"""Between two `progress` messages: the node passes them on at most four times a second."""


def run(spec: EngineSpec, landing_fds: Sequence[int], link_fd: int, mold: Mold | None = None) -> NoReturn:
    """Be an engine until the node says stop or goes away. Owns the descriptors. Never returns.

    `mold`: of the same revision, if the shell has one.
    """
    link = EngineLink(socket.socket(fileno=link_fd))
    status = 1
    try:
        with FatalReport(link):
            torch.set_num_threads(spec.num_threads)
            keep_freed()
            gc.disable()  # what a start makes stays: looking through it again and again took a third of an attach
            _serve(spec, landing_fds, link, mold)
        status = 0
    finally:
        os._exit(status)


class FatalReport:
    """Whatever ends the engine is told to the node first, as one `fatal` message, and then raised on.

    Only a node that went away is no fault: there is nobody left to serve.
    """

    def __init__(self, link: EngineLink) -> None:
        self._link = link

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if fault is None or self._link.closed:
            return isinstance(fault, LinkError)
        code, message = str(getattr(fault, "code", "engine_failed")), f"{type(fault).__name__}: {fault}"
        with suppress(LinkError):
            self._link.send([{"op": "fatal", "code": code, "message": message[:MAX_MESSAGE_CHARS]}])
        return False


def _serve(
    spec: EngineSpec, landing_fds: Sequence[int], link: EngineLink, inherited: Mold | None = None
) -> None:
    started = time.perf_counter()
    mold = inherited if inherited is not None and inherited.fits(spec) else Mold(spec)
    revision, config = mold.revision, mold.config
    fd, ready_fd, event_fd, *mapped_fds = landing_fds
    view = LandingView(mold.addresses, fd, ready_fd, event_fd, mapped_fds)
    landed = ToldLanding(view, link, len(revision.extents))
    opening = time.perf_counter()
    device = open_device(spec.device)
    context_ms = (time.perf_counter() - opening) * 1000
    if device is None:
        map_ahead(view)
    if spec.quantize:
        check_processor(spec.device)
    may_gate = (
        spec.gated and not spec.quantize and revision.facts.kind == "generate" and shares_a_pass(config)
    ) and not (device is None and view.is_whole)  # nothing to wait for
    room = DeviceRoom(device, revision, spec) if device is not None else None
    if room is not None:
        room.check()
    take = partial(attach, made=mold.made) if device is None else partial(attach_on, device, ring=_ring(view))
    attached = take(revision, landed, mold.model_class, config, dtype=spec.dtype, gated=may_gate)
    growth, packing = Growth(), mold.packing
    quantised_bytes = quantise(attached.model) if spec.quantize else 0
    if device is None and mold.made is None:
        packing = fit(attached.model, spec, growth.pieces() if spec.quantize else ())
    attach_ms = (time.perf_counter() - started) * 1000 - landed.waited_ms
    gather = Gather(landed.share) if attached.gates is not None and device is None else None
    meter = Meter(_own_log(spec))
    loop = _loop(spec, mold, attached, link, room, gather, meter, packing)
    gc.freeze()
    gc.enable()
    warm_ms = (time.perf_counter() - started) * 1000 - landed.waited_ms - attach_ms
    phases = {"attach": attach_ms, "wait": landed.waited_ms, "warm": warm_ms}
    if device is not None:
        phases = on_device(phases, context_ms, attached)
    loop.serve(
        {
            "op": "ready",
            "phases": {name: round(ms, 3) for name, ms in phases.items()},
            "copied_bytes": attached.copied_bytes + quantised_bytes,
            "h2d_bytes": attached.copier.planned_bytes if attached.copier else 0,
            "gated": attached.gates is not None,
            "shares_cores": device is None,
            "molded": mold is inherited,
            "castable": device is None and not spec.quantize and not attached.copied_bytes,
        }
    )


def _ring(view: LandingView) -> Ring:
    """Through what the weights go to a device."""
    return Ring() if view.is_whole else WHILE_LANDING


def _own_log(spec: EngineSpec) -> OwnLog | None:
    """Where this engine writes down what it computes; a disk that has no room costs no start."""
    if not spec.usage_log:
        return None
    path = Path(spec.usage_log)
    try:
        return OwnLog(path.parent, path.name)
    except OSError:
        return None


def on_device(phases: dict[str, float], context_ms: float, attached: Attached) -> dict[str, float]:
    """A start's phases with the device's own taken out of `attach`; they stay exclusive.

    What a gated start still copies is no phase of it: the first request's prompt waits for that.
    """
    copier = attached.copier
    waited_ms, h2d_ms = 0.0, 0.0
    if copier is not None and attached.gates is None:
        waited_ms, h2d_ms = copier.waited_ms, copier.h2d_ms or 0.0
    return {
        "context": context_ms,
        **phases,
        "attach": phases["attach"] - context_ms - waited_ms - h2d_ms,
        "wait": phases["wait"] + waited_ms,
        "h2d": h2d_ms,
    }


def _loop(
    spec: EngineSpec,
    mold: Mold,
    attached: Attached,
    link: EngineLink,
    device_room: DeviceRoom | None,
    gather: Gather | None,
    meter: Meter,
    packing: Packing | None,
) -> GenerateLoop | EmbedLoop:
    config, facts = mold.config, mold.revision.facts
    most = most_tokens(spec, facts)
    if facts.kind != "generate":
        encoder = (
            Scorer(attached.model)
            if facts.kind == "rerank"
            else Encoder(attached.model, facts.pooling or "mean", normalize=facts.normalize)
        )
        bounds = Bounds(config.vocab_size, min(most, facts.context_tokens))
        return EmbedLoop(link, encoder, bounds, one_by_one=spec.deterministic, meter=meter, packing=packing)
    eos_ids = frozenset(facts.eos_token_ids)
    if device_room is not None and shares_a_pass(config) and not spec.deterministic:
        room = device_room.plan(most)
        scheduler, model = paged(device_room.device, attached, room, eos_ids)
    else:
        steps = mold.steps or Steps.of(attached.model, spec, mold.revision)
        room, model = steps.room, steps.model
        if attached.gates is None and isinstance(model, SlotModel):
            model.landed()
        pool = BlockPool(room.num_slots, room.num_blocks) if room.num_blocks else None
        drafter = drafter_of(model, attached.model, spec.num_speculative_tokens)
        scheduler = Scheduler(room.num_slots, eos_ids, num_pages=room.num_pages, pool=pool, drafter=drafter)
    bounds = Bounds(facts.vocab_size, room.max_len)
    return GenerateLoop(link, scheduler, model, attached.gates, bounds, room, gather, meter, packing)


def paged(
    device: Device, attached: Attached, room: SlotPlan, eos_ids: frozenset[int]
) -> tuple[Scheduler, StepModel]:
    """A device's scheduler and model, over the same blocks."""
    pool = BlockPool(room.num_slots, room.num_blocks)
    scheduler = Scheduler(room.num_slots, eos_ids, num_pages=room.num_pages, pool=pool, pace=DevicePace())
    gates = attached.gates
    model = PagedModel(
        *(attached.model, device, pool, room),
        is_whole=lambda: gates is None or not gates.num_closed,
    )
    return scheduler, model


class ToldLanding:
    """A landing whose long waits are told to the node as `progress`."""

    def __init__(self, view: LandingView, link: EngineLink, num_extents: int) -> None:
        self._view = view
        self._link = link
        self._num_extents = num_extents
        self.waited_ms = 0.0
        """Time spent in `wait_all`."""

    @property
    def buffer(self) -> memoryview:
        """The landing's bytes."""
        return self._view.buffer

    @property
    def layout(self) -> Layout:
        """Where each file's bytes are in it."""
        return self._view.layout

    def share(self) -> float:
        """How much of it is there: 1 for all."""
        return self._view.num_landed / self._num_extents if self._num_extents else 1.0

    def wait_extent(self, number: int) -> bool:
        """Wait for one extent; raises LandingError."""
        return self._view.wait_extent(number)

    def wait_landed(self, number: int) -> bool:
        """As `wait_extent`, but nothing of it is mapped yet."""
        return self._view.wait_landed(number)

    def wait_all(self) -> bool:
        """Wait for every extent, telling how many have landed; raises LandingError.

        Of one that is whole nothing is mapped here: whoever reads it does (`inference.engine.attach.ahead`).
        """
        if self._view.is_whole:
            return True
        started = time.perf_counter()
        while not self._view.wait_all(PROGRESS_S):
            done = self._view.num_landed
            self._link.send([{"op": "progress", "phase": "wait", "done": done, "total": self._num_extents}])
        self.waited_ms += (time.perf_counter() - started) * 1000
        return True

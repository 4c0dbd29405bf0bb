"""A step computed: its tokens, and whose fault it is where that fails. One row's fault fails that row alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from inference.engine.choose.sample import ROW_FAULTS, Broken, Sampled, Sampler
from inference.engine.choose.verify import chosen

if TYPE_CHECKING:
    from inference.engine.model import StepModel
    from inference.engine.steps.events import Event, Step
    from inference.engine.steps.scheduler import Scheduler

MAX_BAD_STEPS = 3
"""Steps in a row in which every single row failed: then it is the engine that is broken, not the requests."""


Said = dict[str, list[Sampled]]
"""A step's tokens by request: one, and before it those drafts that were right."""


class EngineBroken(Exception):
    """No request can be computed any more."""


class Computing:
    """`samplers` are those of the requests that run, by their ids; who adds one takes it out again."""

    def __init__(self, model: StepModel, scheduler: Scheduler) -> None:
        self.samplers: dict[str, Sampler] = {}
        self._model, self._scheduler = model, scheduler
        self._num_bad_steps = 0

    def step(self, step: Step) -> tuple[Said, list[Event]]:
        """The step's tokens, and the rows that failed. A fault in the whole makes each row go alone.

        Raises:
            EngineBroken: no request can be computed any more.
        """
        try:
            ids, logits = self._model.forward(step)
        except (
            torch.AcceleratorError
        ) as fault:  # a device gives the same fault to whatever is asked of it from now on
            raise EngineBroken(f"the device failed: {fault}") from fault
        except ROW_FAULTS as fault:
            return self._one_by_one(step, fault)
        self._num_bad_steps = 0
        return self._chosen(step, ids, logits)

    def _one_by_one(self, step: Step, fault: Exception) -> tuple[Said, list[Event]]:
        """Computing a row again is safe: it writes the same keys and values to the same places."""
        said: Said = {}
        failed: list[Event] = []
        for part in step:
            try:
                ids, logits = self._model.forward((part,))
            except ROW_FAULTS as caught:
                failed += self.fail(part.id, "engine_error", f"{type(caught).__name__}: {caught}")
                continue
            found, broken = self._chosen((part,), ids, logits)
            said |= found
            failed += broken
        self._num_bad_steps = self._num_bad_steps + 1 if len(failed) == len(step) else 0
        if self._num_bad_steps >= MAX_BAD_STEPS:
            raise EngineBroken(f"{self._num_bad_steps} steps in a row failed for every request") from fault
        return said, failed

    def _chosen(self, step: Step, ids: list[str], logits: torch.Tensor) -> tuple[Said, list[Event]]:
        said: Said = {}
        failed: list[Event] = []
        drafts = {part.id: part.drafts for part in step if part.num_drafts}
        for order_id, found in chosen(ids, logits, drafts, self.samplers, self._model.choose).items():
            if isinstance(last := found[-1], Broken):
                failed += self.fail(order_id, last.code, last.message)
            else:
                said[order_id] = [one for one in found if isinstance(one, Sampled)]
        return said, failed

    def fail(self, order_id: str, code: str, message: str) -> list[Event]:
        """One request leaves without an answer."""
        return self._scheduler.fail(order_id, code, message[:500])

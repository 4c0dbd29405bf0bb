"""Steps on a device: all rows in one forward pass, sampled where they are, and the next pass begun ahead.

When a step's tokens are on their way to the host, the device already has them: the rows that go on are fed from
there, and their next pass is told to the device before the host waits. So the host hears, plans and sends while the
device computes. What was begun ahead is only ever a pass: what the scheduler then plans takes from it the rows that
are there, and computes the others. A row that has ended meanwhile was computed for nothing, in its own blocks; the
device does things in order, so whoever gets those blocks writes after it. Sampling waits for the host's word, which
knows every token by then: grammars, penalties and random numbers are never guessed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from inference.engine.choose.sample import ROW_FAULTS
from inference.engine.gpu.graphs import DecodeGraphs, Records
from inference.engine.gpu.norms import fuse_norms
from inference.engine.gpu.paged import PagedAttention, PagedCache, PagedStep
from inference.engine.gpu.prompt_graphs import PromptGraphs
from inference.engine.gpu.sample import Choice

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from transformers import PreTrainedModel

    from inference.engine.choose.sample import Broken, Sampled, Sampler
    from inference.engine.gpu.blocks import BlockPool
    from inference.engine.gpu.device import Device
    from inference.engine.steps.events import Segment, Step
    from inference.engine.steps.slots import SlotPlan

Place = tuple[str, int, int]
"""One token to compute: whose, in which slot, at which position."""


@dataclass(frozen=True, slots=True)
class Ahead:
    """A pass that was begun before it was planned: its logits, [places, vocabulary]."""

    places: tuple[Place, ...]
    logits: torch.Tensor


class PagedModel:
    """One model on one device. `is_whole` says that every weight is there, and no pass waits for one."""

    def __init__(
        self,
        model: PreTrainedModel,
        device: Device,
        pool: BlockPool,
        room: SlotPlan,
        is_whole: Callable[[], bool] = lambda: True,
    ) -> None:
        self._model, self._device = model, device
        kernels = device.kernels()
        self._cache = PagedCache(pool, room, kernels, device.put, device.empty(room.kv_bytes))
        model.set_attn_implementation(PagedAttention(self._cache, kernels).name)
        fuse_norms(model, kernels)
        records, nobody = partial(Records, device, self._compute, is_whole), self._cache.nobody
        self.graphs = DecodeGraphs(records(), nobody)
        self.prompts = PromptGraphs(records(), nobody, device.put)
        self._last = device.put(torch.zeros(pool.num_slots + 1, dtype=torch.long))
        self._sampled: tuple[Segment, ...] = ()
        self._ahead: Ahead | None = None
        self.num_ahead = 0
        """Rows that were taken from a pass begun ahead."""

    @torch.inference_mode()
    def forward(self, step: Step) -> tuple[list[str], torch.Tensor]:
        """See `StepModel`; the logits stay on the device."""
        self._cache.set_tables(part.slot for part in step)
        ahead, self._ahead = self._ahead, None
        begun, rest = _divided(step, ahead)
        parts, logits = [], []
        if ahead is not None and begun:
            parts += begun
            taken = self._taken(ahead, begun)
            logits.append(taken.clone() if rest else taken)  # the next pass may write where these are
        if rest:
            ordered, found = self._pass(rest)
            parts += [part for part in ordered if part.samples]
            logits.append(found)
        self._sampled = tuple(parts)
        return [part.id for part in parts], torch.cat(logits) if len(logits) > 1 else logits[0]

    @torch.inference_mode()
    def choose(self, logits: torch.Tensor, samplers: Sequence[Sampler]) -> list[Sampled | Broken]:
        """See `StepModel`: those of the last `forward`. Begins the next pass before it waits for the tokens."""
        going = [not sampler.is_last for sampler in samplers]
        choice = Choice(logits.float(), samplers, self._device)
        slots = self._device.put(torch.tensor([part.slot for part in self._sampled]))
        self._last[slots] = choice.tokens
        rows = [part for part, goes_on in zip(self._sampled, going, strict=True) if goes_on]
        if rows:
            self._begin(rows)
        return choice.wait()

    def store(self, slot: int, start: int, pages: tuple[int, ...]) -> None:
        """See `StepModel`."""
        self._cache.keep(slot, start, pages)

    def release(self, slot: int, *, scrub: bool) -> None:
        """See `StepModel`. Nothing is scrubbed: no kernel reads what the row whose block it is did not write."""

    def _begin(self, rows: Sequence[Segment]) -> None:
        """Tell the device the next pass of these rows, one token each, from the tokens that it has."""
        places = tuple((part.id, part.slot, part.start + len(part.tokens)) for part in rows)
        moved = self._device.put(torch.tensor([[place[2], place[1]] for place in places]).T.contiguous())
        try:
            logits = self.graphs.run(torch.cat([self._last[moved[1]][None], moved]))
        except ROW_FAULTS:  # whoever's fault it is: the planned step will meet it, and tell
            return
        self._ahead = Ahead(places, logits)

    def _taken(self, ahead: Ahead, begun: Sequence[Segment]) -> torch.Tensor:
        self.num_ahead += len(begun)
        at = {place: row for row, place in enumerate(ahead.places)}
        rows = [at[_place(part)] for part in begun]
        if rows == [*range(len(ahead.places))]:
            return ahead.logits
        return ahead.logits[self._device.put(torch.tensor(rows))]

    def _pass(self, step: Step) -> tuple[Step, torch.Tensor]:
        for part in step:
            if part.pages:
                self._cache.restore(part.slot, 0, part.pages)
        if all(len(part.tokens) == 1 and part.samples for part in step):
            columns = [[part.tokens[0], part.start, part.slot] for part in step]
            return step, self.graphs.run(self._device.put(torch.tensor(columns).T.contiguous()))
        if (found := self.prompts.run(step)) is not None:
            return step, found
        ordered = tuple(sorted(step, key=lambda part: len(part.tokens) > 1))
        return ordered, self._compute(PagedStep.of(ordered, self._device.put))

    def _compute(self, step: PagedStep) -> torch.Tensor:
        self._cache.step = step
        out = self._model(
            input_ids=step.ids,
            position_ids=step.positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=step.sampled,
        )
        logits: torch.Tensor = out.logits[0]
        return logits


def _place(part: Segment) -> Place:
    return part.id, part.slot, part.start


def _divided(step: Step, ahead: Ahead | None) -> tuple[list[Segment], Step]:
    """The segments that were begun ahead, and the others; a row that came back behind kept pages is a new one."""
    known = set(ahead.places) if ahead is not None else set()
    begun: list[Segment] = []
    rest: list[Segment] = []
    for part in step:
        is_begun = _place(part) in known and len(part.tokens) == 1 and part.samples and not part.pages
        (begun if is_begun else rest).append(part)
    return begun, tuple(rest)

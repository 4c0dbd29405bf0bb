"""Where each token of a step lies, and which positions it may look at."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from inference.engine.steps.slots import side_by_side

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inference.engine.steps.events import Segment, Step

CPU = torch.device("cpu")
PIECE_TOKENS = 128
"""Queries of a chunk that attend together. Each of them is multiplied by every position up to the last one's, so of a
prompt's first 512 tokens nearly half of the scores would be made for the mask to take away, of four pieces a fifth."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Several tokens of one row; `token` is the index of the first in the step."""

    slot: int
    start: int
    count: int
    token: int

    def last(self, count: int) -> Chunk:
        """The last tokens of it."""
        before = self.count - count
        return Chunk(self.slot, self.start + before, count, self.token + before)

    def pieces(self) -> Iterator[Chunk]:
        """The chunk cut into parts of at most `PIECE_TOKENS`, in their order."""
        for at in range(0, self.count, PIECE_TOKENS):
            count = min(PIECE_TOKENS, self.count - at)
            yield Chunk(self.slot, self.start + at, count, self.token + at)


@dataclass(frozen=True, slots=True)
class Run:
    """One token of each of several rows in consecutive slots, the first of them token `token` of the step."""

    slot: int
    token: int
    lengths: tuple[int, ...]  # positions to attend to, the token's own included


class StepLayout:
    """Where each token of a step lies: rows with one token first (by slot), then the chunks.

    `ids` and `positions` are [1, num_tokens]; `sampled` holds the indices of the tokens whose logits are
    wanted, and `sampled_ids` their requests, one for each; `sampling_chunks` are those of chunks.
    """

    def __init__(self, step: Step, device: torch.device = CPU) -> None:
        singles = sorted((part for part in step if len(part.tokens) == 1), key=lambda part: part.slot)
        chunks = [part for part in step if len(part.tokens) > 1]
        ordered = [*singles, *chunks]
        self._device = device
        self.ids = torch.tensor([[token for part in ordered for token in part.tokens]], device=device)
        positions = [part.start + i for part in ordered for i in range(len(part.tokens))]
        self.positions = torch.tensor([positions], device=device)
        ends = list(itertools.accumulate(len(part.tokens) for part in ordered))
        wanted = [part.samples * (1 + part.num_drafts) for part in ordered]
        sampled = [at for count, end in zip(wanted, ends, strict=True) for at in range(end - count, end)]
        self.sampled = torch.tensor(sampled, dtype=torch.long, device=device)
        self.sampled_ids = [
            part.id for part, count in zip(ordered, wanted, strict=True) for _ in range(count)
        ]
        self.runs = _runs(singles)
        self.chunks = [
            Chunk(part.slot, part.start, len(part.tokens), end - len(part.tokens))
            for part, end in zip(chunks, ends[len(singles) :], strict=True)
        ]
        self.sampling_chunks = [
            chunk.last(count)
            for count, chunk in zip(wanted[len(singles) :], self.chunks, strict=True)
            if count
        ]
        self.single_slots = torch.tensor([part.slot for part in singles], dtype=torch.long, device=device)
        self.single_positions = self.positions[0, : len(singles)]
        self._masks: dict[tuple[Run | Chunk, int, torch.dtype | None], torch.Tensor | None] = {}

    def run_mask(
        self, run: Run, first: int, window: int, copies: int, dtype: torch.dtype | None = None
    ) -> torch.Tensor | None:
        """[rows, copies, 1, positions from `first`], true where a row may look; None when all look everywhere.

        For a `dtype`, what is added to the scores instead, as in `chunk_mask`.
        """
        key = run, window, dtype
        if key not in self._masks:
            mask = _run_mask(run, first, window, copies, self._device)
            self._masks[key] = mask if mask is None or dtype is None else _added(mask, dtype)
        return self._masks[key]

    def chunk_mask(
        self, chunk: Chunk, first: int, window: int, copies: int, dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        """[copies x tokens, positions from `first`]: causal, and within the window; the same for every layer.

        True: may look. For a `dtype`, what is added to the scores instead: attention makes that of any other mask, in
        each layer anew (a tenth of a step with a chunk, measured).
        """
        mask = self._masks.get((chunk, window, dtype))
        if mask is None:
            own = torch.arange(chunk.start, chunk.start + chunk.count, device=self._device)[:, None]
            seen = torch.arange(first, chunk.start + chunk.count, device=self._device)[None, :]
            mask = ((seen <= own) & (seen > own - window)).repeat(copies, 1)
            if dtype is not None:
                mask = _added(mask, dtype)
            self._masks[chunk, window, dtype] = mask
        return mask


def _added(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Nothing where the mask is true, minus infinity elsewhere."""
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, -torch.inf)


def _runs(singles: list[Segment]) -> list[Run]:
    slots, lengths = [part.slot for part in singles], [part.start + 1 for part in singles]
    cuts = side_by_side(slots, lengths)
    return [Run(slots[cut.start], cut.start, tuple(lengths[cut.start : cut.stop])) for cut in cuts]


def _run_mask(run: Run, first: int, window: int, copies: int, device: torch.device) -> torch.Tensor | None:
    longest = max(run.lengths)
    if min(run.lengths) == longest:
        return None
    lengths = torch.tensor(run.lengths, device=device)[:, None]
    seen = torch.arange(first, longest, device=device)[None, :]
    return ((seen < lengths) & (seen >= lengths - window))[:, None, None, :].repeat(1, copies, 1, 1)

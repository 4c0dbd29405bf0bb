"""Steps with prompts in them as recorded graphs.

A pass that is told kernel by kernel waits for the host: measured on an H200 with a model of 8B, 25 ms for a prompt of
128 tokens, of which the device needs 6. What a step holds is numbers in one tensor: each token's id, position and slot,
and each row's place among the tokens. A graph has room for so many tokens and for `MAX_ROWS` rows; the tokens behind
the step's own are nobody's, and rows without a token cost a program that ends at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from inference.engine.gpu.graphs import next_size
from inference.engine.gpu.paged import PagedStep, Rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from inference.engine.gpu.graphs import Records
    from inference.engine.steps.events import Step

TOKENS = (32, 64, 128, 256, 512, 1024)
"""Of the graphs: up to some 300 tokens a pass takes as long as reading the weights does."""
MAX_ROWS = 16
"""Of one step: those that decode were begun ahead, so these are new prompts."""


class PromptGraphs:
    """Computes steps of rows with any number of tokens, where they fit a graph."""

    def __init__(self, records: Records, nobody: int, put: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """`put` brings numbers to where the graphs read them."""
        self._records, self._nobody, self._put = records, nobody, put

    @property
    def sizes(self) -> list[int]:
        """What is captured."""
        return self._records.sizes

    def run(self, step: Step) -> torch.Tensor | None:
        """The logits [rows that sample, vocabulary], which the next run may overwrite; None: compute the plain way."""
        size = next_size(TOKENS, sum(len(part.tokens) for part in step))
        if size is None or len(step) > MAX_ROWS:
            return None
        found = self._records.of(size, lambda: self._nobodys(size))
        if found is None:
            return None
        found.inputs.copy_(self._put(torch.tensor(self._numbers(step, size), dtype=torch.long)))
        found.graph.replay()
        return found.logits[: sum(part.samples for part in step)]

    def _nobodys(self, size: int) -> tuple[torch.Tensor, PagedStep]:
        inputs = self._put(torch.tensor(self._numbers((), size), dtype=torch.long))
        return inputs, step_of(inputs, size)

    def _numbers(self, step: Step, size: int) -> list[int]:
        """See `step_of` for their order."""
        counts = [len(part.tokens) for part in step]
        firsts = [sum(counts[:row]) for row in range(len(counts))]
        columns = (
            ([token for part in step for token in part.tokens], size, 0),
            ([part.start + at for part in step for at in range(len(part.tokens))], size, 0),
            ([part.slot for part in step for _ in part.tokens], size, self._nobody),
            ([first + len(part.tokens) - 1 for first, part in zip(firsts, step, strict=True) if part.samples],
             MAX_ROWS, 0),
            ([part.slot for part in step], MAX_ROWS, self._nobody),
            (firsts, MAX_ROWS, 0),
            (counts, MAX_ROWS, 0),
            ([part.start for part in step], MAX_ROWS, 0),
        )  # fmt: skip
        return [number for own, room, pad in columns for number in (*own, *[pad] * (room - len(own)))]


def step_of(numbers: torch.Tensor, size: int) -> PagedStep:
    """The step whose numbers may be filled anew.

    They are ids, positions and slots of `size` tokens; sampled tokens, slots, first tokens, counts and starts of
    `MAX_ROWS` rows.
    """
    ids, positions, slots, sampled, own, firsts, counts, starts = torch.split(
        numbers, [size] * 3 + [MAX_ROWS] * 5
    )
    rows = Rows(slice(size), own, firsts, counts, starts, size)
    return PagedStep(ids[None], positions[None], slots, [rows], sampled)

"""Decode steps as recorded graphs: one launch for a step instead of a thousand, which small batches wait for.

A graph is of one size, so a step is padded to the next size with rows of nobody's. It is captured when steps of that
size have been computed a few times the plain way: the first tokens after a cold start do not wait for it, and by then
every kernel in it is compiled. A size that can't be captured is computed the plain way for good.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING, Protocol

import torch

from inference.engine.paged import PagedStep

if TYPE_CHECKING:
    from collections.abc import Callable

SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256)
"""Rows of the graphs: half as many again at most are padding, and nothing is where it matters, in a full batch."""
PLAIN_STEPS = 4
"""Of one size, before it is captured."""


class Graph(Protocol):
    """Recorded work on a device."""

    def replay(self) -> None:
        """Do it again, with what its inputs hold now."""


class Recorder(Protocol):
    """A device that records (`inference.engine.device.Device`)."""

    def capture(self, work: Callable[[], torch.Tensor]) -> tuple[Graph, torch.Tensor]:
        """Record what `work` does; a replay's result lies in the tensor. Raises RuntimeError."""


class DecodeGraphs:
    """Computes steps of one token a row. `compute` is the plain way; `is_ready` says when capturing may begin."""

    def __init__(
        self,
        device: Recorder,
        compute: Callable[[PagedStep], torch.Tensor],
        nobody: int,
        is_ready: Callable[[], bool],
    ) -> None:
        self._device, self._compute = device, compute
        self._nobody, self._is_ready = nobody, is_ready
        self._num_plain: Counter[int] = Counter()
        self._graphs: dict[int, tuple[Graph, torch.Tensor, torch.Tensor]] = {}
        self._refused: set[int] = set()

    @property
    def sizes(self) -> list[int]:
        """What is captured."""
        return sorted(self._graphs)

    def run(self, packed: torch.Tensor) -> torch.Tensor:
        """The logits [rows, vocabulary] of `packed`, [ids, positions, slots] of each row.

        They may be overwritten by the next run, in the order of what the device is told.
        """
        num_rows = packed.shape[1]
        size = _size_of(num_rows)
        if size is None or size in self._refused or not self._is_captured(size, packed):
            return self._compute(PagedStep.of_singles(packed))
        graph, inputs, logits = self._graphs[size]
        inputs[:, :num_rows] = packed
        inputs[:2, num_rows:] = 0
        inputs[2, num_rows:] = self._nobody
        graph.replay()
        return logits[:num_rows]

    def _is_captured(self, size: int, packed: torch.Tensor) -> bool:
        if size in self._graphs:
            return True
        self._num_plain[size] += 1
        if self._num_plain[size] <= PLAIN_STEPS or not self._is_ready():
            return False
        inputs = torch.zeros(3, size, dtype=packed.dtype, device=packed.device)
        inputs[2] = self._nobody
        step = PagedStep.of_singles(inputs)
        try:
            graph, logits = self._device.capture(lambda: self._compute(step))
        except RuntimeError:
            self._refused.add(size)
            return False
        self._graphs[size] = graph, inputs, logits
        return True


def _size_of(num_rows: int) -> int | None:
    at = bisect_left(SIZES, num_rows)
    return SIZES[at] if at < len(SIZES) else None
